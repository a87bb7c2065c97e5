"""Data sets as tensors, and batches of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_ops.data.augment import Augment, Normalize


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: (N, C, H, W); float32, normalized; or uint8, which takes a quarter of the memory
            and is normalized batch by batch.
        labels: (N,), int64.
        normalize: for uint8 images, and only for them.
        augment: what happens to the images of shuffled batches, before they are normalized.

    Raises:
        ValueError: they are of other shapes or types, or not equally many.
    """

    images: Tensor
    labels: Tensor
    normalize: Normalize | None = None
    augment: Augment | None = None

    def __post_init__(self) -> None:
        wanted = torch.float32 if self.normalize is None else torch.uint8
        if self.images.dim() != 4 or self.images.dtype != wanted:
            kind = "float32" if self.normalize is None else "uint8, to be normalized"
            raise ValueError(
                f"images must be (N, C, H, W) and {kind}, "
                f"got {tuple(self.images.shape)} and {self.images.dtype}"
            )
        if self.normalize is not None and len(self.normalize.mean) != self.images.shape[1]:
            raise ValueError(
                f"normalize must be for {self.images.shape[1]} channels, got {self.normalize}"
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
        for images, labels, _ in self.part(0, 1):
            yield images, labels

    def part(self, rank: int, size: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """What the process `rank` of `size` takes of each batch, and the weight of its mean loss.

        The mean over the processes of weight · mean loss is the mean loss of the whole batch. Who
        is left without an image takes the first one, with weight 0.
        """
        split = self.split
        device = split.labels.device
        if self.shuffle:
            order = torch.randperm(len(split), generator=self.generator)
        else:
            order = torch.arange(len(split))
        for index in order.split(self.batch_size):
            moves = None
            if self.shuffle and split.augment is not None:
                moves = split.augment.draw(len(index), self.generator)
            mine = torch.arange(len(index)).tensor_split(size)[rank]
            weight = len(mine) * size / len(index)
            mine = mine if len(mine) else torch.zeros(1, dtype=torch.int64)
            # A whole batch in the split's order is a view, not a copy.
            whole = not self.shuffle and size == 1
            chosen = slice(int(index[0]), int(index[-1]) + 1) if whole else index[mine].to(device)
            images = split.images[chosen]
            if moves is not None and split.augment is not None:
                images = split.augment.apply(images, moves[mine])
            if split.normalize is not None:
                images = split.normalize.apply(images)
            yield images, split.labels[chosen], weight


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
        generator: of the order and of `split.augment`, on the CPU; default: torch's global one.
        shuffle: False for the order of the split, and its images as they are but for `normalize`.

    Raises:
        ValueError: batch_size is below 1, or the split is empty.
    """
    return Batches(split, batch_size, generator, shuffle)
