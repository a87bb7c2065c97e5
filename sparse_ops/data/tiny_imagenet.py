"""Tiny ImageNet: 200 classes, images of 64×64 as JPEG files.

train/<class>/images/*.JPEG     to learn from; a class is a WordNet id, such as n01443537
val/images/*.JPEG               to test on, as the labels of the test images were never given out
val/val_annotations.txt         a line an image: file, class, a box; divided by tabs
words.txt                       a line a class: class, name; divided by a tab; need not be there
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparse_ops.data.augment import Normalize

SIDE = 64
ENDINGS = {".jpeg", ".jpg", ".png"}
NORMALIZE = Normalize((0.48024579, 0.44807218, 0.39754775), (0.27698641, 0.26906449, 0.28208191))
Pair = tuple[Tensor, Tensor]


def read_tiny_imagenet(folder: Path) -> tuple[Pair, Pair, tuple[str, ...]]:
    """((images (N, 3, 64, 64) uint8, labels (N,)) to train on, the same to test on, class names).

    The files may be in `folder` or in the `tiny-imagenet-200` in it. Classes are numbered in the
    order of their WordNet ids.

    Raises:
        ValueError: a file is no image of 64×64, or the annotations do not fit the files.
        FileNotFoundError: something is missing; the message says what.
        ImportError: pillow is not installed.
    """
    inner = folder / "tiny-imagenet-200"
    place = inner if inner.is_dir() else folder
    annotations = place / "val" / "val_annotations.txt"
    if not (place / "train").is_dir() or not annotations.is_file():
        raise FileNotFoundError(
            f"put train/<class>/images and val/val_annotations.txt, with val/images, into {folder}"
        )
    classes = sorted(entry.name for entry in (place / "train").iterdir() if entry.is_dir())
    numbers = {name: label for label, name in enumerate(classes)}
    files: list[Path] = []
    labels: list[int] = []
    for name in classes:
        images = place / "train" / name / "images"
        found = sorted(images.iterdir()) if images.is_dir() else []
        found = [file for file in found if file.suffix.lower() in ENDINGS]
        if not found:
            raise ValueError(f"{images} must hold {', '.join(sorted(ENDINGS))} files")
        files += found
        labels += [numbers[name]] * len(found)
    if not files:
        raise ValueError(f"{place / 'train'} must hold one folder for each class, got none")
    test_files, test_labels = _annotated(annotations, numbers)
    train, test = _read(files, labels), _read(test_files, test_labels)
    return train, test, _names(place / "words.txt", classes)


def _annotated(path: Path, numbers: dict[str, int]) -> tuple[list[Path], list[int]]:
    files, labels = [], []
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1):
        if not line.strip():
            continue
        file, _, rest = line.partition("\t")
        name = rest.partition("\t")[0].strip()
        if name not in numbers:
            raise ValueError(f"{path}, line {number}: {name!r} is no class of the training images")
        # A file name, not a path: an annotation does not lead out of the folder.
        if Path(file).name != file:
            raise ValueError(f"{path}, line {number}: {file!r} must be the name of a file")
        files.append(path.parent / "images" / file)
        labels.append(numbers[name])
    if not files:
        raise ValueError(f"{path} must name the images to test on, got none")
    return files, labels


def _read(files: Sequence[Path], labels: list[int]) -> Pair:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "Tiny ImageNet is read with pillow: pip install 'sparse-ops[images]'"
        ) from error
    images = torch.empty(len(files), 3, SIDE, SIDE, dtype=torch.uint8)
    for index, file in enumerate(files):
        if not file.is_file():
            raise FileNotFoundError(f"there is no {file}, though it is named as an image")
        try:
            with Image.open(file) as image:
                # Some are grey.
                pixels = np.array(image.convert("RGB"))
        # Pillow's refusals have no common base below Exception; a bomb is one of them.
        except Exception as error:
            raise ValueError(f"{file} is not an image that can be read: {error}") from error
        if pixels.shape != (SIDE, SIDE, 3):
            H, W = pixels.shape[:2]
            raise ValueError(f"{file} must be of {SIDE}×{SIDE}, got {W}×{H}")
        images[index] = torch.from_numpy(pixels).permute(2, 0, 1)
    return images, torch.tensor(labels, dtype=torch.int64)


def _names(path: Path, classes: list[str]) -> tuple[str, ...]:
    """What `words.txt` calls the classes; their ids where it does not."""
    words = {}
    if path.is_file():
        for line in path.read_text("utf-8", "replace").splitlines():
            name, _, text = line.partition("\t")
            words[name] = text.strip()
    return tuple(words.get(name) or name for name in classes)
