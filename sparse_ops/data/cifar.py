"""CIFAR-10 and CIFAR-100, from the files of either archive: the Python or the binary version.

Each image is 3072 bytes: 32×32 of red, then of green, then of blue, row by row. In a binary file
the labels stand before them, a byte each; CIFAR-100 has two, of which the second is the fine one.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparse_ops.data.augment import Normalize
from sparse_ops.data.pickled import read_pickled

IMAGE = (3, 32, 32)
PIXELS = 3 * 32 * 32
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Version:
    """One of the sets, and what its files are called.

    Attributes:
        classes: how many there are.
        folders: what the archives unpack to, Python's and the binary one's.
        pickled, binary: (files to train on, files to test on).
        labels, names: keys of the labels, and of the classes' names in `meta`.
        meta: the file of the names, Python's and the binary one's.
        label_bytes: before each image of a binary file.
        normalize: by the training images, as published recipes have it.
    """

    classes: int
    folders: tuple[str, str]
    pickled: tuple[tuple[str, ...], tuple[str, ...]]
    binary: tuple[tuple[str, ...], tuple[str, ...]]
    labels: str
    names: str
    meta: tuple[str, str]
    label_bytes: int
    normalize: Normalize


CIFAR10 = Version(
    10,
    ("cifar-10-batches-py", "cifar-10-batches-bin"),
    (tuple(f"data_batch_{n}" for n in range(1, 6)), ("test_batch",)),
    (tuple(f"data_batch_{n}.bin" for n in range(1, 6)), ("test_batch.bin",)),
    "labels",
    "label_names",
    ("batches.meta", "batches.meta.txt"),
    1,
    Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
)
CIFAR100 = Version(
    100,
    ("cifar-100-python", "cifar-100-binary"),
    (("train",), ("test",)),
    (("train.bin",), ("test.bin",)),
    "fine_labels",
    "fine_label_names",
    ("meta", "fine_label_names.txt"),
    2,
    Normalize((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
)


def read_cifar(folder: Path, version: Version) -> tuple[Pair, Pair, tuple[str, ...]]:
    """((images (N, 3, 32, 32) uint8, labels (N,)) to train on, the same to test on, class names).

    The files may be in `folder`, or in the folder in it that their archive unpacks to. The Python
    version is taken where both are there; without names, classes are called by their numbers.

    Raises:
        ValueError: a file is damaged, or not of this set.
        FileNotFoundError: files are missing; the message says which.
    """
    for place in (folder, *(folder / name for name in version.folders)):
        for files, pickled in ((version.pickled, True), (version.binary, False)):
            if any((place / name).is_file() for name in files[0]):
                train, test = (_read(place, names, version, pickled) for names in files)
                return train, test, _names(place, version, pickled)
    raise FileNotFoundError(
        f"put {', '.join(sum(version.pickled, ()))} (the Python version) or "
        f"{', '.join(sum(version.binary, ()))} (the binary version) into {folder}"
    )


def _read(place: Path, names: tuple[str, ...], version: Version, pickled: bool) -> Pair:
    if missing := [name for name in names if not (place / name).is_file()]:
        raise FileNotFoundError(f"put {', '.join(missing)} into {place}, to the other files")
    pairs = [(_pickled if pickled else _binary)(place / name, version) for name in names]
    return torch.cat([images for images, _ in pairs]), torch.cat([labels for _, labels in pairs])


def _pickled(path: Path, version: Version) -> Pair:
    content = read_pickled(path)
    data, labels = content.get("data"), content.get(version.labels)
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != PIXELS:
        raise ValueError(f"{path} must hold data of {PIXELS} bytes an image")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"{path} must hold a list of numbers called {version.labels}")
    return _checked(path, data, labels, version)


def _binary(path: Path, version: Version) -> Pair:
    size = version.label_bytes + PIXELS
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    if len(content) % size:
        raise ValueError(f"{path} must hold {size} bytes an image, got {len(content)} bytes")
    rows = content.reshape(-1, size)
    return _checked(path, rows[:, -PIXELS:], rows[:, version.label_bytes - 1].tolist(), version)


def _checked(path: Path, data: np.ndarray[Any, Any], labels: list[int], version: Version) -> Pair:
    if len(data) == 0:
        raise ValueError(f"{path} must hold images, got none")
    if len(labels) != len(data):
        raise ValueError(f"{path} must hold {len(data)} labels, one an image, got {len(labels)}")
    if not 0 <= min(labels) <= max(labels) < version.classes:
        wanted = f"labels from 0 to {version.classes - 1}"
        raise ValueError(f"{path} must hold {wanted}, got {min(labels)} to {max(labels)}")
    # A copy: what numpy reads from a file's bytes cannot be written to.
    images = torch.from_numpy(np.array(data)).reshape(-1, *IMAGE)
    return images, torch.tensor(labels, dtype=torch.int64)


def _names(place: Path, version: Version, pickled: bool) -> tuple[str, ...]:
    path = place / version.meta[0 if pickled else 1]
    if not path.is_file():
        return tuple(str(label) for label in range(version.classes))
    found: Any
    if pickled:
        found = read_pickled(path).get(version.names)
        if isinstance(found, list):
            found = [n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in found]
    else:
        found = [line.strip() for line in path.read_text("utf-8", "replace").splitlines()]
        found = [line for line in found if line]
    if (
        not isinstance(found, list)
        or len(found) != version.classes
        or not all(isinstance(name, str) for name in found)
    ):
        raise ValueError(f"{path} must hold {version.classes} names of classes")
    return tuple(found)
