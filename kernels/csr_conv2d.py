"""Convolution with sparse rows: one program per filter and tile of pixels, a scalar gather.

Nothing is shared between filters, so there is no matrix to multiply: a program walks along its
filter's columns, some at a time, and adds weight times pixels for each. Rows of real masks differ
in length by 3 to 5 times: `order` hands out the longest first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import finish, gathered, located, offset
from ._launch import Geometry, epilogue, output, reads, tiled
from .configs import RowConfig, row_config


@triton.jit
def _row_conv2d_fwd_kernel(
    x_ptr,
    crow_ptr,
    col_ptr,
    values_ptr,
    order_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    filters,
    filters_in_group,
    channels_in_group,
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
    r_image,
    r_channel,
    r_row,
    r_column,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    TAPS: tl.constexpr,
    KERNEL_W: tl.constexpr,
    UP_H: tl.constexpr,
    UP_W: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    INDEX: tl.constexpr,
):
    # Filters run fastest: programs at work together read the same pixels.
    program = tl.program_id(0)
    o = tl.load(order_ptr + program % filters)
    image, row, column, inside = located(
        program // filters, pixels, out_h, out_w, BLOCK_PIXELS, INDEX
    )
    inside = inside & (o >= 0) & (o < filters)
    o = tl.minimum(tl.maximum(o, 0), filters - 1)
    top = row * stride_h - padding_h
    left = column * stride_w - padding_w
    own_x = x_ptr + (o // filters_in_group).to(tl.int64) * channels_in_group * x_channel
    start = tl.maximum(tl.load(crow_ptr + o), 0)
    stop = tl.minimum(tl.load(crow_ptr + o + 1), nnz)
    total = tl.zeros((BLOCK_COLUMNS, BLOCK_PIXELS), dtype=tl.float32)
    for at in range(start, stop, BLOCK_COLUMNS):
        place = at + tl.arange(0, BLOCK_COLUMNS)
        col = tl.load(col_ptr + place, mask=place < stop, other=-1)
        weight = tl.load(values_ptr + place, mask=place < stop, other=0.0).to(tl.float32)
        found = gathered(
            own_x,
            image,
            top,
            left,
            inside,
            col,
            channels_in_group,
            height,
            width,
            x_image,
            x_channel,
            x_row,
            x_column,
            dilation_h,
            dilation_w,
            TAPS,
            KERNEL_W,
            UP_H,
            UP_W,
            1,
        )
        total += weight[:, None] * found.to(tl.float32)
    y = tl.sum(total, axis=0)
    if HAS_BIAS:
        y += tl.load(bias_ptr + o).to(tl.float32)
    o = o.to(tl.int64)
    y_at = offset(image, row, column, y_image, y_row, y_column) + o * y_channel
    r_at = offset(image, row, column, r_image, r_row, r_column) + o * r_channel
    finish(y, y_ptr, y_at, residual_ptr, r_at, inside, HAS_RESIDUAL, ACTIVATION)


def csr_conv2d(
    x: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    values: Tensor,
    order: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    weight_shape: list[int],
    geometry: Geometry,
    groups: int,
    activation: int,
    size: tuple[int, int] | None = None,
    config: RowConfig | None = None,
) -> Tensor:
    """y = activation(conv(x) + bias + residual), with sparse filters.

    Args:
        x: (N, I, H, W), any strides.
        crow_indices: (O + 1), int32.
        col_indices: (nnz), int32; column = (i * kH + y) * kW + x.
        values: (nnz).
        order: (O), int32: the filters in the order in which they are handed out.
        bias: (O), or None.
        residual: of y's shape, any strides, or None.
        weight_shape: (O, I / groups, kH, kW).
        activation: see `_device.activated`.
        size: (H', W'); by default, what the geometry gives.

    Returns:
        (N, O, H', W'), all of it written; channels_last if x is.
    """
    config = config or row_config(x)
    filters, per_group = weight_shape[:2]
    y = output(x, filters, size or geometry.out(x))
    if y.numel() == 0:
        return y
    where = tiled(y, config.block_pixels)
    with torch.cuda.device_of(x):
        _row_conv2d_fwd_kernel[(triton.cdiv(where["pixels"], config.block_pixels) * filters,)](
            x,
            crow_indices,
            col_indices,
            values.contiguous(),
            order,
            y_ptr=y,
            filters=filters,
            filters_in_group=filters // groups,
            channels_in_group=per_group,
            nnz=min(values.numel(), col_indices.numel()),
            BLOCK_COLUMNS=config.block_columns,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            **where,
            **reads(x, geometry),
            **epilogue(y, bias, residual, activation),
        )
    return y
