"""What the launchers share: the geometry of a convolution, and the memory for its output."""

from typing import Any, NamedTuple

import torch
import triton.language as tl
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


def output(x: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Memory for y (N, channels, *size), channels_last if x is."""
    return torch.empty(
        (x.shape[0], channels, *size),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format,
    )


def tiled(y: Tensor, block_pixels: int) -> dict[str, Any]:
    """The arguments that say which pixels of y a program has."""
    pixels = y.shape[0] * y.shape[2] * y.shape[3]
    return {
        "pixels": pixels,
        "y_size": tuple(y.shape[2:]),
        "y_strides": y.stride(),
        "BLOCK_PIXELS": block_pixels,
        "INDEX": tl.int64 if pixels + block_pixels > INT32_MAX else tl.int32,
    }


def reads(x: Tensor, geometry: Geometry) -> dict[str, Any]:
    """The arguments that say where a convolution reads x."""
    return {
        "x_size": tuple(x.shape[2:]),
        "x_strides": x.stride(),
        "steps": (geometry.stride, geometry.padding, geometry.dilation),
        "TAPS": geometry.kernel[0] * geometry.kernel[1],
        "KERNEL_W": geometry.kernel[1],
        "UP_H": geometry.up[0],
        "UP_W": geometry.up[1],
    }


def epilogue(
    y: Tensor, bias: Tensor | None, residual: Tensor | None, activation: int
) -> dict[str, Any]:
    """The arguments of what is done to a sum before it is stored: bias, residual, activation."""
    return {
        "bias_ptr": bias,
        "residual_ptr": residual,
        "r_strides": (y if residual is None else residual).stride(),
        "HAS_BIAS": bias is not None,
        "HAS_RESIDUAL": residual is not None,
        "ACTIVATION": activation,
    }
