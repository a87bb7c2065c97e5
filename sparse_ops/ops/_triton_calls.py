"""From an operator's arguments to the launch of its Triton kernels.

What follows from a weight's structure alone (which filters make a set, where each value goes, the
transposed weight) is worked out on the CPU, once for each structure. A set's values are laid out
anew for each call that may change them or is being recorded, and otherwise once.
"""

from typing import Any

import torch
from torch import Tensor

from sparse_ops.ops._kernels import kernels
from sparse_ops.ops._once import once
from sparse_ops.ops._tuned import config

# Sets of rows that are alike load this part at most of what the rows alone would load for each
# pixel. Arithmetic: a product of 16 filters costs about what two of its loads do.
PAYS = 0.8
# The most columns whose numbers fit two bytes, one of which says "none".
SHORT_COLUMNS = 65535


def tf32() -> bool:
    """Whether torch's switch for float32 convolutions lets factors be rounded to TF32."""
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv.fp32_precision == "tf32"


def _sets(
    kind: str,
    crow: Tensor,
    col: Tensor,
    nnz: int,
    shape: list[int],
    groups: int,
    back: bool = False,
    sort: bool = False,
) -> Any:
    """The sets of a weight, or of the transposed one; None where rows alone are better."""
    sets = kernels("sets")

    def work() -> Any:
        filters, per_group, kernel_h, kernel_w = shape
        taps = kernel_h * kernel_w
        table = sets.positions(crow, col, filters, per_group * taps, nnz)
        classes = crow.numel() - 1
        if back:
            table = sets.transposed(table, groups, taps)
        sort_by = 0
        if kind == "classes":
            merged, parts = sets.by_class(table, groups, classes)
            whole = (table.shape[1] // taps) % (8 * merged) == 0
            sort_by = merged if sort and whole else 0
        else:
            parts = sets.by_likeness(table, groups)
            if sets.shared_columns(table, parts) > PAYS * int((table >= 0).sum()):
                return None
        return sets.assemble(table, parts, groups, taps, nnz, sort_by).to(col.device)

    return once((kind, nnz, tuple(shape), groups, back, sort), (crow, col), work)


def _sorts(x: Tensor) -> bool:
    """Whether x is to be sorted by class first: a copy, for reads of 8 channels at a time.

    Arithmetic: x is read for each of the classes and taps, so that two passes over it are little.
    """
    return x.element_size() == 2 or tf32()


def _channel_sets(values: Tensor, out: Tensor, inp: Tensor, shape: list[int], back: bool) -> Any:
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


def _laid_out(values: Tensor, sets: Any) -> Tensor:
    def work() -> Tensor:
        return kernels("set_conv2d").packed(values, sets)

    recorded = values.is_cuda and torch.cuda.is_current_stream_capturing()
    if torch.is_grad_enabled() or recorded or values.is_inference():
        return work()
    return once("laid out", (values, sets.source), work)


def _rows(crow: Tensor, col: Tensor, nnz: int, shape: list[int], groups: int, back: bool) -> Any:
    """(crow, col, order, rows, which value) of a weight's rows, or of the transposed one's."""
    sets = kernels("sets")

    def work() -> tuple[Tensor, ...]:
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
        return tuple(t.to(col.device) for t in found)

    return once(("rows", nnz, tuple(shape), groups, back), (crow, col), work)


def _config(kind: str, x: Tensor, shape: list[int], nnz: int, *rest: object) -> Any:
    """The configuration measured fastest for this, or None: the default."""
    numbers = config(kind, x, shape, nnz, *rest)
    if numbers is None:
        return None
    kinds = {"set": "SetConfig", "row": "RowConfig", "linear": "LinearConfig"}
    return getattr(kernels("configs"), kinds[kind])(*numbers)


def _geometry(shape: list[int], *rest: list[int]) -> Any:
    return kernels("_launch").Geometry.of(shape, *rest)


def _row_sparse(kind: str) -> Any:
    def run(
        x: Tensor,
        crow: Tensor,
        col: Tensor,
        values: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        shape: list[int],
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        activation: int,
    ) -> Tensor:
        nnz, geometry = values.numel(), _geometry(shape, stride, padding, dilation)
        sets = _sets(kind, crow, col, nnz, shape, groups, sort=_sorts(x))
        ends = (bias, residual)
        if sets is not None:
            laid, own = _laid_out(values, sets), _config("set", x, shape, nnz, kind, *geometry)
            return kernels("set_conv2d").set_conv2d(
                x, laid, sets, shape[0], *ends, geometry, activation, tf32(), config=own
            )
        own = _config("row", x, shape, nnz, *geometry)
        rows, col, order, _, which = _rows(crow, col, nnz, shape, groups, False)
        # Nearly always all values are kept, in their own order.
        values = values if which.numel() == nnz else values[which]
        return kernels("csr_conv2d").csr_conv2d(
            x,
            rows,
            col,
            values,
            order,
            *ends,
            shape,
            geometry,
            groups,
            activation,
            config=own,
        )

    return run


periodic_conv2d = _row_sparse("classes")
csr_conv2d = _row_sparse("rows")


def sparse_conv2d_backward(
    dy: Tensor,
    x: Tensor,
    crow: Tensor,
    col: Tensor,
    values: Tensor,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    need_x: bool,
    need_values: bool,
) -> tuple[Tensor, Tensor]:
    """(dx, dvalues); what is not needed is empty."""
    filters, per_group = shape[:2]
    nnz, geometry = values.numel(), _geometry(shape, stride, padding, dilation)
    kind = "classes" if crow.numel() - 1 < filters else "rows"
    dx, dvalues = x.new_empty(0), values.new_empty(0)
    size = (x.shape[2], x.shape[3])
    set_conv2d, row_conv2d = kernels("set_conv2d"), kernels("csr_conv2d")
    if need_x:
        sets = _sets(kind, crow, col, nnz, shape, groups, back=True, sort=_sorts(dy))
        channels, back = per_group * groups, geometry.transposed()
        if sets is not None:
            laid = set_conv2d.packed(values, sets)
            dx = set_conv2d.set_conv2d(dy, laid, sets, channels, None, None, back, 0, tf32(), size)
        else:
            starts, columns, order, _, which = _rows(crow, col, nnz, shape, groups, True)
            turned = [channels, filters // groups, *shape[2:]]
            dx = row_conv2d.csr_conv2d(
                dy, starts, columns, values[which], order, None, None, turned, back, groups, 0, size
            )
    if need_values:
        sets = _sets(kind, crow, col, nnz, shape, groups)
        if sets is not None:
            dvalues = set_conv2d.set_conv2d_weight(dy, x, sets, geometry, tf32())
        else:
            _, columns, _, rows, which = _rows(crow, col, nnz, shape, groups, False)
            found = row_conv2d.csr_conv2d_weight(dy, x, rows, columns, geometry, groups)
            dvalues = found.new_zeros(nnz).index_copy_(0, which, found)
        dvalues = dvalues.to(values.dtype)
    return dx, dvalues


def channel_pruned_conv2d(
    x: Tensor,
    values: Tensor,
    out: Tensor,
    inp: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation: int,
) -> Tensor:
    sets = _channel_sets(values, out, inp, shape, False)
    geometry = _geometry(shape, stride, padding, dilation)
    laid = _laid_out(values, sets)
    own = _config("set", x, shape, values.numel(), "channels", *geometry)
    return kernels("set_conv2d").set_conv2d(
        x, laid, sets, shape[0], bias, residual, geometry, activation, tf32(), config=own
    )


def channel_pruned_conv2d_backward(
    dy: Tensor,
    x: Tensor,
    values: Tensor,
    out: Tensor,
    inp: Tensor,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    need_x: bool,
    need_values: bool,
) -> tuple[Tensor, Tensor]:
    """(dx, dvalues); what is not needed is empty."""
    geometry = _geometry(shape, stride, padding, dilation)
    run = kernels("set_conv2d")
    dx, dvalues = x.new_empty(0), values.new_empty(0)
    if need_x:
        sets = _channel_sets(values, out, inp, shape, True)
        back, size = geometry.transposed(), (x.shape[2], x.shape[3])
        laid = run.packed(values, sets)
        dx = run.set_conv2d(dy, laid, sets, shape[1], None, None, back, 0, tf32(), size)
    if need_values:
        sets = _channel_sets(values, out, inp, shape, False)
        found = run.set_conv2d_weight(dy, x, sets, geometry, tf32())
        dvalues = found.reshape(values.shape).to(values.dtype)
    return dx, dvalues


def _linear_rows(crow: Tensor, col: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """(columns in two bytes if they fit, the order of the rows, the longest first)."""

    def work() -> tuple[Tensor, Tensor]:
        order = crow.diff().argsort(descending=True, stable=True).int()
        if columns > SHORT_COLUMNS:
            return col, order
        good = (col >= 0) & (col < columns)
        return torch.where(good, col, SHORT_COLUMNS).to(torch.int16), order

    return once(("linear", columns), (crow, col), work)


def csr_linear(
    x: Tensor,
    crow: Tensor,
    col: Tensor,
    values: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
) -> Tensor:
    short, order = _linear_rows(crow, col, x.shape[1])
    own = _config("linear", x, [crow.numel() - 1, x.shape[1]], values.numel())
    return kernels("csr_linear").csr_linear(
        x, crow, short, values, order, bias, residual, activation, own
    )


def _turned(crow: Tensor, col: Tensor, columns: int) -> tuple[Tensor, ...]:
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


def csr_linear_backward(
    dy: Tensor,
    x: Tensor,
    crow: Tensor,
    col: Tensor,
    values: Tensor,
    need_x: bool,
    need_values: bool,
) -> tuple[Tensor, Tensor]:
    """(dx, dvalues); what is not needed is empty."""
    starts, rows, order, which, row = _turned(crow, col, x.shape[1])
    dx, dvalues = x.new_empty(0), values.new_empty(0)
    if need_x:
        linear = kernels("csr_linear").csr_linear
        dx = linear(dy, starts, rows, values[which], order, None, None, 0)
    if need_values:
        geometry = _geometry([0, 0, 1, 1], [1, 1], [0, 0], [1, 1])
        found = kernels("csr_conv2d").csr_conv2d_weight(
            dy[:, :, None, None], x[:, :, None, None], row, col, geometry, 1
        )
        dvalues = found.to(values.dtype)
    return dx, dvalues
