"""What the Triton kernels want to know of a weight, worked out from its structure alone.

Which filters make a set, where each value goes, the transposed weight: on the CPU, once for each
structure. A set's values are laid out anew for each call that may change them or is being recorded,
and otherwise once.
"""

from typing import Any

import torch
from torch import Tensor

from sparse_ops.ops._kernels import kernels
from sparse_ops.ops._once import once, recorded

# Rows are put together into sets if these then read at most this part of what the rows alone would
# read of each pixel. Arithmetic, in loads: a weight of a row costs 1, a column of a set of 16
# filters about 1.5 with matrix instructions, and without them, at 4 multiply-adds a load, 5.
PAYS = {True: 0.65, False: 0.2}
# The most columns whose numbers fit two bytes, one of which says "none".
SHORT_COLUMNS = 65535


def tf32() -> bool:
    """Whether torch's switch for float32 convolutions lets factors be rounded to TF32."""
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv.fp32_precision == "tf32"


def sets_of(
    kind: str,
    crow: Tensor,
    col: Tensor,
    nnz: int,
    shape: list[int],
    groups: int,
    x: Tensor,
    back: bool = False,
    sort: bool = False,
    merged: int | None = None,
) -> Any:
    """The sets of a weight, or of the transposed one; None where rows alone are better.

    With `sort`, x is to be sorted by class first if it is of a type for matrix units: a copy, for
    reads of 8 channels at a time. It is read for each class and tap, so that two passes are little.
    Classes are put together until `merged` are left, or as `by_class` thinks best.
    """
    sets, grouping = kernels("sets"), kernels("grouping")
    narrow = x.element_size() == 2 or tf32()
    matrix = narrow and kernels("configs").capability(x.device)[0] >= 8
    sort = sort and narrow
    own = merged if merged and (crow.numel() - 1) % merged == 0 else None

    def work() -> Any:
        filters, per_group, kernel_h, kernel_w = shape
        taps = kernel_h * kernel_w
        table = sets.positions(crow, col, filters, per_group * taps, nnz)
        classes = crow.numel() - 1
        if back:
            table = sets.transposed(table, groups, taps)
        sort_by = 0
        if kind == "classes":
            count, parts = grouping.by_class(table, groups, classes, own)
            whole = (table.shape[1] // taps) % (8 * count) == 0
            sort_by = count if sort and whole else 0
        else:
            parts = grouping.by_sameness(table, groups) or grouping.by_likeness(table, groups)
            if grouping.shared_columns(table, parts) > PAYS[matrix] * int((table >= 0).sum()):
                return None
            # Sorted by whoever made the model, if at all (`convert/sort.py`).
            sort_by = int(sort)
        return sets.assemble(table, parts, groups, taps, nnz, sort_by).to(col.device)

    return once((kind, nnz, tuple(shape), groups, back, sort, matrix, own), (crow, col), work)


def sets_of_channels(values: Tensor, out: Tensor, inp: Tensor, shape: list[int], back: bool) -> Any:
    sets = kernels("sets")

    def work() -> Any:
        filters, channels, kernel_h, kernel_w = shape
        kept = torch.arange(values.numel(), dtype=torch.int32).reshape(values.shape)
        o, i = out.cpu().long(), inp.cpu().long()
        right_o, right_i = (o >= 0) & (o < filters), (i >= 0) & (i < channels)
        table = torch.full(tuple(shape), -1, dtype=torch.int32)
        table[o[right_o][:, None], i[right_i]] = kept[right_o][:, right_i]
        table = table.flatten(1)
        taps = kernel_h * kernel_w
        if back:
            table = sets.transposed(table, 1, taps)
        there = (table >= 0).any(1).nonzero()[:, 0]
        parts = [there] if there.numel() else []
        return sets.assemble(table, parts, 1, taps, values.numel()).to(values.device)

    return once(("channels", tuple(values.shape), tuple(shape), back), (out, inp), work)


def laid_out(values: Tensor, sets: Any) -> Tensor:
    def work() -> Tensor:
        return kernels("set_conv2d").packed(values, sets)

    if torch.is_grad_enabled() or recorded(values) or values.is_inference():
        return work()
    return once("laid out", (values, sets.source), work)


def rows_of(crow: Tensor, col: Tensor, nnz: int, shape: list[int], groups: int, back: bool) -> Any:
    """(crow, col, order, rows, which value) of a weight's rows, or of the transposed one's.

    The last is None where it is each value in its turn: of all weights that `validate` accepts.
    """
    sets = kernels("sets")

    def work() -> tuple[Tensor | None, ...]:
        filters, per_group = shape[:2]
        taps = shape[2] * shape[3]
        table = sets.positions(crow, col, filters, per_group * taps, nnz)
        if back:
            table = sets.transposed(table, groups, taps)
        rows, columns = (table >= 0).nonzero(as_tuple=True)
        length = (table >= 0).sum(1)
        starts = torch.nn.functional.pad(length.cumsum(0), (1, 0))
        order = length.argsort(descending=True, stable=True)
        which = table[rows, columns].long()
        found = (starts.int(), columns.int(), order.int(), rows.int(), which)
        moved = tuple(t.to(col.device) for t in found)
        return (*moved[:4], None) if torch.equal(which, torch.arange(nnz)) else moved

    return once(("rows", nnz, tuple(shape), groups, back), (crow, col), work)


def linear_rows(crow: Tensor, col: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """(columns in two bytes if they fit, the order of the rows, the longest first)."""

    def work() -> tuple[Tensor, Tensor]:
        order = crow.diff().argsort(descending=True, stable=True).int()
        if columns > SHORT_COLUMNS:
            return col, order
        good = (col >= 0) & (col < columns)
        return torch.where(good, col, SHORT_COLUMNS).to(torch.int16), order

    return once(("linear", columns), (crow, col), work)


def turned(crow: Tensor, col: Tensor, columns: int) -> tuple[Tensor, ...]:
    """(crow, col, order) of the transposed weight, which value each is, and the row of each."""

    def work() -> tuple[Tensor, ...]:
        crow_, col_ = crow.cpu().long(), col.cpu().long()
        rows = torch.repeat_interleave(
            torch.arange(crow_.numel() - 1), crow_.diff(), output_size=col_.numel()
        )
        which = col_.argsort(stable=True)
        length = torch.bincount(col_, minlength=columns)
        starts = torch.nn.functional.pad(length.cumsum(0), (1, 0))
        order = length.argsort(descending=True, stable=True)
        found = (starts.int(), rows[which].int(), order.int(), which, rows.int())
        return tuple(t.to(col.device) for t in found)

    return once(("turned", columns), (crow, col), work)
