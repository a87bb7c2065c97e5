"""Convolution of sets of filters: one dense product for each set and tile of pixels.

One program per tile of pixels and set (or block of a wide set). `sets.py` says what a set is: the
filters are found by their numbers, and so are the columns, so that neither weights nor activations
are permuted in memory. Where they are neighbours, as after sorting, reads and writes are of 16
bytes, and where a block of columns is one tap of neighbouring channels, no number of them is read.
A gradient in x is the same convolution with the transposed weight.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import finish_channels, gathered, located, run_from, taps_of, windows
from ._geometry import Geometry
from ._launch import epilogue, output, reads, tiled
from .configs import SetConfig, set_config
from .fill import fill
from .sets import Sets


@triton.jit(do_not_specialize=["nnz"])
def _pack_kernel(values_ptr, source_ptr, packed_ptr, entries, nnz, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < entries
    source = tl.load(source_ptr + at, mask=inside, other=-1)
    there = (source >= 0) & (source < nnz)
    value = tl.load(values_ptr + source, mask=there, other=0.0)
    tl.store(packed_ptr + at, value, mask=inside)


# What takes part in no address is not compiled for: it would be a kernel for every shape.
@triton.jit(do_not_specialize=["sets", "blocks", "listed", "channels", "x_size"])
def _set_conv2d_fwd_kernel(
    x_ptr,
    packed_ptr,
    filters_ptr,
    starts_ptr,
    columns_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    sets,
    set_width,
    blocks,
    listed,
    filters,
    channels,
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
    PRECISION: tl.constexpr,
    TAPS: tl.constexpr,
    KERNEL_W: tl.constexpr,
    UP_H: tl.constexpr,
    UP_W: tl.constexpr,
    RUN: tl.constexpr,
    ABREAST: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_FILTERS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    INDEX: tl.constexpr,
):
    # Sets run fastest: programs at work together read the same pixels.
    program = tl.program_id(0)
    part = program % (sets * blocks)
    own = part // blocks
    tile = located(program // (sets * blocks), pixels, y_size, BLOCK_PIXELS, INDEX)
    member = part % blocks * BLOCK_FILTERS + tl.arange(0, BLOCK_FILTERS)
    wanted = member < set_width
    o = tl.load(filters_ptr + own * set_width + member, mask=wanted, other=-1)
    if ABREAST > 1:
        o = tl.max_contiguous(tl.multiple_of(o, ABREAST), ABREAST)
    start = tl.maximum(tl.load(starts_ptr + own), 0)
    stop = tl.minimum(tl.load(starts_ptr + own + 1), listed)
    total = tl.zeros((BLOCK_PIXELS, BLOCK_FILTERS), dtype=tl.float32)
    for at in range(start, stop, BLOCK_COLUMNS):
        place = at + tl.arange(0, BLOCK_COLUMNS)
        weight = tl.load(
            packed_ptr + place.to(tl.int64)[:, None] * set_width + member[None, :],
            mask=(place < stop)[:, None] & wanted[None, :],
            other=0.0,
        )
        if RUN >= BLOCK_COLUMNS:
            taps = run_from(tl.load(columns_ptr + at), channels, TAPS, BLOCK_COLUMNS)
        else:
            # A channel below 0 is none; the division of -1 would give 0.
            col = tl.load(columns_ptr + place, mask=place < stop, other=-TAPS)
            taps = taps_of(col, channels, TAPS, RUN)
        window = windows(tile, steps)
        found = gathered(x_ptr, window, taps, x_size, x_strides, steps[2], KERNEL_W, UP_H, UP_W)
        total = tl.dot(tl.trans(found), weight, total, input_precision=PRECISION)
    wanted = (o >= 0) & (o < filters)
    if HAS_BIAS:
        total += tl.load(bias_ptr + o, mask=wanted, other=0.0).to(tl.float32)[None, :]
    finish_channels(
        tl.trans(total),
        o[:, None],
        tile,
        wanted[:, None] & tile[3][None, :],
        y_ptr,
        y_strides,
        residual_ptr,
        r_strides,
        HAS_RESIDUAL,
        ACTIVATION,
    )


def packed(values: Tensor, sets: Sets) -> Tensor:
    """(listed, width): values where their sets want them, and zeros."""
    values = values.contiguous()
    laid = torch.empty(sets.source.shape, dtype=values.dtype, device=values.device)
    if laid.numel():
        with torch.cuda.device_of(values):
            _pack_kernel[(triton.cdiv(laid.numel(), 1024),)](
                values, sets.source, laid, laid.numel(), values.numel(), BLOCK=1024
            )
    return laid


def set_conv2d(
    x: Tensor,
    weight: Tensor,
    sets: Sets,
    channels_out: int,
    bias: Tensor | None,
    residual: Tensor | None,
    geometry: Geometry,
    activation: int,
    tf32: bool = False,
    size: tuple[int, int] | None = None,
    config: SetConfig | None = None,
) -> Tensor:
    """y = activation(conv(x) + bias + residual).

    Args:
        x: (N, I, H, W), any strides.
        weight: `packed` by `sets`.
        channels_out: O.
        bias: (O), or None.
        residual: of y's shape, any strides, or None.
        activation: see `_device.activated`.
        tf32: whether float32 factors may be rounded to TF32 for the tensor cores.
        size: (H', W'); by default, what the geometry gives.

    Returns:
        (N, O, H', W'), all of it written; channels_last if x is.
    """
    config = config or set_config(x, sets.filters.shape[1], sets.run)
    y = output(x, channels_out, size or geometry.out(x))
    if y.numel() == 0:
        return y
    if sets.run > 1:
        # With channels last, and sorted if need be, a run of channels is a run of memory.
        x = x.permute(0, 2, 3, 1).contiguous()
        x = x if sets.order is None else x.index_select(3, sets.order)
        x = x.permute(0, 3, 1, 2)
    count, width = sets.filters.shape
    where, ends = tiled(y, config.block_pixels), epilogue(y, bias, residual, activation)
    tiles = triton.cdiv(where["pixels"], config.block_pixels)
    with torch.cuda.device_of(x):
        if sets.others.numel():
            fill(y, sets.others, config.block_pixels, ends)
        if count == 0:
            return y
        blocks = triton.cdiv(width, config.block_filters)
        _set_conv2d_fwd_kernel[(tiles * count * blocks,)](
            x,
            weight,
            sets.filters,
            sets.starts,
            sets.columns,
            y_ptr=y,
            sets=count,
            set_width=width,
            blocks=blocks,
            listed=sets.columns.numel(),
            filters=channels_out,
            channels=x.shape[1],
            PRECISION="tf32" if tf32 else "ieee",
            RUN=sets.run,
            ABREAST=sets.abreast,
            BLOCK_FILTERS=config.block_filters,
            BLOCK_COLUMNS=config.block_columns,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            **where,
            **reads(x, geometry),
            **ends,
        )
    return y
