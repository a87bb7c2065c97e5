"""What the sparse convolutions have in common: arguments, gradient, dtypes, dispatch.

    y[n, o] = activation(bias[o] + Σ_i  x[n, i] ∗ W[o, i])        (cross-correlation, as in torch)

Gradients: dx is the transposed convolution of dy with W, and dW is computed on kept weights only.

All backends of the three operators take the same arguments (`Arguments`), so that dispatch, tests
and the planner treat them alike.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.ops._activation import add_and_activate, check_activation
from sparse_ops.ops._backend import Backend, choose, needs_gradient, write
from sparse_ops.ops._dense import refuses_dense, unpacked
from sparse_ops.ops._native import refuses_isa
from sparse_ops.ops._operators import channels_last
from sparse_ops.ops._predicted import triton_conv_loses
from sparse_ops.ops._shapes import (
    Pair,
    check_conv2d,
    check_index_devices,
    check_like_output,
    conv2d_output_size,
    pair,
)
from sparse_ops.ops._transforms import is_transformed
from sparse_ops.ops._triton import refuses_triton

Weight = TypeVar("Weight", CSRWeight, PeriodicWeight, ChannelPrunedWeight)


class Geometry(NamedTuple):
    """Where a kernel goes: (h, w) each."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


def reference(
    x: Tensor,
    weight: CSRWeight | PeriodicWeight | ChannelPrunedWeight,
    bias: Tensor | None,
    geometry: Geometry,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """The definition, in PyTorch: unpack and convolve. Any device and dtype; slow."""
    y = F.conv2d(x, weight.to_dense(), bias, *geometry)
    return add_and_activate(y, residual, activation)


def reference_backward(
    dy: Tensor,
    need_x: bool,
    need_values: bool,
    x: Tensor,
    weight: CSRWeight | PeriodicWeight | ChannelPrunedWeight,
    geometry: Geometry,
) -> tuple[Tensor | None, Tensor | None]:
    """(dx, dvalues) by a dense convolution's gradients, read off where weights are kept."""
    stride, padding, dilation, groups = geometry
    dx, dweight, _ = torch.ops.aten.convolution_backward(
        dy,
        x,
        weight.to_dense(),
        None,
        stride,
        padding,
        dilation,
        False,
        [0, 0],
        groups,
        [need_x, need_values, False],
    )
    return dx, weight.gather(dweight) if need_values else None


def compiled(
    isa: str,
    run: Callable[..., Tensor],
    into: Callable[..., None],
    backward: Callable[..., tuple[Tensor | None, Tensor | None]] | None = None,
) -> Backend:
    """A backend of compiled code. It computes in float32; halves are converted as they are read."""
    return Backend(isa, run, lambda x, *_: refuses_isa(isa, x), backward, into)


def on_triton(
    run: Callable[..., Tensor], backward: Callable[..., tuple[Tensor | None, Tensor | None]]
) -> Backend:
    """The backend of Triton kernels. Halves are multiplied as they are, and added up in float32."""
    return Backend(
        "triton", run, lambda x, *_: refuses_triton(x), backward, loses=triton_conv_loses
    )


def dense_on_gpu() -> Backend:
    """The dense library on the unpacked weight, which is kept: where a GPU is faster without us."""

    def run(x: Tensor, weight: Any, *rest: Any) -> Tensor:
        bias, geometry, activation, residual = rest
        y = F.conv2d(x, unpacked(weight), bias, *geometry)
        return add_and_activate(y, residual, activation)

    return Backend("dense", run, refuses_dense)


def _indices(weight: Any) -> dict[str, Tensor]:
    """The index tensors of a packed weight, by name."""
    if isinstance(weight, CSRWeight):
        return {"crow_indices": weight.crow_indices, "col_indices": weight.col_indices}
    if isinstance(weight, PeriodicWeight):
        return {
            "class_crow_indices": weight.class_crow_indices,
            "class_col_indices": weight.class_col_indices,
        }
    return {"out_channels": weight.out_channels, "in_channels": weight.in_channels}


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        values: Tensor,
        bias: Tensor | None,
        weight: Any,
        backend: Backend,
        geometry: Geometry,
    ) -> Tensor:
        ctx.save_for_backward(x, values)
        ctx.weight, ctx.backend, ctx.geometry = weight, backend, geometry
        y = backend.run(x, weight.with_values(values), bias, geometry, None, None)
        # Kernels give channels_last as a view, which autograd forbids to change in place.
        return y.clone() if channels_last(x) else y

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
            weight = ctx.weight.with_values(values)
            dx, dvalues = run(dy, need_x, need_values, x, weight, ctx.geometry)
        dbias = dy.sum((0, 2, 3)) if need_bias else None
        return dx, dvalues, dbias, None, None, None


def conv2d(
    backends: Sequence[Backend],
    x: Tensor,
    weight: Weight,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    activation: str | None,
    residual: Tensor | None,
    out: Tensor | None,
    backend: str,
) -> Tensor:
    """Checks the arguments, chooses among the backends, and runs one, with a gradient if wanted."""
    check_activation(activation)
    geometry = Geometry(
        pair("stride", stride, 1),
        pair("padding", padding, 0),
        pair("dilation", dilation, 1),
        groups,
    )
    values = weight.values
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, values = x.to(dtype), values.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        residual = None if residual is None else residual.to(dtype)
        weight = weight.with_values(values)
    batched = x if x.dim() == 4 else x[None] if x.dim() == 3 else x
    check_conv2d(batched, weight.shape, values, bias, *geometry)
    check_index_devices(x, _indices(weight))

    if residual is not None or out is not None:
        steps = geometry.stride, geometry.padding, geometry.dilation
        size: list[int] = conv2d_output_size(batched.shape[2:], weight.shape[2:], *steps)
        shape = (*x.shape[:-3], weight.shape[0], *size)
        check_like_output("residual", residual, x, shape)
        check_like_output("out", out, x, shape)
        if x.dim() == 3:
            residual = None if residual is None else residual[None]

    chosen = choose(backends, backend, batched, weight, bias, geometry, activation, residual)
    if out is not None:
        whole = (batched.shape[0], weight.shape[0], *size)
        write(chosen, out, whole, batched, weight, bias, geometry, activation, residual)
        return out
    gradient = torch.is_grad_enabled() and needs_gradient(x, values, bias, residual)
    if gradient and not is_transformed():
        y = _Conv2d.apply(batched, values, bias, weight, chosen, geometry)
        y = add_and_activate(y, residual, activation)
    else:
        y = chosen.run(batched, weight, bias, geometry, activation, residual)
    if channels_last(batched):
        y = y.contiguous(memory_format=torch.channels_last)
    return y if x.dim() == 4 else y[0]
