"""What the launchers share: the geometry of a convolution, and the memory for its output."""

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

INT32_MAX = 2**31 - 1


class Plane(NamedTuple):
    """The sizes of one convolution, as its kernels want them.

    Attributes:
        pixels: of all images of the output.
        out_h, out_w: of one of them.
    """

    pixels: int
    out_h: int
    out_w: int


def output(
    x: Tensor,
    weight_shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> tuple[Tensor, Plane]:
    """Memory for y (N, O, H', W'), channels_last if x is, and its sizes."""
    kernel = weight_shape[2:]
    out_h, out_w = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    )
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    y = torch.empty(
        (x.shape[0], weight_shape[0], out_h, out_w),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )
    return y, Plane(x.shape[0] * out_h * out_w, out_h, out_w)


def geometry(
    x: Tensor,
    y: Tensor,
    plane: Plane,
    weight_shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    block_pixels: int,
) -> dict[str, Any]:
    """The arguments that all convolution kernels take by the same names."""
    wide = plane.pixels + block_pixels > INT32_MAX
    return {
        "pixels": plane.pixels,
        "height": x.shape[2],
        "width": x.shape[3],
        "out_h": plane.out_h,
        "out_w": plane.out_w,
        "x_image": x.stride(0),
        "x_channel": x.stride(1),
        "x_row": x.stride(2),
        "x_column": x.stride(3),
        "y_image": y.stride(0),
        "y_channel": y.stride(1),
        "y_row": y.stride(2),
        "y_column": y.stride(3),
        "stride_h": stride[0],
        "stride_w": stride[1],
        "padding_h": padding[0],
        "padding_w": padding[1],
        "dilation_h": dilation[0],
        "dilation_w": dilation[1],
        "TAPS": weight_shape[2] * weight_shape[3],
        "KERNEL_W": weight_shape[3],
        "BLOCK_PIXELS": block_pixels,
        "INDEX": tl.int64 if wide else tl.int32,
    }
