"""A hand of boxes, a box a bone, as a binary glTF file: what a rigged hand is, without one."""

import itertools
import json
import struct
from pathlib import Path

import numpy as np

from examples.gestures.hand import JOINTS, TURN

# Where the fingers begin and how long their bones are, in metres, as the palm is seen.
ROOTS = {
    "index": (-0.03, 0.0, 0.0),
    "middle": (-0.01, 0.0, 0.0),
    "ring": (0.01, 0.0, 0.0),
    "pinky": (0.03, 0.0, 0.0),
    "thumb": (-0.03, -0.06, 0.0),
}
BONE, THICK = 0.03, 0.007
ASIDE = np.array([-1.0, 0.7, 0.0]) / np.hypot(1.0, 0.7)
# A cube's corners by their three bits, and its sides, counterclockwise from outside.
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
SIDES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
TRIANGLES = np.array([t for a, b, c, d in SIDES for t in ((a, b, c), (a, c, d))])


def places() -> dict[str, np.ndarray]:
    """Each joint of the fingers, then the wrist; in the coordinates of `hand.py`."""
    found = {}
    for finger, joints in JOINTS.items():
        along = ASIDE if finger == "thumb" else np.array([0.0, 1, 0])
        for number, joint in enumerate(joints):
            found[joint] = np.array(ROOTS[finger]) + number * BONE * along
    return found | {"wrist": np.array([0.0, -0.08, 0])}


def box(start: np.ndarray, end: np.ndarray, wide: float) -> np.ndarray:
    """(8, 3): corners of a box from a point to another, `wide` to either side and THICK deep."""
    along = (end - start) / 2
    aside = np.cross(along / np.linalg.norm(along), [0, 0, 1]) * wide
    return (start + end) / 2 + CORNERS @ np.stack([aside, along, [0, 0, THICK]])


def write_hand(file: Path) -> Path:
    joints = places()
    names = list(joints)
    boxes = [(box(joints["wrist"], np.array([0.0, 0, 0]), 0.04), names.index("wrist"))]
    for chain in JOINTS.values():
        for first, second in itertools.pairwise(chain):
            boxes.append((box(joints[first], joints[second], THICK), names.index(first)))
    vertices = np.concatenate([corners for corners, _ in boxes]) @ TURN
    follows = np.zeros((len(vertices), 4), dtype=np.uint8)
    follows[:, 0] = np.repeat([joint for _, joint in boxes], 8)
    weights = np.tile([1.0, 0, 0, 0], (len(vertices), 1))
    triangles = np.concatenate([TRIANGLES + 8 * n for n in range(len(boxes))])
    inverse = np.tile(np.eye(4), (len(names), 1, 1))
    # Column by column.
    inverse[:, 3, :3] = -np.array(list(joints.values())) @ TURN
    arrays = [
        (vertices.astype("<f4"), "VEC3", 5126),
        (follows, "VEC4", 5121),
        (weights.astype("<f4"), "VEC4", 5126),
        (triangles.astype("<u2").reshape(-1, 1), "SCALAR", 5123),
        (inverse.astype("<f4").reshape(-1, 16), "MAT4", 5126),
    ]
    data, accessors, views = b"", [], []
    for number, (array, kind, component) in enumerate(arrays):
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": array.nbytes})
        accessors.append(
            {"bufferView": number, "componentType": component, "count": len(array), "type": kind}
        )
        data += array.tobytes() + bytes(-array.nbytes % 4)
    attributes = {"POSITION": 0, "JOINTS_0": 1, "WEIGHTS_0": 2}
    about = {
        "asset": {"version": "2.0"},
        "nodes": [{"name": name} for name in names],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 3}]}],
        "skins": [{"joints": list(range(len(names))), "inverseBindMatrices": 4}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(data)}],
    }
    text = json.dumps(about).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text
    body += struct.pack("<I4s", len(data), b"BIN\0") + data
    file.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body)
    return file
