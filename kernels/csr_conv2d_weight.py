"""The gradient in the weights of sparse rows (`csr_conv2d.py`): a sum over the pixels for each.

A program has some of the weights, of whichever rows, and a share of the pixels. Shares are added up
afterwards, in a fixed order: no atomics, so that the same input gives the same bits. A linear
layer's gradient is that of a 1×1 convolution whose pixels are the batch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import channels_at, gathered, located, taps_of, windows
from ._launch import Geometry, reads, tiled
from .configs import RowConfig, row_config


@triton.jit
def _row_conv2d_weight_kernel(
    x_ptr,
    dy_ptr,
    row_ptr,
    col_ptr,
    parts_ptr,
    filters,
    filters_in_group,
    channels_in_group,
    channels,
    splits,
    nnz,
    pixels,
    x_size,
    y_size,
    x_strides,
    y_strides,
    steps,
    TAPS: tl.constexpr,
    KERNEL_W: tl.constexpr,
    UP_H: tl.constexpr,
    UP_W: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    INDEX: tl.constexpr,
):
    """parts (splits, nnz): each split's sum of dy · x over its share of the pixels."""
    program = tl.program_id(0)
    split = program % splits
    place = program // splits * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    listed = place < nnz
    o = tl.load(row_ptr + place, mask=listed, other=-1)
    col = tl.load(col_ptr + place, mask=listed, other=-1)
    kept = (o >= 0) & (o < filters) & (col >= 0) & (col < channels_in_group * TAPS)
    o = tl.where(kept, o, 0)
    col = tl.where(kept, col + o // filters_in_group * channels_in_group * TAPS, -1)
    tiles = tl.cdiv(pixels, BLOCK_PIXELS)
    share = tl.cdiv(tiles, splits)
    total = tl.zeros((BLOCK_COLUMNS, BLOCK_PIXELS), dtype=tl.float32)
    for tile in range(split * share, tl.minimum(split * share + share, tiles)):
        pixels_at = located(program * 0 + tile, pixels, y_size, BLOCK_PIXELS, INDEX)
        window, taps = windows(pixels_at, steps), taps_of(col, channels, TAPS, 1)
        found = gathered(x_ptr, window, taps, x_size, x_strides, steps[2], KERNEL_W, UP_H, UP_W)
        dy = tl.load(
            dy_ptr + channels_at(o[:, None], pixels_at, y_strides),
            mask=kept[:, None] & pixels_at[3][None, :],
            other=0.0,
        )
        total += found.to(tl.float32) * dy.to(tl.float32)
    tl.store(parts_ptr + split.to(tl.int64) * nnz + place, tl.sum(total, axis=1), mask=listed)


def csr_conv2d_weight(
    dy: Tensor,
    x: Tensor,
    rows: Tensor,
    col_indices: Tensor,
    geometry: Geometry,
    groups: int,
    config: RowConfig | None = None,
) -> Tensor:
    """(nnz), float32: the gradient in the values, added up in an order that is always the same.

    Args:
        dy: (N, O, H', W'), any strides.
        x: (N, I, H, W), any strides.
        rows, col_indices: (nnz), int32: where each value stands.
    """
    config = config or row_config(x)
    nnz = col_indices.numel()
    if nnz == 0 or dy.numel() == 0:
        return torch.zeros(nnz, dtype=torch.float32, device=x.device)
    where = tiled(dy, config.block_pixels)
    splits = max(1, min(16, triton.cdiv(where["pixels"], config.block_pixels) // 8))
    parts = torch.empty((splits, nnz), dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _row_conv2d_weight_kernel[(triton.cdiv(nnz, config.block_columns) * splits,)](
            x,
            dy,
            rows,
            col_indices,
            parts,
            dy.shape[1],
            dy.shape[1] // groups,
            x.shape[1] // groups,
            x.shape[1],
            splits,
            nnz,
            BLOCK_COLUMNS=config.block_columns,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            **where,
            **reads(x, geometry),
        )
    return parts.sum(0)
