"""Data sets as tensors, and batches of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: (N, C, H, W), float32, normalized.
        labels: (N,), int64.

    Raises:
        ValueError: the two are of other shapes or types, or not equally many.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.images.dtype != torch.float32:
            raise ValueError(
                "images must be (N, C, H, W) and float32, "
                f"got {tuple(self.images.shape)} and {self.images.dtype}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be ({len(self.images)},) and int64, "
                f"got {tuple(self.labels.shape)} and {self.labels.dtype}"
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a model learns from, and what it is reported on and never learns from.

    Attributes:
        name: as `load` takes it.
        train, test: no image is in both.
        classes: the name of each label, from 0.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]


class Batches:
    """The batches of a split, again from the start each time they are iterated over.

    Each iteration draws a new order from `generator`, so that two runs with generators of the same
    seed see the same batches. The last batch may be smaller.
    """

    def __init__(
        self, split: Split, batch_size: int, generator: torch.Generator | None, shuffle: bool
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if len(split) == 0:
            raise ValueError("the split has no images")
        self.split = split
        self.batch_size = batch_size
        self.generator = generator
        self.shuffle = shuffle

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.split.images, self.split.labels
        if not self.shuffle:
            yield from zip(
                images.split(self.batch_size), labels.split(self.batch_size), strict=True
            )
            return
        order = torch.randperm(len(self.split), generator=self.generator)
        for index in order.to(labels.device).split(self.batch_size):
            yield images[index], labels[index]


def batches(
    split: Split,
    batch_size: int,
    generator: torch.Generator | None = None,
    shuffle: bool = True,
) -> Batches:
    """The batches of a split; iterate over them once an epoch.

    Args:
        split: what to take the batches from.
        batch_size: the last batch may be smaller.
        generator: of the order, on the CPU; default: torch's global one.
        shuffle: False for the order of the split.

    Raises:
        ValueError: batch_size is below 1, or the split is empty.
    """
    return Batches(split, batch_size, generator, shuffle)
