"""What filters without weights give: activation(bias + residual), in a kernel of its own."""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ._device import finish_channels, located
from ._geometry import is_channels_last
from ._launch import tiled

# Filters of a program: 32 bytes of halves, what memory is read and written in.
SECTOR = 16


@triton.jit(do_not_specialize=["others", "filters", "blocks"])
def _fill_kernel(
    others_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    others,
    filters,
    blocks,
    pixels,
    y_size,
    y_strides,
    r_strides,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WHOLE: tl.constexpr,
    BLOCK_FILTERS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    INDEX: tl.constexpr,
):
    """What a filter without weights gives: in those that are listed, or if WHOLE, in all."""
    program = tl.program_id(0)
    place = program % blocks * BLOCK_FILTERS + tl.arange(0, BLOCK_FILTERS)
    o = place
    if not WHOLE:
        o = tl.load(others_ptr + place, mask=place < others, other=-1)
    right = (o >= 0) & (o < filters)
    tile = located(program // blocks, pixels, y_size, BLOCK_PIXELS, INDEX)
    y = tl.zeros((BLOCK_FILTERS, BLOCK_PIXELS), dtype=tl.float32)
    if HAS_BIAS:
        y += tl.load(bias_ptr + o, mask=right, other=0.0).to(tl.float32)[:, None]
    finish_channels(
        y,
        o[:, None],
        tile,
        right[:, None] & tile[3][None, :],
        y_ptr,
        y_strides,
        residual_ptr,
        r_strides,
        HAS_RESIDUAL,
        ACTIVATION,
    )


def fill(y: Tensor, listed: Tensor, block_pixels: int, ends: dict[str, Any]) -> None:
    """Writes the listed filters; of channels_last, whole pixels, if they are many.

    The others are to be written over then. 32 bytes of memory are 16 halves: of fewer, the
    rest would be read and written back.
    """
    filters, others = y.shape[1], listed.numel()
    whole = is_channels_last(y) and others * SECTOR >= filters
    block = SECTOR if whole or others >= SECTOR else 1
    blocks = triton.cdiv(filters if whole else others, block)
    where = tiled(y, block_pixels)
    _fill_kernel[(triton.cdiv(where["pixels"], block_pixels) * blocks,)](
        listed,
        y_ptr=y,
        others=others,
        filters=filters,
        blocks=blocks,
        WHOLE=whole,
        BLOCK_FILTERS=block,
        **where,
        **ends,
    )
