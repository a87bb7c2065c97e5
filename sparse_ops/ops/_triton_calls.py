"""From an operator's arguments to the launch of its Triton kernels."""

from typing import Any

from torch import Tensor

from sparse_ops.ops._kernels import kernels
from sparse_ops.ops._triton_structure import (
    laid_out,
    linear_rows,
    rows_of,
    sets_of,
    sets_of_channels,
    tf32,
    turned,
)
from sparse_ops.ops._tuned import config


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
        merged = config("merged", x, shape, nnz, *geometry) if kind == "classes" else None
        own_classes = merged[0] if merged else None
        sets = sets_of(kind, crow, col, nnz, shape, groups, x, sort=True, merged=own_classes)
        ends = (bias, residual)
        if sets is not None:
            laid, own = laid_out(values, sets), _config("set", x, shape, nnz, kind, *geometry)
            return kernels("set_conv2d").set_conv2d(
                x, laid, sets, shape[0], *ends, geometry, activation, tf32(), config=own
            )
        own = _config("row", x, shape, nnz, *geometry)
        rows, col, order, _, which = rows_of(crow, col, nnz, shape, groups, False)
        if which is not None:
            values = values[which]
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
        sets = sets_of(kind, crow, col, nnz, shape, groups, x, back=True, sort=True)
        channels, back = per_group * groups, geometry.transposed()
        if sets is not None:
            laid = set_conv2d.packed(values, sets)
            dx = set_conv2d.set_conv2d(dy, laid, sets, channels, None, None, back, 0, tf32(), size)
        else:
            starts, columns, order, _, which = rows_of(crow, col, nnz, shape, groups, True)
            turned = [channels, filters // groups, *shape[2:]]
            own = values if which is None else values[which]
            dx = row_conv2d.csr_conv2d(
                dy, starts, columns, own, order, None, None, turned, back, groups, 0, size
            )
    if need_values:
        sets = sets_of(kind, crow, col, nnz, shape, groups, x)
        if sets is not None:
            dvalues = kernels("set_conv2d_weight").set_conv2d_weight(dy, x, sets, geometry, tf32())
        else:
            _, columns, _, rows, which = rows_of(crow, col, nnz, shape, groups, False)
            gradient = kernels("csr_conv2d_weight").csr_conv2d_weight
            dvalues = found = gradient(dy, x, rows, columns, geometry, groups)
            if which is not None:
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
    sets = sets_of_channels(values, out, inp, shape, False)
    geometry = _geometry(shape, stride, padding, dilation)
    laid = laid_out(values, sets)
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
        sets = sets_of_channels(values, out, inp, shape, True)
        back, size = geometry.transposed(), (x.shape[2], x.shape[3])
        laid = run.packed(values, sets)
        dx = run.set_conv2d(dy, laid, sets, shape[1], None, None, back, 0, tf32(), size)
    if need_values:
        sets = sets_of_channels(values, out, inp, shape, False)
        found = kernels("set_conv2d_weight").set_conv2d_weight(dy, x, sets, geometry, tf32())
        dvalues = found.reshape(values.shape).to(values.dtype)
    return dx, dvalues


def csr_linear(
    x: Tensor,
    crow: Tensor,
    col: Tensor,
    values: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
) -> Tensor:
    short, order = linear_rows(crow, col, x.shape[1])
    own = _config("linear", x, [crow.numel() - 1, x.shape[1]], values.numel())
    return kernels("csr_linear").csr_linear(
        x, crow, short, values, order, bias, residual, activation, own
    )


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
    starts, rows, order, which, row = turned(crow, col, x.shape[1])
    dx, dvalues = x.new_empty(0), values.new_empty(0)
    if need_x:
        linear = kernels("csr_linear").csr_linear
        dx = linear(dy, starts, rows, values[which], order, None, None, 0)
    if need_values:
        geometry = _geometry([0, 0, 1, 1], [1, 1], [0, 0], [1, 1])
        found = kernels("csr_conv2d_weight").csr_conv2d_weight(
            dy[:, :, None, None], x[:, :, None, None], row, col, geometry, 1
        )
        dvalues = found.to(values.dtype)
    return dx, dvalues
