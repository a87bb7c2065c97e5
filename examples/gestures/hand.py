"""A hand with bones: read from a binary glTF file, and bent.

Coordinates are those of somebody who looks at the palm of a left hand whose fingers point up: x
goes from the index finger to the pinky, y up, z out of the palm. Lengths are in metres.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FINGERS = ("thumb", "index", "middle", "ring", "pinky")
# The joints that bend, from the palm outwards; the tip ends the last bone.
JOINTS = {
    finger: [f"{finger}-finger-phalanx-{part}" for part in ("proximal", "intermediate", "distal")]
    + [f"{finger}-finger-tip"]
    for finger in FINGERS[1:]
} | {"thumb": ["thumb-metacarpal", "thumb-phalanx-proximal", "thumb-phalanx-distal", "thumb-tip"]}
# glTF's names of number types, and how many numbers an element has.
TYPES = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
# Of glTF's x, y, z, in which the fingers point to -y and the palm to x: (x, y, z) of ours.
TURN = np.array([[0.0, 0, 1], [0, -1, 0], [1, 0, 0]])


@dataclass(frozen=True, eq=False)
class Hand:
    """A mesh and what bends it.

    Attributes:
        vertices: (V, 3).
        triangles: (T, 3), numbers of vertices.
        joints: (V, 4), the numbers of the joints that each vertex follows.
        weights: (V, 4), how much it follows each.
        places: joint's name -> where it is, (3,); in the order of their numbers.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    joints: np.ndarray
    weights: np.ndarray
    places: dict[str, np.ndarray]


def read_hand(file: Path) -> Hand:
    """Reads the first mesh and skin of a .glb file.

    Raises:
        ValueError: it is no binary glTF 2 file, or not of such a hand; says what is missing.
        FileNotFoundError: there is no such file.
    """
    data = file.read_bytes()
    if len(data) < 20 or struct.unpack("<4sI", data[:8]) != (b"glTF", 2):
        raise ValueError(f"{file} must be a binary glTF 2 file, got {data[:8]!r} at its beginning")
    length = struct.unpack("<I", data[12:16])[0]
    try:
        about = json.loads(data[20 : 20 + length])
        numbers = data[28 + length :]
        mesh = about["meshes"][0]["primitives"][0]
        read = {name: _array(about, numbers, n) for name, n in mesh["attributes"].items()}
        skin = about["skins"][0]
        inverse = _array(about, numbers, skin["inverseBindMatrices"]).reshape(-1, 4, 4)
        # glTF writes matrices column by column: the last row is the place.
        bind = np.linalg.inv(inverse.astype(np.float64))[:, 3, :3] @ TURN.T
        names = [about["nodes"][node]["name"] for node in skin["joints"]]
        hand = Hand(
            read["POSITION"] @ TURN.T,
            _array(about, numbers, mesh["indices"]).reshape(-1, 3).astype(np.int64),
            read["JOINTS_0"].astype(np.int64),
            read["WEIGHTS_0"].astype(np.float64),
            dict(zip(names, bind, strict=True)),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{file} has no mesh with bones that can be read: {error!r}") from error
    if missing := [j for joints in JOINTS.values() for j in joints if j not in hand.places]:
        raise ValueError(f"{file} must have the joints of a hand, got none called {missing[0]}")
    return hand


def _array(about: dict, numbers: bytes, which: int) -> np.ndarray:
    """An accessor of the file, (count, width); its view must have no gaps."""
    accessor = about["accessors"][which]
    view = about["bufferViews"][accessor["bufferView"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    width = WIDTHS[accessor["type"]]
    dtype = TYPES[accessor["componentType"]]
    if view.get("byteStride", 0) not in (0, width * np.dtype(dtype).itemsize):
        raise ValueError(f"accessor {which} is interleaved")
    count = accessor["count"] * width
    return np.frombuffer(numbers, dtype, count, start).reshape(-1, width)


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """(3, 3): turns by an angle in radians about an axis, counterclockwise seen from its tip."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def bent(hand: Hand, curls: Mapping[str, float]) -> np.ndarray:
    """The vertices, (V, 3), when each joint of a finger is bent by its angle in radians.

    The thumb bends across the palm, the others towards it.
    """
    number = {name: n for n, name in enumerate(hand.places)}
    turns = np.tile(np.eye(3), (len(number), 1, 1))
    rest = np.array(list(hand.places.values()))
    places = rest.copy()
    across = rest[number[JOINTS["pinky"][0]]] - rest[number[JOINTS["index"][0]]]
    for finger, joints in JOINTS.items():
        # The thumb's axis leans: its tip comes to lie on the bent fingers.
        axis = np.array([0.35, 1.0, 0.2]) if finger == "thumb" else across
        moved = [number[name] for name in joints]
        for first in range(len(moved) - 1):
            turn = rotation(axis, curls[finger])
            origin = places[moved[first]].copy()
            for joint in moved[first:]:
                turns[joint] = turn @ turns[joint]
                places[joint] = turn @ (places[joint] - origin) + origin
    # Each vertex as each of its joints would move it, (V, 4, 3), and the mean of these.
    away = hand.vertices[:, None] - rest[hand.joints]
    moved_to = np.einsum("vjab,vjb->vja", turns[hand.joints], away) + places[hand.joints]
    return np.einsum("vj,vja->va", hand.weights, moved_to)
