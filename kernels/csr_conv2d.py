"""Convolution with sparse rows: one program per filter and tile of pixels, a scalar gather.

Nothing is shared between filters, so there is no matrix to multiply: a program walks along its
filter's columns, some at a time, and adds weight times pixels for each. Rows of real masks differ
in length by 3 to 5 times: `order` hands out the longest first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import finish_channels, gathered, located, taps_of, windows
from ._geometry import Geometry, is_channels_last
from ._launch import epilogue, output, reads, tiled
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
    x_size,
    y_size,
    x_strides,
    y_strides,
    r_strides,
    steps,
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
    tile = located(program // filters, pixels, y_size, BLOCK_PIXELS, INDEX)
    inside = tile[3] & (o >= 0) & (o < filters)
    o = tl.minimum(tl.maximum(o, 0), filters - 1)
    own_x = x_ptr + (o // filters_in_group).to(tl.int64) * channels_in_group * x_strides[1]
    start = tl.maximum(tl.load(crow_ptr + o), 0)
    stop = tl.minimum(tl.load(crow_ptr + o + 1), nnz)
    total = tl.zeros((BLOCK_COLUMNS, BLOCK_PIXELS), dtype=tl.float32)
    for at in range(start, stop, BLOCK_COLUMNS):
        place = at + tl.arange(0, BLOCK_COLUMNS)
        col = tl.load(col_ptr + place, mask=place < stop, other=-1)
        weight = tl.load(values_ptr + place, mask=place < stop, other=0.0).to(tl.float32)
        taps = taps_of(col, channels_in_group, TAPS, 1)
        window = windows(tile, steps)
        found = gathered(own_x, window, taps, x_size, x_strides, steps[2], KERNEL_W, UP_H, UP_W)
        total += weight[:, None] * found.to(tl.float32)
    y = tl.sum(total, axis=0)
    if HAS_BIAS:
        y += tl.load(bias_ptr + o).to(tl.float32)
    finish_channels(
        y,
        o,
        tile,
        inside,
        y_ptr,
        y_strides,
        residual_ptr,
        r_strides,
        HAS_RESIDUAL,
        ACTIVATION,
    )


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
        (N, O, H', W'), all of it written; channels_last if x is: x and y are turned then, because
        neighbouring lanes are neighbouring pixels of one channel.
    """
    config = config or row_config(x)
    filters, per_group = weight_shape[:2]
    turned = is_channels_last(x)
    x = x.contiguous() if turned else x
    y = output(x, filters, size or geometry.out(x))
    if y.numel() == 0:
        return y.contiguous(memory_format=torch.channels_last) if turned else y
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
    return y.contiguous(memory_format=torch.channels_last) if turned else y
