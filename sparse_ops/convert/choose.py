"""Choosing: for each layer the fastest candidate, and for the model the layers that help.

A layer is replaced only where the replacement is surely faster: in nine of ten pairs. The whole
model must be faster in the median, or layers go back to dense until it is.
"""

import copy
from collections.abc import Callable, Mapping
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

Measure = Callable[[Callable[[], object], Callable[[], object], float], Comparison]


@dataclass(frozen=True, eq=False)
class Context:
    """What all steps of one planning share.

    Attributes:
        base: the masked copy, BatchNorm folded, in eval mode.
        measure: what compares two callables within some seconds.
    """

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


def _converted(context: Context, layers: list[LayerPlan]) -> nn.Module:
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
    if _failure(_converted(context, layers), context.example) is None:
        return layers
    kept = []
    for layer in layers:
        alone = layer.becomes and _failure(_converted(context, [layer]), context.example)
        reason = f"the model fails with the packed layer ({alone})"
        kept.append(_back_to_dense(layer, reason) if alone else layer)
    return kept


def settle(
    context: Context, layers: list[LayerPlan], budget_s: float, step: Step
) -> tuple[list[LayerPlan], Comparison | None]:
    """Times the whole model; while it is not faster, what gains least goes back to dense."""
    layers = _drop_unusable(context, layers)
    whole = None
    share = budget_s / 2
    while packed := [layer for layer in layers if layer.becomes is not None]:
        fast = _converted(context, layers)
        whole = context.measure(
            partial(context.base, *context.example), partial(fast, *context.example), share
        )
        if whole.speedup > 1:
            step()
            return layers, whole
        worst = min(packed, key=_gain)
        reason = f"faster alone, but the whole model was not faster with it ({whole.speedup:.2f})"
        index = layers.index(worst)
        layers = [*layers[:index], _back_to_dense(worst, reason), *layers[index + 1 :]]
        share = budget_s / 2 / len(packed)
    step()
    return layers, None


def _gain(layer: LayerPlan) -> float:
    assert layer.measured is not None
    return layer.measured.dense_ms - layer.measured.packed_ms
