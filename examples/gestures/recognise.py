"""Recognises hand gestures with a packed network, and sends a simulated lift to their floors.

    python -m examples.gestures.recognise 0                            # the first camera
    python -m examples.gestures.recognise clip.mp4 --out annotated.mp4   # a video, without a screen
    python -m examples.gestures.recognise photographs/ --out annotated.mp4
    python -m examples.gestures.recognise 0 --roi 100,60,200,200       # x, y, width, height

In the window: drag the mouse to choose what is looked at, `r` for the whole frame, `s` saves a
picture, `q` ends. Both networks see each frame: the packed one, which gives the label, and the
dense one, which is PyTorch running the pruned network as it was trained. Their speeds are those of
the networks alone. OpenCV comes with the extra `gestures`; a machine without a graphics library
needs opencv-python-headless in its place, and --out.
"""

import argparse
import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from examples.gestures.elevator import Elevator, floor_of
from examples.gestures.model import load, prepared
from sparse_ops.data.images import ENDINGS

try:
    import cv2

    from examples.gestures.screen import HEIGHT, Box, Seen, drawn
except ImportError as error:
    sys.exit(f"this example needs OpenCV (pip install 'sparse-ops[gestures]'): {error}")

TITLE = "Gestures"
# A folder's images are shown for one second each.
FOLDER_RATE = 10.0


@dataclass(frozen=True)
class Source:
    """Where frames come from.

    Attributes:
        frames: (H, W, 3), BGR, one after the other.
        rate: frames a second; None: as they come, by the clock.
    """

    frames: Iterator[np.ndarray]
    rate: float | None


def opened(name: str) -> Source:
    """A camera by its number, a folder of images, or a video file.

    Raises:
        ValueError: it cannot be opened, or holds no frames.
    """
    if Path(name).is_dir():
        files = sorted(f for f in Path(name).rglob("*") if f.suffix.lower() in ENDINGS)
        if not files:
            raise ValueError(f"{name} must hold {', '.join(sorted(ENDINGS))} files")
        return Source(_images(files, round(FOLDER_RATE)), FOLDER_RATE)
    camera = name.isdecimal()  # a file of such a name is ./0
    if not camera and not Path(name).is_file():
        raise ValueError(f"{name} must be a camera's number, a video file or a folder of images")
    capture = cv2.VideoCapture(int(name) if camera else name)
    if not capture.isOpened():
        raise ValueError(f"OpenCV cannot open {f'camera {name}' if camera else name}")
    rate = None if camera else capture.get(cv2.CAP_PROP_FPS) or 25.0
    return Source(_captured(capture), rate)


def _images(files: list[Path], times: int) -> Iterator[np.ndarray]:
    first = None
    for file in files:
        frame = cv2.imread(str(file))
        if frame is None:
            raise ValueError(f"{file} is not an image that can be read")
        # All frames of a video are of one size.
        first = frame.shape if first is None else first
        frame = cv2.resize(frame, (first[1], first[0])) if frame.shape != first else frame
        yield from (frame for _ in range(times))


def _captured(capture: "cv2.VideoCapture") -> Iterator[np.ndarray]:
    try:
        while True:
            there, frame = capture.read()
            if not there:
                return
            yield frame
    finally:
        capture.release()


def box_of(text: str) -> Box:
    """x,y,width,height."""
    try:
        x, y, w, h = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"x,y,width,height were wanted, got {text}") from None
    if x < 0 or y < 0 or w < 1 or h < 1:
        raise argparse.ArgumentTypeError(f"x and y from 0, sides from 1 were wanted, got {text}")
    return x, y, w, h


def within(box: Box | None, frame: np.ndarray) -> Box:
    """What of a box lies in the frame; the whole frame where there is no box.

    Raises:
        ValueError: nothing of it does.
    """
    high, wide = frame.shape[:2]
    if box is None:
        return 0, 0, wide, high
    x, y, w, h = box
    w, h = min(w, wide - x), min(h, high - y)
    if w < 1 or h < 1:
        raise ValueError(f"the region {box} lies outside of a frame of {wide}×{high}")
    return x, y, w, h


class Timed:
    """A network, and how many images a second it did of late."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model = model
        self.times: deque[float] = deque(maxlen=30)
        with torch.inference_mode():
            for _ in range(3):
                model(example)

    def __call__(self, x: Tensor) -> Tensor:
        begun = time.perf_counter()
        y: Tensor = self.model(x)
        self.times.append(time.perf_counter() - begun)
        return y

    @property
    def rate(self) -> float:
        return 1 / statistics.median(self.times)


class Window:
    """Shows pictures, and takes the region of interest from the mouse, all else from keys."""

    def __init__(self, box: Box | None) -> None:
        self.box = box
        self.scale = 1.0
        self._corner: tuple[int, int] | None = None
        cv2.namedWindow(TITLE)
        cv2.setMouseCallback(TITLE, self.mouse)

    def mouse(self, event: int, x: int, y: int, *_: object) -> None:
        """A drag from corner to corner is the new region; a click alone changes nothing."""
        if event == cv2.EVENT_LBUTTONDOWN:
            self._corner = x, y
        elif event == cv2.EVENT_LBUTTONUP and self._corner is not None:
            sides = zip(self._corner, (x, y), strict=True)
            (left, right), (top, bottom) = (
                sorted(max(0, round(s / self.scale)) for s in p) for p in sides
            )
            if right - left >= 8 and bottom - top >= 8:
                self.box = left, top, right - left, bottom - top
            self._corner = None

    def show(self, picture: np.ndarray, scale: float) -> bool:
        """Shows a picture whose frame is drawn `scale` times as large; False when all is over."""
        self.scale = scale
        cv2.imshow(TITLE, picture)
        key = chr(cv2.waitKey(1) & 0xFF)
        if key == "r":
            self.box = None
        elif key == "s":
            file = time.strftime("gesture-%Y%m%d-%H%M%S.png")
            cv2.imwrite(file, picture)
            print(f"{file} is written", flush=True)
        return key not in ("q", "\x1b")


def writer(file: Path, picture: np.ndarray, rate: float) -> "cv2.VideoWriter":
    """A video of pictures like this one, in the format that the file's ending stands for.

    Raises:
        ValueError: OpenCV cannot write such a file.
    """
    codec = "MJPG" if file.suffix.lower() == ".avi" else "mp4v"
    file.parent.mkdir(parents=True, exist_ok=True)
    size = picture.shape[1], picture.shape[0]
    video = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*codec), rate, size)
    if not video.isOpened():
        raise ValueError(f"OpenCV cannot write {file}; endings that it knows: .mp4, .avi")
    return video


def has_screen() -> bool:
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def run(given: argparse.Namespace) -> dict[str, list]:
    """Goes through all frames.

    Raises:
        ValueError: the source, the region, the model or the output will not do; says why.
        FileNotFoundError: a file of the model is missing.
    """
    settings, dense, packed, pictures = load(given.model)
    lift = Elevator(given.hold, given.confidence)
    source = opened(given.source)
    example = torch.zeros(1, 3, settings.size, settings.size)
    networks = [Timed(dense, example), Timed(packed, example)]
    window = None if given.out else Window(given.roi)
    video = None
    found: dict[str, list] = {"labels": [], "floors": [], "agree": []}
    before = time.perf_counter()
    for number, frame in enumerate(source.frames):
        if number == given.frames:
            break
        frame = np.ascontiguousarray(frame[:, ::-1]) if given.mirror else frame
        box = within(window.box if window else given.roi, frame)
        x, y, w, h = box
        looked_at = prepared(np.ascontiguousarray(frame[y : y + h, x : x + w, ::-1]), settings.size)
        with torch.inference_mode():
            other, logits = (network(looked_at)[0] for network in networks)
        label = int(logits.argmax())
        confidences = logits.softmax(0).tolist()
        lift.see(floor_of(settings.classes[label]), confidences[label])
        now = time.perf_counter()
        lift.move(now - before if source.rate is None else 1 / source.rate)
        before = now
        seen = Seen(label, confidences, *(network.rate for network in networks))
        picture = drawn(frame, box, seen, lift, settings.classes, pictures, settings.rendered)
        found["labels"].append(settings.classes[label])
        found["floors"].append(lift.floor)
        found["agree"].append(label == int(other.argmax()))
        if window is not None:
            if not window.show(picture, HEIGHT / frame.shape[0]):
                break
            continue
        if video is None:
            # Of a camera's rate nothing is known before.
            video = writer(given.out, picture, source.rate or 15.0)
        video.write(picture)
    if not found["labels"]:
        raise ValueError(f"{given.source} holds no frame that OpenCV can read")
    if video is not None:
        video.release()
    print(
        f"{len(found['labels'])} frames, dense and packed agree in {sum(found['agree'])}; "
        f"frames a second, of the networks alone: dense {networks[0].rate:.0f}, packed "
        f"{networks[1].rate:.0f}; the lift is at {lift.floor}, called to {lift.target}"
    )
    return found


def main(arguments: list[str] | None = None) -> dict[str, list]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a camera's number, a video file, or a folder of images")
    parser.add_argument("--model", type=Path, default=Path("gestures-run"), help="of train.py")
    parser.add_argument("--roi", type=box_of, help="x,y,width,height in the frame; default: all")
    parser.add_argument("--mirror", action="store_true", help="a right hand looks like a left one")
    parser.add_argument("--confidence", type=float, default=0.8, help="that the lift obeys")
    parser.add_argument("--hold", type=int, default=8, help="frames alike until the lift obeys")
    parser.add_argument("--frames", type=int, help="at most so many; default: all")
    parser.add_argument("--out", type=Path, help="writes a video, .mp4 or .avi, and shows nothing")
    given = parser.parse_args(arguments)
    if given.out is None and not has_screen():
        sys.exit("there is no screen here: --out annotated.mp4 writes a video instead")
    try:
        return run(given)
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
