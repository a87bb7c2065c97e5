"""Verifying layers: a packed one must equal the masked dense one within rounding.

For a layer with n terms per output, in a dtype of unit roundoff u, arithmetic alone bounds the
error from the result y64 in float64:

    |y - y64|  <=  n * 2^-24 * (|x| conv |w| + |b|)  +  u * |y64|

An honest kernel stays below 1 times this; one that drops a small weight is far above. An activation
widens the first term by its steepest slope, and adds a few roundings of its own.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.nn import SparseLayer
from sparse_ops.ops._activation import function_of, slope_of
from sparse_ops.planning.differences import Mismatch, smallest

# The steepest slope of each activation without a parameter.
_SLOPES = {
    None: 1.0,
    "relu": 1.0,
    "relu6": 1.0,
    "silu": 1.1,
    "hardswish": 1.5,
    "gelu": 1.13,
    "gelu_tanh": 1.13,
}


def steepest(activation: str | None) -> float:
    """The steepest slope of an activation."""
    slope = slope_of(activation)
    return _SLOPES[activation] if slope is None else max(1.0, abs(slope))


# Roundings of an activation itself: an exponential and a quotient at most, a few ulp each.
ACTIVATION_ULPS = 8
# Output channels are taken so many at a time that a float64 copy of their weights stays small.
MOST_WIDE_WEIGHTS = 1 << 20


@dataclass(frozen=True, eq=False)
class Exact:
    """What a dense layer computes on x, in float64, and the same of all absolute values."""

    x: Tensor
    y: Tensor
    magnitude: Tensor


@torch.no_grad()
def exactly(dense: nn.Module, x: Tensor) -> Exact:
    """Runs a convolution or Linear in float64, some output channels at a time."""
    outputs = dense.get_parameter("weight").shape[_axis_of_outputs(dense)]
    groups = getattr(dense, "groups", 1)
    each = outputs
    if groups == 1 and dense.get_parameter("weight").numel() > MOST_WIDE_WEIGHTS:
        each = max(1, MOST_WIDE_WEIGHTS * outputs // dense.get_parameter("weight").numel())
    wide_x = x.double()
    signed, absolute = [], []
    for start in range(0, outputs, each):
        part = _wide_part(dense, slice(start, start + each))
        signed.append(part(wide_x))
        for parameter in part.parameters():
            parameter.abs_()
        absolute.append(part(wide_x.abs()))
    images = isinstance(dense, nn.Conv2d | nn.ConvTranspose2d)
    channels = -3 if images else -2 if isinstance(dense, nn.Conv1d) else -1
    return Exact(x, torch.cat(signed, channels), torch.cat(absolute, channels))


def _wide_part(dense: nn.Module, rows: slice) -> nn.Module:
    """Some output channels of a layer, in float64; the layer's own weights are not copied whole."""
    memo: dict[int, Any] = {}
    for parameter in dense.parameters(recurse=False):
        axis = _axis_of_outputs(dense) if parameter.dim() > 1 else 0
        own = parameter.detach()[(slice(None),) * axis + (rows,)]
        # A copy also of what is float64 already: `exactly` writes to it.
        wide = own.to(torch.float64, copy=True)
        memo[id(parameter)] = nn.Parameter(wide, requires_grad=False)
    return copy.deepcopy(dense, memo)


def _axis_of_outputs(dense: nn.Module) -> int:
    """Which dimension of a layer's weight its outputs are."""
    return int(isinstance(dense, nn.ConvTranspose2d) and dense.groups == 1)


@torch.no_grad()
def layer_error(dense: nn.Module, packed: SparseLayer, x: Tensor | Exact) -> float:
    """The largest error of a packed layer on x, as a multiple of the bound; honest is up to 1.

    Args:
        dense: the masked convolution or Linear, without the activation that `packed` may apply.
        packed: the sparse layer.
        x: an input of both, or what `exactly` says of it, where several are compared. What is not
            finite in float64, or too large for the dtype, is left out.
    """
    exact = x if isinstance(x, Exact) else exactly(dense, x)
    y = packed(exact.x)
    y64 = function_of(packed.activation)(exact.y)

    info = torch.finfo(y.dtype)
    # Some filters at a time: a sum of bools takes eight bytes for each of them.
    parts = packed.mask_of_rows().flatten(1).split(64)
    terms = 1 + max((int(part.sum(1).max()) for part in parts if part.numel()), default=0)
    bound = steepest(packed.activation) * terms * 2.0**-24 * exact.magnitude
    ulps = 1 if packed.activation is None else ACTIVATION_ULPS
    bound += ulps * info.eps / 2 * y64.abs() + smallest(y.dtype)
    judged = bound.isfinite() & y64.isfinite() & (y64.abs() <= info.max)
    if y.shape != y64.shape:
        return float("inf")
    if not bool(judged.any()):
        return 0.0
    error = ((y.double() - y64).abs() / bound)[judged]
    return float(error.nan_to_num(nan=float("inf")).max())


def check_layer(name: str, dense: nn.Module, packed: SparseLayer, x: Tensor | Exact) -> None:
    """Compares a packed layer with its masked dense one on x.

    Raises:
        Mismatch: its error is above the bound; the message names the layer.
    """
    error = layer_error(dense, packed, x)
    if error > 1:
        shape = tuple(x.x.shape if isinstance(x, Exact) else x.shape)
        raise Mismatch(
            f"{name}: {type(packed).__name__} on backend {packed.backend} is wrong by {error:.3g} "
            f"times what rounding can explain, for x {shape} and weight {packed.shape}",
            of_kernel=True,
        )
