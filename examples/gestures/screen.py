"""The picture that is shown: the camera's, and beside it what was recognised, and the lift."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from examples.gestures.elevator import FLOORS, METRES_PER_FLOOR, Elevator, floor_of

HEIGHT, PANEL, SHAFT, STRIP = 360, 230, 110, 64
# Blue, green, red, as OpenCV has them.
INK, FAINT, GROUND, MARK = (40, 40, 40), (150, 150, 150), (245, 245, 245), (60, 140, 30)
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Seen:
    """One look.

    Attributes:
        label: the number of the gesture that is likeliest.
        confidences: of all gestures; their sum is 1.
        dense, packed: frames a second that each network alone could do.
    """

    label: int
    confidences: Sequence[float]
    dense: float
    packed: float


def _write(
    picture: np.ndarray, text: str, x: int, y: int, size: float = 0.45, ink: tuple = INK
) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)


def _panel(
    seen: Seen,
    classes: Sequence[str],
    pictures: Sequence[np.ndarray],
    rendered: bool,
    wanted: float,
) -> np.ndarray:
    """(HEIGHT, PANEL, 3): the gesture with its picture, the likeliest three, the speeds."""
    panel = np.full((HEIGHT, PANEL, 3), GROUND, dtype=np.uint8)
    best = seen.confidences[seen.label]
    sure = best >= wanted
    _write(panel, classes[seen.label], 10, 28, 0.65, MARK if sure else FAINT)
    _write(panel, f"{best:.0%}" + ("" if sure else f", below {wanted:.0%}"), 10, 50)
    # Pictures are of the size that the network learned from, mostly smaller.
    reference = cv2.resize(pictures[seen.label], (96, 96), interpolation=cv2.INTER_CUBIC)
    panel[62:158, 10:106] = reference[:, :, ::-1]
    _write(panel, "reference", 114, 76, 0.4, FAINT)
    if rendered:
        _write(panel, "(rendered)", 114, 94, 0.4, FAINT)
    order = sorted(range(len(classes)), key=lambda n: -seen.confidences[n])
    for row, number in enumerate(order[:3]):
        y = 182 + 26 * row
        length = round((PANEL - 20) * seen.confidences[number])
        cv2.rectangle(panel, (10, y + 5), (10 + max(length, 1), y + 10), MARK, -1)
        _write(panel, f"{classes[number]}  {seen.confidences[number]:.1%}", 10, y, 0.4)
    _write(panel, f"dense   {seen.dense:7.0f} frames/s", 10, 290)
    _write(panel, f"packed  {seen.packed:7.0f} frames/s", 10, 312)
    _write(panel, f"packed / dense {seen.packed / seen.dense:.2f}x", 10, 334, 0.45, MARK)
    return panel


def _shaft(lift: Elevator) -> np.ndarray:
    """(HEIGHT, SHAFT, 3): the floors, where the car is, and where it goes."""
    shaft = np.full((HEIGHT, SHAFT, 3), GROUND, dtype=np.uint8)
    storey = (HEIGHT - 30) / FLOORS
    for floor in range(FLOORS):
        y = round(HEIGHT - 8 - storey * floor)
        cv2.line(shaft, (34, y), (SHAFT - 12, y), (215, 215, 215), 1)
        called = floor == lift.target
        _write(shaft, f"{floor:2}", 8, y - 6, 0.45 if called else 0.4, MARK if called else FAINT)
    bottom = HEIGHT - 9 - storey * lift.metres / METRES_PER_FLOOR
    corners = (40, round(bottom - storey + 5)), (SHAFT - 18, round(bottom))
    cv2.rectangle(shaft, *corners, MARK if lift.moving else INK, -1)
    state = f"to {lift.target}" if lift.moving else f"at {lift.floor}"
    _write(shaft, f"lift {state}", 8, 16, 0.42)
    return shaft


def _strip(
    width: int, label: int, classes: Sequence[str], pictures: Sequence[np.ndarray]
) -> np.ndarray:
    """(STRIP, width, 3): a small picture of each gesture with its floor, the seen one framed."""
    strip = np.full((STRIP, width, 3), GROUND, dtype=np.uint8)
    side = min(STRIP - 18, width // len(classes) - 4)
    for number, (name, picture) in enumerate(zip(classes, pictures, strict=True)):
        x = number * width // len(classes) + 2
        small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        strip[2 : 2 + side, x : x + side] = small[:, :, ::-1]
        if number == label:
            cv2.rectangle(strip, (x - 1, 1), (x + side, 2 + side), MARK, 2)
        floor = floor_of(name)
        _write(strip, "-" if floor is None else str(floor), x, side + 15, 0.38)
    return strip


def drawn(
    frame: np.ndarray,
    box: Box,
    seen: Seen,
    lift: Elevator,
    classes: Sequence[str],
    pictures: Sequence[np.ndarray],
    rendered: bool,
) -> np.ndarray:
    """The whole picture, BGR, of a size that depends on the frame's shape alone.

    Args:
        frame: (H, W, 3), BGR.
        box: x, y, width and height of what the network sees of it.
        seen, lift: what is to be shown.
        classes, pictures: of the gestures; pictures are RGB.
        rendered: whether these are no photographs.
    """
    scale = HEIGHT / frame.shape[0]
    wide = max(1, round(frame.shape[1] * scale))
    wide += (wide + PANEL + SHAFT) % 2  # videos have even sides
    camera = cv2.resize(frame, (wide, HEIGHT))
    x, y, w, h = (round(scale * side) for side in box)
    cv2.rectangle(camera, (x, y), (min(x + w, wide) - 1, min(y + h, HEIGHT) - 1), MARK, 2)
    panel = _panel(seen, classes, pictures, rendered, lift.confidence)
    top = np.concatenate([camera, panel, _shaft(lift)], 1)
    return np.concatenate([top, _strip(top.shape[1], seen.label, classes, pictures)], 0)
