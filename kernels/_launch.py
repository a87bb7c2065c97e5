"""What the launchers of Triton kernels share: the memory for an output, and common arguments."""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ._geometry import INT32_MAX, Geometry, is_channels_last


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
