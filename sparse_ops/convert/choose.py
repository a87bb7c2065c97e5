"""Choosing: for each layer the fastest candidate, and for the model the layers that help.

A layer is replaced only where the replacement is surely faster: in nine of ten pairs. The whole
model must be faster in the median, or layers go back to dense until it is.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.convert import candidates
from sparse_ops.convert.assemble import LayerPlan, assemble_, weight_name
from sparse_ops.convert.fold import Folding
from sparse_ops.convert.measure import Comparison
from sparse_ops.convert.prepare import Call
from sparse_ops.convert.progress import Step
from sparse_ops.convert.verify import check_layer

Run = Callable[[], object]
Measure = Callable[[Run, Run, float], Comparison]


@dataclass(frozen=True, eq=False)
class Context:
    """What all steps of one planning share.

    Attributes:
        dense: the masked copy, BatchNorm folded, in eval mode: what is to be beaten.
        base: the same without the channels that were removed; `dense` itself if none was.
        measure: what compares two callables within some seconds.
    """

    dense: nn.Module
    base: nn.Module
    masks: Mapping[str, Tensor]
    example: tuple[Any, ...]
    folding: Folding
    measure: Measure


def decide(
    context: Context, layer: LayerPlan, call: Call, budget_s: float, step: Step
) -> LayerPlan:
    """Times every candidate of a layer against dense."""
    dense = context.base.get_submodule(layer.name)
    mask = context.masks[weight_name(layer.name)]
    plain, activation = dense, None
    if layer.name in context.folding.activations:
        place, activation = context.folding.activations[layer.name]
        plain = nn.Sequential(dense, context.base.get_submodule(place))
    found, refusals = candidates.find(dense, mask, call.x, activation)
    best: tuple[candidates.Candidate, Comparison] | None = None
    for candidate in found:
        check_layer(layer.name, dense, candidate.layer, call.x)
        measured = context.measure(
            partial(plain, call.x), partial(candidate.layer, call.x), budget_s / len(found)
        )
        if best is None or measured.speedup > best[1].speedup:
            best = candidate, measured
    step()
    if best is None:
        return replace(layer, reason="; ".join(refusals))
    candidate, measured = best
    repeated = f"; called {call.calls} times, timed on its first input" if call.calls > 1 else ""
    if measured.low <= 1:
        reason = f"{candidate.kind} on {candidate.backend} is not surely faster here{repeated}"
        return replace(layer, measured=measured, reason=reason)
    return replace(
        layer,
        becomes=candidate.kind,
        backend=candidate.backend,
        activation=activation,
        measured=measured,
        reason=f"fastest of {len(found)} candidates{repeated}",
    )


def _back_to_dense(layer: LayerPlan, reason: str) -> LayerPlan:
    return replace(layer, becomes=None, backend=None, activation=None, reason=reason)


def converted(context: Context, layers: Sequence[LayerPlan]) -> nn.Module:
    """A copy of the base with these layers packed."""
    return assemble_(copy.deepcopy(context.base), context.masks, layers, context.folding)


def _failure(model: nn.Module, example: tuple[Any, ...]) -> str | None:
    try:
        with torch.no_grad():
            model(*example)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _drop_unusable(context: Context, layers: list[LayerPlan]) -> list[LayerPlan]:
    """Sends back to dense the layers with which the model fails, for it reads their weight, say."""
    if _failure(converted(context, layers), context.example) is None:
        return layers
    kept = []
    for layer in layers:
        alone = layer.becomes and _failure(converted(context, [layer]), context.example)
        reason = f"the model fails with the packed layer ({alone})"
        kept.append(_back_to_dense(layer, reason) if alone else layer)
    return kept


def _to_beat(context: Context, budget_s: float) -> tuple[Run, str | None]:
    """The faster of the dense model as it is and in channels_last; a note if it is the latter."""
    example = context.example
    plain = partial(context.dense, *example)
    images = any(isinstance(x, Tensor) and x.dim() == 4 for x in example)
    if not images or not any(isinstance(m, nn.Conv2d) for m in context.dense.modules()):
        return plain, None
    planar = channels_last_call(context.dense, example)
    measured = context.measure(plain, planar, budget_s)
    if measured.speedup <= 1:
        return plain, None
    note = f"dense is {measured.speedup:.2f} times as fast in channels_last: that was to be beaten"
    return planar, note


def channels_last_call(model: nn.Module, example: tuple[Any, ...]) -> Run:
    """A call of the model, copied, in channels_last; the images are converted in the call."""
    planar: Any = copy.deepcopy(model)
    planar.to(memory_format=torch.channels_last)

    def brought(x: Any) -> Any:
        images = isinstance(x, Tensor) and x.dim() == 4
        return x.contiguous(memory_format=torch.channels_last) if images else x

    return lambda: planar(*(brought(x) for x in example))


def settle(
    context: Context, layers: list[LayerPlan], budget_s: float, step: Step
) -> tuple[list[LayerPlan], Comparison | None, str | None]:
    """Times the whole model; while it is not faster, what gains least goes back to dense.

    Returns:
        The layers; how the whole compares, or None if nothing is faster; a note, or None.
    """
    layers = _drop_unusable(context, layers)
    whole = note = None
    share = budget_s / 2
    shrunk = context.base is not context.dense
    if shrunk or any(layer.becomes is not None for layer in layers):
        dense, note = _to_beat(context, budget_s / 4)
    while (packed := [layer for layer in layers if layer.becomes is not None]) or shrunk:
        fast = converted(context, layers)
        whole = context.measure(dense, partial(fast, *context.example), share)
        if whole.speedup > 1:
            break
        if not packed:
            whole = None
            break
        worst = min(packed, key=_gain)
        reason = f"faster alone, but the whole model was not faster with it ({whole.speedup:.2f})"
        index = layers.index(worst)
        layers = [*layers[:index], _back_to_dense(worst, reason), *layers[index + 1 :]]
        share = budget_s / 2 / len(packed)
        whole = None
    step()
    return layers, whole, note


def _gain(layer: LayerPlan) -> float:
    assert layer.measured is not None
    return layer.measured.dense_ms - layer.measured.packed_ms
