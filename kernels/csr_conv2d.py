"""Convolution with sparse rows: one program per filter and tile of pixels, a scalar gather.

Nothing is shared between filters, so there is no matrix to multiply: a program walks along its
filter's columns, some at a time, and adds weight times pixels for each. For unstructured weights,
and for periodic ones of so few filters to a class that a matrix product would be mostly padding.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import activated, gathered, located
from ._launch import geometry, output
from .configs import RowConfig, row_config


@triton.jit
def _sparse_row_conv2d_fwd_kernel(
    x_ptr,
    crow_ptr,
    col_ptr,
    values_ptr,
    bias_ptr,
    y_ptr,
    filters,
    filters_in_group,
    channels_in_group,
    classes,
    listed,
    nnz,
    pixels,
    height,
    width,
    out_h,
    out_w,
    x_image,
    x_channel,
    x_row,
    x_column,
    y_image,
    y_channel,
    y_row,
    y_column,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    TAPS: tl.constexpr,
    KERNEL_W: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    INDEX: tl.constexpr,
):
    # Filters run fastest: programs at work together read the same pixels.
    program = tl.program_id(0)
    o = program % filters
    pixel, image, row, column = located(program // filters, out_h, out_w, BLOCK_PIXELS, INDEX)
    inside = pixel < pixels
    top = row * stride_h - padding_h
    left = column * stride_w - padding_w
    group = (o // filters_in_group).to(tl.int64)
    corner = (
        image.to(tl.int64) * x_image
        + group * channels_in_group * x_channel
        + top.to(tl.int64) * x_row
        + left.to(tl.int64) * x_column
    )
    start = tl.maximum(tl.load(crow_ptr + o % classes), 0)
    stop = tl.minimum(tl.load(crow_ptr + o % classes + 1), listed)
    first = (o // classes).to(tl.int64) * tl.load(crow_ptr + classes) + start
    total = tl.zeros((BLOCK_COLUMNS, BLOCK_PIXELS), dtype=tl.float32)
    for at in range(start, stop, BLOCK_COLUMNS):
        place = at + tl.arange(0, BLOCK_COLUMNS)
        kept = place < stop
        col = tl.load(col_ptr + place, mask=kept, other=0)
        position = first + (place - start)
        kept = kept & (col >= 0) & (col < channels_in_group * TAPS)
        kept = kept & (position >= 0) & (position < nnz)
        weight = tl.load(values_ptr + position, mask=kept, other=0.0).to(tl.float32)
        found = gathered(
            x_ptr,
            corner,
            top,
            left,
            inside,
            col // TAPS,
            col % TAPS,
            kept,
            height,
            width,
            x_channel,
            x_row,
            x_column,
            dilation_h,
            dilation_w,
            KERNEL_W,
        )
        total += weight[:, None] * found.to(tl.float32)
    y = tl.sum(total, axis=0)
    if HAS_BIAS:
        y += tl.load(bias_ptr + o).to(tl.float32)
    y = activated(y, ACTIVATION)
    offset = (
        image.to(tl.int64) * y_image
        + o.to(tl.int64) * y_channel
        + row.to(tl.int64) * y_row
        + column.to(tl.int64) * y_column
    )
    tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), mask=inside)


def csr_conv2d(
    x: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    values: Tensor,
    bias: Tensor | None,
    weight_shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: int,
    config: RowConfig | None = None,
) -> Tensor:
    """Convolves x with sparse filters; filter o keeps the columns of class o mod classes.

    Args:
        x: (N, I, H, W), any strides.
        crow_indices, col_indices: int32, one row a class; column = (i * kH + y) * kW + x.
        values: (nnz), filter by filter.
        bias: (O), or None.
        weight_shape: (O, I / groups, kH, kW).
        activation: see `_device.activated`.

    Returns:
        (N, O, H', W'), all of it written; channels_last if x is.
    """
    config = config or row_config(x)
    y, plane = output(x, weight_shape, stride, padding, dilation)
    if y.numel() == 0:
        return y
    filters, per_group = weight_shape[:2]
    grid = (triton.cdiv(plane.pixels, config.block_pixels) * filters,)
    with torch.cuda.device_of(x):
        _sparse_row_conv2d_fwd_kernel[grid](
            x,
            crow_indices,
            col_indices,
            values,
            bias,
            y,
            filters,
            filters // groups,
            per_group,
            crow_indices.numel() - 1,
            col_indices.numel(),
            values.numel(),
            HAS_BIAS=bias is not None,
            ACTIVATION=activation,
            BLOCK_COLUMNS=config.block_columns,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            **geometry(x, y, plane, weight_shape, stride, padding, dilation, config.block_pixels),
        )
    return y
