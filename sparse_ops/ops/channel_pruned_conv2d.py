"""channel_pruned_conv2d: a 2-D convolution over the kept channels only."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_ops.formats import ChannelPrunedWeight
from sparse_ops.ops._activation import add_and_activate, code_of
from sparse_ops.ops._backend import Backend
from sparse_ops.ops._conv2d import Geometry, compiled, conv2d, on_triton, reference
from sparse_ops.ops._native import ISAS


def gather(
    x: Tensor,
    weight: ChannelPrunedWeight,
    bias: Tensor | None,
    geometry: Geometry,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """Convolves the kept channels with the dense library, and puts the result in its place."""
    out, inp = weight.out_channels, weight.in_channels
    everything = out.numel() == weight.shape[0]
    if inp.numel() < weight.shape[1]:
        x = x.index_select(1, inp)
    kept_bias = bias if bias is None or everything else bias[out.long()]
    y = F.conv2d(x, weight.values, kept_bias, *geometry)
    if not everything:
        size = (y.shape[0], weight.shape[0], *y.shape[2:])
        full = y.new_zeros(size) if bias is None else bias[:, None, None].expand(size).clone()
        y = full.index_copy_(1, out.long(), y)
    return add_and_activate(y, residual, activation)


def _gather_refuses(
    x: Tensor,
    weight: ChannelPrunedWeight,
    bias: Tensor | None,
    geometry: Geometry,
    *rest: object,
) -> str | None:
    if geometry.groups != 1:
        return f"groups is {geometry.groups}, not 1"
    return None if weight.values.numel() else "no channel is left"


def gather_backward(
    dy: Tensor,
    need_x: bool,
    need_values: bool,
    x: Tensor,
    weight: ChannelPrunedWeight,
    geometry: Geometry,
) -> tuple[Tensor | None, Tensor | None]:
    """(dx, dvalues) by the dense library's gradients over the kept channels."""
    stride, padding, dilation, groups = geometry
    out, inp = weight.out_channels.long(), weight.in_channels.long()
    kept_dx, dvalues, _ = torch.ops.aten.convolution_backward(
        dy[:, out],
        x[:, inp],
        weight.values,
        None,
        stride,
        padding,
        dilation,
        False,
        [0, 0],
        groups,
        [need_x, need_values, False],
    )
    dx = torch.zeros_like(x).index_copy_(1, inp, kept_dx) if need_x else None
    return dx, dvalues if need_values else None


def _run(kernels: str) -> Callable[..., Any]:
    """What calls the operator of compiled kernels, or of Triton's; one that writes to a tensor is
    given that last.
    """
    operator = getattr(torch.ops.sparse_ops, f"channel_pruned_conv2d_{kernels}")

    def run(
        x: Tensor,
        weight: ChannelPrunedWeight,
        bias: Tensor | None,
        geometry: Geometry,
        activation: str | None,
        residual: Tensor | None,
        *out: Tensor,
    ) -> Any:
        return operator(
            x,
            weight.values,
            weight.out_channels,
            weight.in_channels,
            bias,
            residual,
            weight.shape,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            code_of(activation),
            *out,
        )

    return run


def _without_groups(always: Backend) -> Backend:
    def refuses(
        x: Tensor,
        weight: ChannelPrunedWeight,
        bias: Tensor | None,
        geometry: Geometry,
        *rest: object,
    ) -> str | None:
        return always.refuses(x, weight) or _gather_refuses(x, weight, bias, geometry)

    return replace(always, refuses=refuses)


def _compiled(isa: str) -> Backend:
    return _without_groups(compiled(isa, _run(isa), _run(f"out_{isa}"), gather_backward))


def _triton_backward(
    dy: Tensor,
    need_x: bool,
    need_values: bool,
    x: Tensor,
    weight: ChannelPrunedWeight,
    geometry: Geometry,
) -> tuple[Tensor | None, Tensor | None]:
    dx, dvalues = torch.ops.sparse_ops.channel_pruned_conv2d_backward_triton(
        dy,
        x,
        weight.values,
        weight.out_channels,
        weight.in_channels,
        weight.shape,
        *geometry[:3],
        need_x,
        need_values,
    )
    return dx if need_x else None, dvalues if need_values else None


# In order of preference. Dispatch, the tests, the benchmarks and the planner all read this list:
# to add a backend, add a line here. On a GPU, too, `gather` is first: it is the dense library's
# product, and the Triton kernel has yet to be measured against it.
BACKENDS = (
    Backend("gather", gather, _gather_refuses, gather_backward),
    *map(_compiled, ISAS),
    _without_groups(on_triton(_run("triton"), _triton_backward)),
    Backend("reference", reference, lambda *_: None),
)


def channel_pruned_conv2d(
    x: Tensor,
    weight: ChannelPrunedWeight,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Convolves with the kept channels of a weight; a removed output channel is its bias.

    Args:
        x: (N, I, H, W) or (I, H, W), any strides.
        weight: packed (O, I, kH, kW).
        bias: (O), or None.
        stride, padding, dilation: as in torch.nn.functional.conv2d; padding in numbers.
        groups: 1; more are refused by all backends but the reference.
        activation: None, "relu", "relu6", "silu", "hardswish", "gelu", "gelu_tanh" (its
            approximation by tanh) or "leaky_relu(0.01)" with any slope, applied to the output.
        residual: (N, O, H', W'), of x's dtype, added before the activation, or None.
        out: (N, O, H', W'), of x's dtype, to write to, as `whole[:, 8:24]` of a contiguous or
            channels_last tensor; or None. No argument may want a gradient then.
        backend: a name in `BACKENDS`, or "auto" for the first that runs these arguments.

    Returns:
        (N, O, H', W') or (O, H', W'), of x's dtype and device; channels_last if x is. Or `out`.
        Beside it, compiled backends take scratch memory of about the padded input (on small maps
        of one for each column of the kernel, up to 512 KB) and the kept weights, and for each
        thread of some lines of the output.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or there is no such backend or activation.
        RuntimeError: the backend asked for refuses these arguments; the message says why. Or `out`
            wants a gradient, or a kernel cannot write to it: its strides are others, or it shares
            memory with x or residual.
    """
    return conv2d(
        BACKENDS,
        x,
        weight,
        bias,
        stride,
        padding,
        dilation,
        groups,
        activation,
        residual,
        out,
        backend,
    )
