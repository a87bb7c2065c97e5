"""csr_linear: y = activation(x Wᵀ + b), W in compressed sparse rows.

    x  (*, in_features)  ->  y  (*, out_features)

Gradients: dx = dy W, db = Σ dy, and dW on kept weights only: dW[o, i] = Σ_n dy[n, o] x[n, i].
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_ops.formats import CSRWeight
from sparse_ops.ops._activation import add_and_activate, check_activation, code_of
from sparse_ops.ops._backend import Backend, choose, needs_gradient, write
from sparse_ops.ops._dense import refuses_dense, unpacked
from sparse_ops.ops._native import ISAS, refuses_isa
from sparse_ops.ops._predicted import triton_linear_loses
from sparse_ops.ops._shapes import check_dtypes, check_index_devices, check_like_output
from sparse_ops.ops._transforms import is_transformed
from sparse_ops.ops._triton import refuses_triton


def reference(
    x: Tensor,
    weight: CSRWeight,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """The definition, in PyTorch: unpack and multiply. Any device and dtype; slow."""
    return add_and_activate(F.linear(x, weight.to_dense(), bias), residual, activation)


def reference_backward(
    dy: Tensor, need_x: bool, need_values: bool, x: Tensor, weight: CSRWeight
) -> tuple[Tensor | None, Tensor | None]:
    """(dx, dvalues) by dense products, read off where weights are kept."""
    dx = dy @ weight.to_dense() if need_x else None
    return dx, weight.gather(dy.T @ x) if need_values else None


def _run(name: str) -> Callable[..., Any]:
    """What calls the registered operator of that name, of compiled kernels or of Triton's; one that
    writes to a tensor is given that last.
    """
    operator = getattr(torch.ops.sparse_ops, name)

    def run(
        x: Tensor,
        weight: CSRWeight,
        bias: Tensor | None,
        activation: str | None,
        residual: Tensor | None,
        *out: Tensor,
    ) -> Any:
        indices = weight.crow_indices, weight.col_indices
        code = code_of(activation)
        return operator(x, *indices, weight.values, bias, residual, code, *out)

    return run


def _compiled(isa: str) -> Backend:
    backward_operator = getattr(torch.ops.sparse_ops, f"csr_linear_backward_{isa}")

    def backward(
        dy: Tensor, need_x: bool, need_values: bool, x: Tensor, weight: CSRWeight
    ) -> tuple[Tensor | None, Tensor | None]:
        dx, dvalues = backward_operator(
            dy.float(),
            x.float(),
            weight.crow_indices,
            weight.col_indices,
            weight.values.float(),
            need_x,
            need_values,
        )
        return (
            dx.to(x.dtype) if need_x else None,
            dvalues.to(weight.values.dtype) if need_values else None,
        )

    run, into = _run(f"csr_linear_{isa}"), _run(f"csr_linear_out_{isa}")
    return Backend(isa, run, lambda x, *_: refuses_isa(isa, x), backward, into)


def _triton_backward(
    dy: Tensor, need_x: bool, need_values: bool, x: Tensor, weight: CSRWeight
) -> tuple[Tensor | None, Tensor | None]:
    indices = weight.crow_indices, weight.col_indices
    dx, dvalues = torch.ops.sparse_ops.csr_linear_backward_triton(
        dy, x, *indices, weight.values, need_x, need_values
    )
    return dx if need_x else None, dvalues if need_values else None


def _dense(
    x: Tensor,
    weight: CSRWeight,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    return add_and_activate(F.linear(x, unpacked(weight), bias), residual, activation)


# Up to this batch reading weights is what takes the time, and sparse rows are less to read; from
# 16 on tensor cores win. By arithmetic (4096 x 4096 on an H100), not measured.
MOST_BATCH = 8


def _refuses_triton(x: Tensor, *_: Any) -> str | None:
    """Why the Triton kernel does not take x, or None if it does."""
    if (reason := refuses_triton(x)) is not None:
        return reason
    if x.shape[0] > MOST_BATCH:
        # Not how large: torch.compile may have that as a symbol, which has no words.
        return f"a batch over {MOST_BATCH} is left to the dense product"
    return None


# In order of preference. Dispatch, the tests, the benchmarks and the planner all read this list:
# to add a backend, add a line here.
BACKENDS = (
    *map(_compiled, ISAS),
    Backend(
        "triton",
        _run("csr_linear_triton"),
        _refuses_triton,
        _triton_backward,
        loses=triton_linear_loses,
    ),
    Backend("dense", _dense, refuses_dense),
    Backend("reference", reference, lambda *_: None),
)


class _CSRLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        values: Tensor,
        bias: Tensor | None,
        weight: CSRWeight,
        backend: Backend,
    ) -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.weight, ctx.backend = weight, backend
        return backend.run(x, weight.with_values(values), bias, None, None)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, values = ctx.saved_tensors
        need_x, need_values, need_bias = ctx.needs_input_grad[:3]
        dx = dvalues = None
        if need_x or need_values:
            run = ctx.backend.backward or reference_backward
            if torch.is_grad_enabled():
                # The gradient wants gradients, which kernels would drop.
                run = reference_backward
            dx, dvalues = run(dy, need_x, need_values, x, ctx.weight.with_values(values))
        return dx, dvalues, dy.sum(0) if need_bias else None, None, None


def csr_linear(
    x: Tensor,
    weight: CSRWeight,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Applies a sparse linear layer.

    Args:
        x: (*, in_features), any strides.
        weight: packed (out_features, in_features).
        bias: (out_features), or None.
        activation: None, "relu", "relu6", "silu", "hardswish", "gelu", "gelu_tanh" (its
            approximation by tanh) or "leaky_relu(0.01)" with any slope, applied to the output.
        residual: (*, out_features), of x's dtype, added before the activation, or None.
        out: (*, out_features), of x's dtype, to write to, as `whole[:, 8:24]` of a contiguous
            tensor; or None. No argument may want a gradient then.
        backend: a name in `BACKENDS`, or "auto" for the first that runs these arguments.

    Returns:
        (*, out_features), of x's dtype and device, or `out`. Beside it, compiled backends take
        scratch memory of the size of x and of the output.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or there is no such backend or activation.
        RuntimeError: the backend asked for refuses these arguments; the message says why. Or `out`
            wants a gradient, or a kernel cannot write to it: its strides are others, or it shares
            memory with x or residual.
    """
    check_activation(activation)
    if len(weight.shape) != 2:
        raise ValueError(f"weight must be (out_features, in_features), got {weight.shape}")
    O, I = weight.shape
    if x.dim() < 1 or x.shape[-1] != I:
        raise ValueError(f"x must be (*, {I}), got {tuple(x.shape)}")
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.with_values(weight.values.to(dtype))
        bias = None if bias is None else bias.to(dtype)
        residual = None if residual is None else residual.to(dtype)
    check_dtypes(x, weight.values, bias, O)
    indices = {"crow_indices": weight.crow_indices, "col_indices": weight.col_indices}
    check_index_devices(x, indices)

    shape = (*x.shape[:-1], O)
    check_like_output("residual", residual, x, shape)
    check_like_output("out", out, x, shape)

    rows = x if x.dim() == 2 else x.reshape(-1, I)
    added = residual if residual is None or x.dim() == 2 else residual.reshape(-1, O)
    chosen = choose(BACKENDS, backend, rows, weight, bias, activation, added)
    if out is not None:
        write(chosen, out, (rows.shape[0], O), rows, weight, bias, activation, added)
        return out
    gradient = torch.is_grad_enabled() and needs_gradient(x, weight.values, bias, residual)
    if gradient and not is_transformed():
        y = _CSRLinear.apply(rows, weight.values, bias, weight, chosen)
        y = add_and_activate(y, added, activation)
    else:
        y = chosen.run(rows, weight, bias, activation, added)
    return y if x.dim() == 2 else y.reshape(shape)
