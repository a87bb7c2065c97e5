"""Classes: which channels of which values can only go, or move, together.

A channel has an id. Values that are added up have their channels' ids joined into one class; a
pooled or flattened value has the ids of what it was made of. A class is removed as a whole, from
every value and every parameter, or it stays.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

NOT_CONSTANT = float("nan")


@dataclass(frozen=True, eq=False)
class Channels:
    """What is known of the channels of one value.

    Attributes:
        ids: in order; a flattened value has an id as often as it has pixels.
        constant: (channels), float64: the number that each channel is, in every pixel of every
            image; NaN where it is not always the same.
        axis: which dimension the channels are.
    """

    ids: tuple[int, ...]
    constant: Tensor
    axis: int

    def with_constant(self, constant: Tensor) -> "Channels":
        """The same channels; numbers that are not finite are no constants."""
        finite = torch.where(constant.isfinite(), constant, NOT_CONSTANT)
        return replace(self, constant=finite)


def varying(count: int) -> Tensor:
    """The constants of channels of which none is."""
    return torch.full((count,), NOT_CONSTANT, dtype=torch.float64)


class Classes:
    """Classes of channel ids, and why some of them must stay."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._stays: dict[int, str] = {}

    def new(self, count: int, stays: str | None = None) -> tuple[int, ...]:
        """Ids of new channels, each in a class of its own."""
        first = len(self._parent)
        ids = tuple(range(first, first + count))
        self._parent.extend(ids)
        if stays is not None:
            self.keep(ids, stays)
        return ids

    def of(self, id_: int) -> int:
        """The class of an id; it is the same number as long as nothing is joined."""
        root = id_
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[id_] != root:
            self._parent[id_], id_ = root, self._parent[id_]
        return root

    def join(self, left: tuple[int, ...], right: tuple[int, ...]) -> None:
        """Makes the classes of two values' channels one each, by place."""
        for a, b in zip(left, right, strict=True):
            a, b = self.of(a), self.of(b)
            if a != b:
                self._parent[b] = a
                if b in self._stays:
                    self._stays.setdefault(a, self._stays.pop(b))

    def keep(self, ids: tuple[int, ...], reason: str) -> None:
        """Says that channels must stay; the first reason is the one that counts."""
        for id_ in ids:
            self._stays.setdefault(self.of(id_), reason)

    def stays(self, id_: int) -> str | None:
        """Why the class of an id must stay, or None."""
        return self._stays.get(self.of(id_))
