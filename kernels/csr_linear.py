"""y = activation(x Wᵀ + b), W in compressed sparse rows: a program per row and block of the batch.

Rows of real masks differ in length by 3 to 5 times. Each row is a program of its own, handed to
whichever multiprocessor is free; and where rows are too few to fill the card, or long, each is cut
into `splits` equal parts, whose sums are written down and then added in a fixed order, so that the
result does not depend on timing.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import activated
from .configs import LinearConfig, linear_config

# From this batch on x is turned, so that neighbouring lanes, which are neighbouring rows of x, read
# neighbouring memory: a 32-byte sector then serves at least 8 of them.
TURN_FROM = 8


@triton.jit
def _csr_linear_fwd_kernel(
    x_ptr,
    crow_ptr,
    col_ptr,
    values_ptr,
    bias_ptr,
    y_ptr,
    batch,
    rows,
    columns,
    nnz,
    splits,
    x_row,
    x_column,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_BATCH: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """y: (splits, batch, rows)."""
    program = tl.program_id(0)
    o = program % rows
    part = program // rows % splits
    b = (program // rows // splits).to(tl.int64) * BLOCK_BATCH + tl.arange(0, BLOCK_BATCH)
    inside = b < batch
    start = tl.maximum(tl.load(crow_ptr + o), 0)
    stop = tl.minimum(tl.load(crow_ptr + o + 1), nnz)
    share = tl.cdiv(stop - start, splits)
    start += part * share
    stop = tl.minimum(start + share, stop)
    total = tl.zeros((BLOCK_COLUMNS, BLOCK_BATCH), dtype=tl.float32)
    for at in range(start, stop, BLOCK_COLUMNS):
        place = at + tl.arange(0, BLOCK_COLUMNS)
        kept = place < stop
        col = tl.load(col_ptr + place, mask=kept, other=0)
        kept = kept & (col >= 0) & (col < columns)
        weight = tl.load(values_ptr + place, mask=kept, other=0.0).to(tl.float32)
        found = tl.load(
            x_ptr + (b * x_row)[None, :] + (col.to(tl.int64) * x_column)[:, None],
            mask=kept[:, None] & inside[None, :],
            other=0.0,
        )
        total += weight[:, None] * found.to(tl.float32)
    y = tl.sum(total, axis=0)
    if HAS_BIAS:
        y += tl.load(bias_ptr + o).to(tl.float32)
    y = activated(y, ACTIVATION)
    target = (part.to(tl.int64) * batch + b) * rows + o
    tl.store(y_ptr + target, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _csr_linear_sum_kernel(
    parts_ptr,
    bias_ptr,
    y_ptr,
    entries,
    rows,
    splits,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """parts (splits, batch, rows) -> y (batch, rows), entries = batch * rows."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < entries
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for part in range(splits):
        y += tl.load(parts_ptr + part * entries + at, mask=inside, other=0.0)
    if HAS_BIAS:
        y += tl.load(bias_ptr + at % rows, mask=inside, other=0.0).to(tl.float32)
    y = activated(y, ACTIVATION)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


def csr_linear(
    x: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    values: Tensor,
    bias: Tensor | None,
    activation: int,
    config: LinearConfig | None = None,
) -> Tensor:
    """x (batch, in_features) -> y (batch, out_features), contiguous.

    Args:
        x: any strides; from a batch of 8 on, memory of its size is taken to turn it.
        crow_indices: (out_features + 1), int32.
        col_indices: (nnz), of any integer type.
        values: (nnz).
        bias: (out_features), or None.
        activation: see `_device.activated`.
    """
    batch, columns = x.shape
    rows, nnz = crow_indices.numel() - 1, min(values.numel(), col_indices.numel())
    y = torch.empty((batch, rows), dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    config = config or linear_config(x, rows, nnz)
    if batch >= TURN_FROM:
        x = x.t().contiguous().t()
    splits = config.splits
    whole = splits == 1
    shape = (splits, batch, rows)
    target = y if whole else torch.empty(shape, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _csr_linear_fwd_kernel[(triton.cdiv(batch, config.block_batch) * splits * rows,)](
            x,
            crow_indices,
            col_indices,
            values,
            bias,
            target,
            batch,
            rows,
            columns,
            nnz,
            splits,
            x.stride(0),
            x.stride(1),
            HAS_BIAS=whole and bias is not None,
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
                y,
                y.numel(),
                rows,
                splits,
                HAS_BIAS=bias is not None,
                ACTIVATION=activation,
                BLOCK=256,
            )
    return y
