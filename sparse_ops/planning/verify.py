"""Verifying: a packed layer or model must equal the masked dense one within rounding.

For a layer with n terms per output, in a dtype of unit roundoff u, arithmetic alone bounds the
error from the result y64 in float64:

    |y - y64|  <=  n * 2^-24 * (|x| conv |w| + |b|)  +  u * |y64|

An honest kernel stays below 1 times this; one that drops a small weight is far above. An activation
widens the first term by its steepest slope, and adds a few roundings of its own.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from sparse_ops.graph.inputs import Inputs, calling
from sparse_ops.graph.running import (
    copied_example,
    first_run,
    kept_as_it_is,
    same_outputs,
    seeded,
    tensors_in,
)
from sparse_ops.nn import SparseLayer
from sparse_ops.ops._activation import ACTIVATIONS
from sparse_ops.passes.winograd import LARGE, LARGE_TILES_FACTOR, tiles_of
from sparse_ops.planning.layout import is_channels_last
from sparse_ops.program.model import programs_of

# The steepest slope of each activation.
SLOPES = {
    None: 1.0,
    "relu": 1.0,
    "relu6": 1.0,
    "silu": 1.1,
    "hardswish": 1.5,
    "gelu": 1.13,
    "gelu_tanh": 1.13,
}
# Roundings of an activation itself: an exponential and a quotient at most, a few ulp each.
ACTIVATION_ULPS = 8

# A model's error is compared with that of the dense model in the same precision. Both are one draw
# of the same roundings in another order, so that their largest errors differ by a small factor.
MODEL_FACTOR = 8.0
# The dense model may be exact by luck; then an error of some ulp of the largest output is honest.
# 17 have been seen of torch's own layers, an untrained VGG-16 without its masked filters, where the
# one with them was off by 2; a kernel that leaves out a weight is off by thousands.
MODEL_ULPS = 64.0


class Mismatch(RuntimeError):
    """A packed layer or model does not compute what the dense one does."""


def _smallest(dtype: torch.dtype) -> float:
    """What may be lost next to zero: denormals, where kernels flush them; else half of one."""
    info = torch.finfo(dtype)
    return info.tiny if info.tiny < 1e-30 else info.tiny * info.eps


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
    """Runs a Conv2d or Linear in float64, some output channels at a time."""
    outputs = len(dense.get_parameter("weight"))
    groups = dense.groups if isinstance(dense, nn.Conv2d | nn.Conv1d) else 1
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
    channels = -3 if isinstance(dense, nn.Conv2d) else -2 if isinstance(dense, nn.Conv1d) else -1
    return Exact(x, torch.cat(signed, channels), torch.cat(absolute, channels))


def _wide_part(dense: nn.Module, rows: slice) -> nn.Module:
    """Some output channels of a layer, in float64; the layer's own weights are not copied whole."""
    memo: dict[int, Any] = {}
    for parameter in dense.parameters(recurse=False):
        wide = parameter.detach()[rows].double()
        memo[id(parameter)] = nn.Parameter(wide, requires_grad=False)
    return copy.deepcopy(dense, memo)


@torch.no_grad()
def layer_error(dense: nn.Module, packed: SparseLayer, x: Tensor | Exact) -> float:
    """The largest error of a packed layer on x, as a multiple of the bound; honest is up to 1.

    Args:
        dense: the masked Conv2d or Linear, without the activation that `packed` may apply.
        packed: the sparse layer.
        x: an input of both, or what `exactly` says of it, where several are compared. What is not
            finite in float64, or too large for the dtype, is left out.
    """
    exact = x if isinstance(x, Exact) else exactly(dense, x)
    y = packed(exact.x)
    y64 = ACTIVATIONS[packed.activation](exact.y)

    info = torch.finfo(y.dtype)
    # Some filters at a time: a sum of bools takes eight bytes for each of them.
    parts = packed.mask().flatten(1).split(64)
    terms = 1 + max((int(part.sum(1).max()) for part in parts if part.numel()), default=0)
    bound = SLOPES[packed.activation] * terms * 2.0**-24 * exact.magnitude
    ulps = 1 if packed.activation is None else ACTIVATION_ULPS
    bound += ulps * info.eps / 2 * y64.abs() + _smallest(y.dtype)
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
            f"times what rounding can explain, for x {shape} and weight {packed.shape}"
        )


def float_tensors(output: Any) -> list[Tensor]:
    """The floating point tensors in what a model returns."""
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]


def _in_float64(model: nn.Module) -> nn.Module:
    """The model, whose modules have float64 weights while they run, and only then.

    So there is never a second copy of all weights, twice as large as the first.
    """
    # Shared with the model: the copy only has hooks, and references of its own.
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    wide = copy.deepcopy(model, memo)
    for module in wide.modules():
        _widen_while_running(module)
    return wide


def _widen_while_running(module: nn.Module) -> None:
    narrow: list[tuple[dict[str, Any], str, Tensor]] = []

    def widen(*_: object) -> None:
        kinds: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for kind in kinds:
            for name, tensor in kind.items():
                if tensor is not None and tensor.is_floating_point():
                    narrow.append((kind, name, tensor))
                    wide = tensor.detach().double()
                    kind[name] = nn.Parameter(wide) if kind is module._parameters else wide

    def narrow_again(*_: object) -> None:
        while narrow:
            kind, name, tensor = narrow.pop()
            kind[name] = tensor

    module.register_forward_pre_hook(widen, prepend=True)
    module.register_forward_hook(narrow_again, always_call=True)


def _truth(model: nn.Module, example: tuple[Any, ...]) -> list[Tensor]:
    """The outputs of the model in float64."""
    wide = tree_map_only(
        Tensor, lambda x: x.double() if x.is_floating_point() else x, tuple(copied_example(example))
    )
    inputs = example.like(wide) if isinstance(example, Inputs) else wide
    try:
        return float_tensors(calling(_in_float64(model), inputs)())
    except Exception:
        # A module that reads the weights of another one finds them narrow; then all at once.
        return float_tensors(calling(copy.deepcopy(model).double(), inputs)())


@torch.no_grad()
def check_model(dense: nn.Module, packed: nn.Module, example: tuple[Any, ...]) -> str | None:
    """Compares a packed model with its masked dense one on an example.

    The error of each output from that of the dense model in float64 may be `MODEL_FACTOR` times
    that of the dense model itself, or `MODEL_ULPS` of its largest number. Where the dense model
    does not run in float64, half of the digits have to agree with the dense model's own.

    Returns:
        None if they were compared by the bound; else what stands against that, in words.

    Raises:
        Mismatch: an output has another shape, or is further off.
    """
    # Models may write to their inputs, keep what they are given, and draw random numbers.
    ours = float_tensors(first_run(packed, example).output)
    theirs = float_tensors(first_run(dense, example).output)
    note = None if ours or theirs else "the model gives nothing that holds floating point tensors"
    try:
        with kept_as_it_is(dense), seeded():
            truth = _truth(dense, example)
    except Exception as failure:
        note = f"the model does not run in float64 ({type(failure).__name__}: {failure})"
        truth = [t.double() for t in theirs]
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        raise Mismatch(
            f"the packed model gives {[tuple(t.shape) for t in ours]}, "
            f"the dense one {[tuple(t.shape) for t in theirs]}"
        )
    if [t.shape for t in truth] != [t.shape for t in theirs]:
        note, truth = "in float64 the model gives other shapes", [t.double() for t in theirs]
    if note is None and _is_other(truth, theirs) and _is_other(_drawn(dense, example, 1), theirs):
        # Of float64 there are other random numbers, for which errors would be allowed.
        note, truth = RANDOM, [t.double() for t in theirs]
    wrong = _difference(ours, theirs, truth, note is None, _factor(packed))
    if wrong is None:
        return note
    if _is_other(_drawn(dense, example, 0), theirs):
        return "the model gives something else in each call, so that it was not compared as a whole"
    other_layout = is_channels_last(packed) != is_channels_last(dense)
    if other_layout and _is_other(_drawn(dense, example, 1), theirs):
        return f"{RANDOM}: others in another layout, so that it was not compared as a whole"
    raise Mismatch(wrong)


def _factor(packed: nn.Module) -> float:
    """How many times as large the errors of a model may be, by the kernels that it asked for."""
    found = [programs_of(module) for module in packed.modules()]
    large = any(own is not None and tiles_of(own.graph) == LARGE for own in found)
    return LARGE_TILES_FACTOR if large else 1.0


RANDOM = "the model draws random numbers"


def _drawn(model: nn.Module, example: tuple[Any, ...], seed: int) -> list[Tensor]:
    return float_tensors(first_run(model, example, seed).output)


def _is_other(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether half of the digits of some output differ."""
    alike = [a.to(b.dtype) if a.shape == b.shape else a for a, b in zip(ours, theirs, strict=False)]
    return not same_outputs(alike, theirs)


def _difference(
    ours: list[Tensor], theirs: list[Tensor], truth: list[Tensor], exact: bool, factor: float
) -> str | None:
    """What of the packed model's outputs is off, in words; None if nothing is.

    Args:
        exact: whether the truth is that of float64; else half of the digits have to agree.
        factor: how many times as far off as usual they may be.
    """
    for index, (y, plain, y64) in enumerate(zip(ours, theirs, truth, strict=True)):
        judged = y64.isfinite() & plain.isfinite()
        if not bool(judged.any()):
            continue
        errors = (y.double() - y64).abs().nan_to_num(nan=float("inf")).where(judged, 0)
        error, largest = float(errors.max()), float(y64[judged].abs().max())
        dense_error = float((plain.double() - y64)[judged].abs().max())
        eps = torch.finfo(y.dtype).eps
        allowed = factor * max(MODEL_FACTOR * dense_error, MODEL_ULPS * eps / 2 * largest)
        if not exact:
            allowed = math.sqrt(eps) * largest
        if error > allowed + _smallest(y.dtype):
            place = int(errors.argmax())
            return (
                f"output {index} of the packed model is off by {error:.3g}, that of the dense one "
                f"by {dense_error:.3g}: where it is worst they give {float(y.flatten()[place]):.6g}"
                f" and {float(plain.flatten()[place]):.6g}"
            )
    return None
