"""Choosing for one layer: every candidate, in both layouts, is timed against dense.

A layer is replaced only where the replacement is surely faster: in nine of ten pairs.
"""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.planning import candidates
from sparse_ops.planning.assemble import LayerPlan, weight_name
from sparse_ops.planning.candidates import Candidate
from sparse_ops.planning.context import Context, about_tensor
from sparse_ops.planning.copies import sharing_copy
from sparse_ops.planning.describe import GEOMETRY, TRANSPOSED
from sparse_ops.planning.forms import Call as Run
from sparse_ops.planning.images import FEW
from sparse_ops.planning.layout import in_channels_last, take_channels_last_
from sparse_ops.planning.masked import Call
from sparse_ops.planning.measure import Comparison, scaled
from sparse_ops.planning.progress import Step
from sparse_ops.planning.verify import check_layer, exactly

# What a few calls show to be this many times as slow as the fastest is not timed at length.
HOPELESS = 1.5
TRIAL_CALLS = 3
# A layer is compared in float64 on images with so many multiply-accumulates, about.
CHECKED_MACS = 2e8


def decide(
    context: Context, layer: LayerPlan, call: Call, channels_last: bool, budget_s: float, step: Step
) -> LayerPlan:
    """Times every candidate of a layer against dense.

    Args:
        channels_last: whether that is the faster layout of the dense model, and so the one that the
            layer has to be faster than.
    """
    step(f"layer {layer.name or layer.kind}")
    dense = context.base.get_submodule(layer.name)
    mask = context.masks[weight_name(layer.name)]
    plain, activation = activated(context, layer, dense)
    found, refusals = candidates.find(dense, mask, call.x, activation)
    layer = with_floor(context, layer, call)
    if not found:
        return replace(layer, reason="; ".join(refusals), refused=tuple(refusals))

    runs = _runs(found, call.x)
    to_beat: Run = partial(plain, call.x)
    if channels_last and call.x.dim() == 4:
        planar = take_channels_last_(sharing_copy(plain))
        to_beat = partial(planar, in_channels_last(call.x))
    key = about(context, layer, dense, call.x, activation, channels_last)
    names = list(runs)
    hopeless: list[str] = []
    # On a GPU the host's time for a call says nothing of the device's, and there are few.
    if context.cache is not None and len(names) > 1 and not call.x.is_cuda:
        names, hopeless = _promising(context, key, runs)
    whats = {name: {**key, "candidate": name} for name in names}
    share = budget_s / len(names)
    new = [name for name in names if not context.knows(whats[name], share)]
    _check(context, layer, dense, call, [runs[name][0] for name in new])
    measured = {
        name: scaled(context.timed(whats[name], to_beat, runs[name][1], share), context.scale)
        for name in names
    }
    layer = replace(layer, refused=tuple(refusals), slower=tuple(hopeless))
    return _verdict(layer, call, activation, runs, measured)


def activated(context: Context, layer: LayerPlan, dense: nn.Module) -> tuple[nn.Module, str | None]:
    """A layer with the activation that its packed one is to apply, and the name of that."""
    if layer.name not in context.folding.activations:
        return dense, None
    place, activation = context.folding.activations[layer.name]
    return nn.Sequential(dense, context.base.get_submodule(place)), activation


def _check(
    context: Context, layer: LayerPlan, dense: nn.Module, call: Call, found: list[Candidate]
) -> None:
    """Compares what is going to be timed with dense, on no more images than have to be.

    What is chosen is compared once more by `apply`.
    """
    if not found:
        return
    x = call.x
    if (x.dim() == 4 or isinstance(dense, nn.Linear)) and len(x) > FEW:
        of_image = layer.macs / (context.scale * call.calls * len(x))
        x = x[: max(FEW, int(CHECKED_MACS / max(1.0, of_image)))]
    exact = exactly(dense, x)
    for candidate in dict.fromkeys(found):
        check_layer(layer.name, dense, candidate.layer, exact)


def _runs(found: list[Candidate], x: Tensor) -> dict[str, tuple[Candidate, Run]]:
    """Name -> a candidate in one layout, and its call."""
    runs: dict[str, tuple[Candidate, Run]] = {}
    for candidate in found:
        name = f"{candidate.kind} on {candidate.backend}"
        runs[name] = candidate, partial(candidate.layer, x)
        if x.dim() == 4:
            planar = partial(candidate.layer, in_channels_last(x))
            runs[f"{name} in channels_last"] = candidate, planar
    return runs


def about(
    context: Context,
    layer: LayerPlan,
    dense: nn.Module,
    x: Tensor,
    activation: str | None,
    channels_last: bool,
) -> dict[str, Any]:
    """What the measurements of a layer are kept under."""
    return {
        "what": "layer",
        "mask": context.mask_digest(weight_name(layer.name)),
        "weight": [layer.kind, list(layer.shape), str(dense.get_parameter("weight").dtype)],
        "bias": getattr(dense, "bias", None) is not None,
        "geometry": [str(getattr(dense, name, None)) for name in _geometry(dense)],
        "x": about_tensor(x),
        "activation": activation,
        "channels_last": channels_last,
    }


def _geometry(dense: nn.Module) -> tuple[str, ...]:
    return TRANSPOSED if isinstance(dense, nn.ConvTranspose2d) else GEOMETRY


@torch.inference_mode()
def _promising(
    context: Context, key: dict[str, Any], runs: dict[str, tuple[Candidate, Run]]
) -> tuple[list[str], list[str]]:
    """The names of what may be fastest, and why the others cannot be."""
    assert context.cache is not None
    what = {**key, "what": "trial", "candidates": list(runs)}
    kept = context.cache.get(what)
    if not isinstance(kept, dict) or kept.keys() != runs.keys():
        kept = {name: _trial(run) for name, (_, run) in runs.items()}
        context.cache.put(what, kept)
    least = min(kept.values())
    good = [name for name in runs if kept[name] <= HOPELESS * least]
    slow = [
        f"{name}: {kept[name] / least:.1f} times as slow as the fastest in a short trial"
        for name in runs
        if name not in good
    ]
    return good, slow


def _trial(run: Run) -> float:
    run()
    best = float("inf")
    for _ in range(TRIAL_CALLS):
        before = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - before)
    return best


def _verdict(
    layer: LayerPlan,
    call: Call,
    activation: str | None,
    runs: dict[str, tuple[Candidate, Run]],
    measured: dict[str, Comparison],
) -> LayerPlan:
    """What becomes of a layer whose candidates compare with dense like this."""
    # The first of equally fast ones: max keeps it.
    best = max(measured, key=lambda name: measured[name].speedup)
    candidate, comparison = runs[best][0], measured[best]
    repeated = f"; called {call.calls} times, timed on its first input" if call.calls > 1 else ""
    slower = [
        f"{name}: {other.speedup:.2f} times as fast as dense, {best} {comparison.speedup:.2f}"
        for name, other in measured.items()
        if name != best
    ]
    layer = replace(layer, measured=comparison, slower=(*layer.slower, *slower))
    if comparison.low <= 1:
        return replace(layer, reason=f"{best} is not surely faster here{repeated}")
    return replace(
        layer,
        becomes=candidate.kind,
        backend=candidate.backend,
        activation=activation,
        reason=f"{best} is the fastest of {len(runs)} candidates{repeated}",
    )


def with_floor(context: Context, layer: LayerPlan, call: Call) -> LayerPlan:
    """Adds the least time that the machine could take for the layer's kept weights."""
    if context.floors is None:
        return layer
    each = call.x.element_size()
    calls = max(1, call.calls)
    moved = context.scale * (call.x.numel() + call.outputs // calls)
    size = round(each * (moved + layer.nnz))
    floor_ms = context.floors.milliseconds(layer.kept_macs // calls, size)
    return replace(layer, floor_ms=floor_ms, bytes=calls * size)
