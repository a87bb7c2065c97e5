"""y = activation(x Wᵀ + b), W in compressed sparse rows: a program per row and block of the batch.

Rows begin anywhere: each is read from a multiple of eight weights on, up to 16 bytes at a time,
and what there is not its own counts nothing. Nothing is read before the first weight or
after the last one.

Rows of real masks differ in length by 3 to 5 times. Each row is a program of its own, handed to
whichever multiprocessor is free, the longest first; and where rows are too few to fill the card, or
long, each is cut into `splits` equal parts, whose sums are written down and then added in a fixed
order, so that the result does not depend on timing.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import finish
from .configs import LinearConfig, linear_config

# Weights are read so many at a time, from a multiple of that: 16 bytes of what has two.
ALIGNED = tl.constexpr(8)


@triton.jit
def _columns(col_ptr, place, there, columns, SHORT: tl.constexpr):
    """(columns of x, which of them there are), of the weights at some places that may be read."""
    col = tl.load(col_ptr + place, mask=there, other=0).to(tl.int32)
    if SHORT:
        col = col & 0xFFFF
    return col.to(tl.int64), there & (col >= 0) & (col < columns)


@triton.jit
def _csr_linear_fwd_kernel(
    x_ptr,
    crow_ptr,
    col_ptr,
    values_ptr,
    order_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    batch,
    rows,
    columns,
    nnz,
    splits,
    x_row,
    x_column,
    r_row,
    r_column,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    SHORT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_BATCH: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """y: (splits, batch, rows)."""
    program = tl.program_id(0)
    o = tl.load(order_ptr + program % rows)
    part = program // rows % splits
    image = (program // rows // splits).to(tl.int64) * BLOCK_BATCH
    there_is = (o >= 0) & (o < rows)
    o = tl.minimum(tl.maximum(o, 0), rows - 1)
    start = tl.maximum(tl.load(crow_ptr + o), 0)
    stop = tl.maximum(tl.minimum(tl.load(crow_ptr + o + 1), nnz), start)
    # The row in eights, of which a part takes `share`. Not rounded up by cdiv: nnz may be 2^31 - 1.
    first, end = start // ALIGNED, stop // ALIGNED + (stop % ALIGNED > 0).to(tl.int32)
    share = tl.cdiv(end - first, splits)
    first += part * share
    end = tl.minimum(first + share, end)
    whole = tl.minimum(end, nnz // ALIGNED)
    lane = tl.arange(0, BLOCK_COLUMNS)
    left = tl.minimum(batch - image, BLOCK_BATCH).to(tl.int32)
    # An image's sums are an axis of their own: what a lane reads of the weight is what it
    # multiplies. Of columns by images, each weight would go through shared memory.
    totals = (tl.zeros((BLOCK_COLUMNS,), dtype=tl.float32),) * BLOCK_BATCH
    for eight in range(first, whole, BLOCK_COLUMNS // ALIGNED):
        there = eight + lane // ALIGNED < whole
        place = eight * ALIGNED + lane
        col, known = _columns(col_ptr, place, there, columns, SHORT)
        weight = tl.load(values_ptr + place, mask=there, other=0.0).to(tl.float32)
        kept = known & (place >= start) & (place < stop)
        weight = tl.where(kept, weight, 0.0)
        at = x_ptr + image * x_row + col * x_column
        sums = ()
        # From image to image: an offset for each of them would take registers that spill.
        for i in tl.static_range(BLOCK_BATCH):
            found = tl.load(at, mask=kept & (i < left), other=0.0)
            at += x_row
            sums += (totals[i] + weight * found.to(tl.float32),)
        totals = sums
    y = tl.zeros((BLOCK_BATCH,), dtype=tl.float32)
    for i in tl.static_range(BLOCK_BATCH):
        y = tl.where(tl.arange(0, BLOCK_BATCH) == i, tl.sum(totals[i]), y)
    b = image + tl.arange(0, BLOCK_BATCH)
    inside = (b < batch) & there_is
    # The last eight of the weight may be fewer: whose part they are in reads them one by one.
    if (first < end) & (whole < end):
        for place in range(tl.maximum(start, whole * ALIGNED), stop):
            col, kept = _columns(col_ptr, place, True, columns, SHORT)
            weight = tl.load(values_ptr + place, mask=kept, other=0.0).to(tl.float32)
            at = x_ptr + b * x_row + col * x_column
            y += weight * tl.load(at, mask=inside & kept, other=0.0).to(tl.float32)
    if HAS_BIAS:
        y += tl.load(bias_ptr + o).to(tl.float32)
    target = (part.to(tl.int64) * batch + b) * rows + o
    r_at = b * r_row + o.to(tl.int64) * r_column
    finish(y, y_ptr, target, residual_ptr, r_at, inside, HAS_RESIDUAL, ACTIVATION)


@triton.jit
def _csr_linear_sum_kernel(
    parts_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    entries,
    rows,
    splits,
    r_row,
    r_column,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """parts (splits, batch, rows) -> y (batch, rows), entries = batch * rows."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < entries
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    # Step by step: splits * entries may be over 2^31.
    place = at
    for _ in range(splits):
        y += tl.load(parts_ptr + place, mask=inside, other=0.0)
        place += entries
    if HAS_BIAS:
        y += tl.load(bias_ptr + at % rows, mask=inside, other=0.0).to(tl.float32)
    r_at = at // rows * r_row + at % rows * r_column
    finish(y, y_ptr, at, residual_ptr, r_at, inside, HAS_RESIDUAL, ACTIVATION)


def csr_linear(
    x: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    values: Tensor,
    order: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
    config: LinearConfig | None = None,
) -> Tensor:
    """y = activation(x Wᵀ + bias + residual): (batch, in_features) -> (batch, out_features).

    Args:
        x: any strides.
        crow_indices: (out_features + 1), int32.
        col_indices: (nnz), int32; or int16, of which the 16 bits count.
        values: (nnz).
        order: (out_features), int32: the rows in the order in which they are handed out.
        bias: (out_features), or None.
        residual: (batch, out_features), any strides, or None.
        activation: see `_device.activated`.
    """
    batch, columns = x.shape
    rows, nnz = crow_indices.numel() - 1, min(values.numel(), col_indices.numel())
    y = torch.empty((batch, rows), dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    config = config or linear_config(x, rows, nnz)
    splits = config.splits
    r_strides = (y if residual is None else residual).stride()
    whole = splits == 1
    shape = (splits, batch, rows)
    target = y if whole else torch.empty(shape, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _csr_linear_fwd_kernel[(triton.cdiv(batch, config.block_batch) * splits * rows,)](
            x,
            crow_indices,
            col_indices,
            values.contiguous(),
            order,
            bias,
            residual,
            target,
            batch,
            rows,
            columns,
            nnz,
            splits,
            x.stride(0),
            x.stride(1),
            *r_strides,
            HAS_BIAS=whole and bias is not None,
            HAS_RESIDUAL=whole and residual is not None,
            SHORT=col_indices.dtype == torch.int16,
            ACTIVATION=activation if whole else 0,
            BLOCK_BATCH=config.block_batch,
            BLOCK_COLUMNS=config.block_columns,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )
        if not whole:
            _csr_linear_sum_kernel[(triton.cdiv(y.numel(), 256),)](
                target,
                bias,
                residual,
                y,
                y.numel(),
                rows,
                splits,
                *r_strides,
                HAS_BIAS=bias is not None,
                HAS_RESIDUAL=residual is not None,
                ACTIVATION=activation,
                BLOCK=256,
            )
    return y
