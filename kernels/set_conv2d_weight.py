"""The gradient in the weights of sets of filters (`set_conv2d.py`): one dense product a set.

A program has some columns and filters of one set, and a share of the pixels. Shares are added up
afterwards, in a fixed order: no atomics, so that the same input gives the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import gathered, located, offset, taps_of, windows
from ._launch import Geometry, reads, tiled
from .configs import SetConfig, weight_config
from .sets import Sets


@triton.jit
def _set_conv2d_weight_kernel(
    x_ptr,
    dy_ptr,
    filters_ptr,
    starts_ptr,
    columns_ptr,
    parts_ptr,
    set_width,
    blocks,
    column_blocks,
    splits,
    listed,
    filters,
    channels,
    pixels,
    x_size,
    y_size,
    x_strides,
    y_strides,
    steps,
    PRECISION: tl.constexpr,
    TAPS: tl.constexpr,
    KERNEL_W: tl.constexpr,
    UP_H: tl.constexpr,
    UP_W: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_FILTERS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    INDEX: tl.constexpr,
):
    """parts (splits, listed, set_width): each split's sum over its share of the pixels."""
    program = tl.program_id(0)
    split = program % splits
    block = program // splits % blocks
    own = program // splits // blocks // column_blocks
    start = tl.maximum(tl.load(starts_ptr + own), 0)
    stop = tl.minimum(tl.load(starts_ptr + own + 1), listed)
    at = start + program // splits // blocks % column_blocks * BLOCK_COLUMNS
    if at < stop:
        place = at + tl.arange(0, BLOCK_COLUMNS)
        col = tl.load(columns_ptr + place, mask=place < stop, other=-1)
        member = block * BLOCK_FILTERS + tl.arange(0, BLOCK_FILTERS)
        wanted = member < set_width
        o = tl.load(filters_ptr + own * set_width + member, mask=wanted, other=-1)
        held = (o >= 0) & (o < filters)
        tiles = tl.cdiv(pixels, BLOCK_PIXELS)
        share = tl.cdiv(tiles, splits)
        total = tl.zeros((BLOCK_COLUMNS, BLOCK_FILTERS), dtype=tl.float32)
        for tile in range(split * share, tl.minimum(split * share + share, tiles)):
            image, row, column, inside = located(
                program * 0 + tile, pixels, y_size, BLOCK_PIXELS, INDEX
            )
            window = windows((image, row, column, inside), steps)
            taps = taps_of(col, channels, TAPS, 1)
            found = gathered(x_ptr, window, taps, x_size, x_strides, steps[2], KERNEL_W, UP_H, UP_W)
            dy = tl.load(
                dy_ptr
                + offset(image, row, column, y_strides)[:, None]
                + (o.to(tl.int64) * y_strides[1])[None, :],
                mask=inside[:, None] & held[None, :],
                other=0.0,
            )
            total = tl.dot(found, dy, total, input_precision=PRECISION)
        target = (split.to(tl.int64) * listed + place) * set_width
        tl.store(
            parts_ptr + target[:, None] + member[None, :],
            total,
            mask=(place < stop)[:, None] & wanted[None, :],
        )


def set_conv2d_weight(
    dy: Tensor,
    x: Tensor,
    sets: Sets,
    geometry: Geometry,
    tf32: bool = False,
    config: SetConfig | None = None,
) -> Tensor:
    """(nnz), float32: the gradient in the values, added up in an order that is always the same.

    Args:
        dy: (N, O, H', W'), any strides.
        x: (N, I, H, W), any strides.
    """
    assert sets.order is None
    config = config or weight_config(x, sets.filters.shape[1])
    count, width = sets.filters.shape
    listed = sets.columns.numel()
    if listed == 0 or dy.numel() == 0:
        return torch.zeros(sets.place.shape, dtype=torch.float32, device=x.device)
    blocks = triton.cdiv(width, config.block_filters)
    column_blocks = triton.cdiv(sets.longest, config.block_columns)
    where = tiled(dy, config.block_pixels)
    tiles = triton.cdiv(where["pixels"], config.block_pixels)
    # 8 tiles a split: the sums written down are then a small part of what was read.
    splits = max(1, min(16, tiles // 8))
    parts = torch.empty((splits, listed, width), dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _set_conv2d_weight_kernel[(count * column_blocks * blocks * splits,)](
            x,
            dy,
            sets.filters,
            sets.starts,
            sets.columns,
            parts,
            width,
            blocks,
            column_blocks,
            splits,
            listed,
            dy.shape[1],
            x.shape[1],
            PRECISION="tf32" if tf32 else "ieee",
            BLOCK_FILTERS=config.block_filters,
            BLOCK_COLUMNS=config.block_columns,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            **where,
            **reads(x, geometry),
        )
    return parts.flatten(1)[:, sets.place].sum(0)
