"""Verifying: a packed layer or model must equal the masked dense one within rounding.

For a layer with n terms per output, in a dtype of unit roundoff u, arithmetic alone bounds the
error from the result y64 in float64:

    |y - y64|  <=  n * 2^-24 * (|x| conv |w| + |b|)  +  u * |y64|

An honest kernel stays below 1 times this; one that drops a small weight is far above. An activation
widens the first term by its steepest slope, and adds a few roundings of its own.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.nn import SparseLayer
from sparse_ops.ops._activation import ACTIVATIONS

# The steepest slope of each activation.
SLOPES = {None: 1.0, "relu": 1.0, "relu6": 1.0, "silu": 1.1, "hardswish": 1.5}
# Roundings of an activation itself: an exponential and a quotient at most, a few ulp each.
ACTIVATION_ULPS = 8

# A model's error is compared with that of the dense model in the same precision. Both are one draw
# of the same roundings in another order, so that their largest errors differ by a small factor.
MODEL_FACTOR = 8.0
# The dense model may be exact by luck; then an error of some ulp of the largest output is honest.
MODEL_ULPS = 16.0


class Mismatch(RuntimeError):
    """A packed layer or model does not compute what the dense one does."""


def _smallest(dtype: torch.dtype) -> float:
    """What may be lost next to zero: denormals, where kernels flush them; else half of one."""
    info = torch.finfo(dtype)
    return info.tiny if info.tiny < 1e-30 else info.tiny * info.eps


@torch.no_grad()
def layer_error(dense: nn.Module, packed: SparseLayer, x: Tensor) -> float:
    """The largest error of a packed layer on x, as a multiple of the bound; honest is up to 1.

    Args:
        dense: the masked Conv2d or Linear, without the activation that `packed` may apply.
        packed: the sparse layer.
        x: an input of both. What is not finite in float64, or too large for the dtype, is left out.
    """
    y = packed(x)
    wide = copy.deepcopy(dense).double()
    before = wide(x.double())
    y64 = ACTIVATIONS[packed.activation](before)
    for parameter in wide.parameters():
        parameter.abs_()
    magnitude = wide(x.double().abs())

    info = torch.finfo(y.dtype)
    kept = packed.mask().flatten(1).sum(1)
    terms = int(kept.max()) + 1 if kept.numel() else 1
    bound = SLOPES[packed.activation] * terms * 2.0**-24 * magnitude
    ulps = 1 if packed.activation is None else ACTIVATION_ULPS
    bound += ulps * info.eps / 2 * y64.abs() + _smallest(y.dtype)
    judged = bound.isfinite() & y64.isfinite() & (y64.abs() <= info.max)
    if y.shape != y64.shape:
        return float("inf")
    if not bool(judged.any()):
        return 0.0
    error = ((y.double() - y64).abs() / bound)[judged]
    return float(error.nan_to_num(nan=float("inf")).max())


def check_layer(name: str, dense: nn.Module, packed: SparseLayer, x: Tensor) -> None:
    """Compares a packed layer with its masked dense one on x.

    Raises:
        Mismatch: its error is above the bound; the message names the layer.
    """
    error = layer_error(dense, packed, x)
    if error > 1:
        raise Mismatch(
            f"{name}: {type(packed).__name__} on backend {packed.backend} is wrong by {error:.3g} "
            f"times what rounding can explain, for x {tuple(x.shape)} and weight {packed.shape}"
        )


def float_tensors(output: Any) -> list[Tensor]:
    """The floating point tensors in what a model returns, whatever it packs them in."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        return [t for value in output.values() for t in float_tensors(value)]
    if isinstance(output, Iterable) and not isinstance(output, str | bytes):
        return [t for value in output for t in float_tensors(value)]
    return []


def _widest(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


@torch.no_grad()
def check_model(dense: nn.Module, packed: nn.Module, example: tuple[Any, ...]) -> str | None:
    """Compares a packed model with its masked dense one on an example.

    The error of each output from that of the dense model in float64 may be `MODEL_FACTOR` times
    that of the dense model itself, or `MODEL_ULPS` of its largest number.

    Returns:
        None if they were compared; else why the dense model cannot run in float64.

    Raises:
        Mismatch: an output has another shape, or is further off.
    """
    ours, theirs = float_tensors(packed(*example)), float_tensors(dense(*example))
    try:
        wide = copy.deepcopy(dense).double()
        truth = float_tensors(wide(*[_widest(x) for x in example]))
    except Exception as failure:
        return f"the model does not run in float64 ({type(failure).__name__}: {failure})"
    if [t.shape for t in ours] != [t.shape for t in truth]:
        raise Mismatch(
            f"the packed model gives {[tuple(t.shape) for t in ours]}, "
            f"the dense one {[tuple(t.shape) for t in truth]}"
        )
    for index, (y, plain, y64) in enumerate(zip(ours, theirs, truth, strict=True)):
        judged = y64.isfinite() & plain.isfinite()
        if not bool(judged.any()):
            continue
        error = float((y.double() - y64)[judged].abs().nan_to_num(nan=float("inf")).max())
        dense_error = float((plain.double() - y64)[judged].abs().max())
        ulp = torch.finfo(y.dtype).eps / 2 * float(y64[judged].abs().max())
        allowed = max(MODEL_FACTOR * dense_error, MODEL_ULPS * ulp)
        if error > allowed + _smallest(y.dtype):
            raise Mismatch(
                f"output {index} of the packed model is off by {error:.3g}, "
                f"that of the dense one by {dense_error:.3g}"
            )
    return None
