"""The geometry of a convolution. Needs torch only."""

from typing import NamedTuple

import torch
from torch import Tensor

INT32_MAX = 2**31 - 1


class Geometry(NamedTuple):
    """Where a kernel goes: (h, w) each.

    Attributes:
        up: how far apart the pixels of x stand, with zeros between them (`_device.gathered`).
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    up: tuple[int, int] = (1, 1)

    @classmethod
    def of(
        cls, weight_shape: list[int], stride: list[int], padding: list[int], dilation: list[int]
    ) -> "Geometry":
        kernel, *rest = ((a, b) for a, b in (weight_shape[2:], stride, padding, dilation))
        return cls(kernel, *rest)

    def transposed(self) -> "Geometry":
        """That of the gradient: from the output's gradient, with the flipped kernel, to x's."""
        padding = tuple(
            d * (k - 1) - p
            for k, p, d in zip(self.kernel, self.padding, self.dilation, strict=True)
        )
        return Geometry(self.kernel, (1, 1), padding, self.dilation, self.stride)

    def out(self, x: Tensor) -> tuple[int, int]:
        """(H', W')."""
        height, width = (
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(
                x.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return height, width


def is_channels_last(x: Tensor) -> bool:
    """Whether x (N, C, H, W) is in channels_last, and in nothing else at the same time."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
