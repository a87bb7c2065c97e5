"""Stretches of the whole model: taken where they are surely faster than what was settled without.

A layer that stays dense breaks a stretch, and what it reads and writes has to be turned around. So
there are two ways to try: all convolutions packed, those without zeros too, and only those that
were packed before.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from sparse_ops.convert import fuse, stretch
from sparse_ops.convert.assemble import LayerPlan, weight_name
from sparse_ops.convert.candidates import LAYERS, PORTABLE
from sparse_ops.convert.context import Context
from sparse_ops.convert.environment import best_isa
from sparse_ops.convert.fastest import fastest_layout, try_compiled
from sparse_ops.convert.forms import channels_last_call, failure
from sparse_ops.convert.fuse import Fusion
from sparse_ops.convert.layout import CHANNELS_LAST
from sparse_ops.convert.prepare import keeps_dense
from sparse_ops.convert.stretch import Stretch
from sparse_ops.convert.stretch_nodes import FEWEST_IMAGES
from sparse_ops.convert.verify import Mismatch, check_model
from sparse_ops.convert.whole import Settled, against, converted, name_of
from sparse_ops.nn import ChannelPrunedConv2d
from sparse_ops.nn._conv import SparseConv2d
from sparse_ops.ops._native import ISAS

# The fastest kernels for blocked tensors, and for others what the operator has first.
AUTO = "auto"


@dataclass(frozen=True, eq=False)
class _Way:
    """A model with stretches: what becomes of its layers, and what is done in its graph."""

    layers: list[LayerPlan]
    fusions: list[Fusion]
    stretches: list[Stretch]
    model: nn.Module


def settle_stretches(context: Context, settled: Settled, budget_s: float) -> Settled:
    """What is settled, or the same with stretches where the whole model is surely faster so.

    Args:
        settled: what the ordinary way came to, which may be that nothing is packed.

    Raises:
        Mismatch: a model with stretches computes something else.
    """
    if settled.unfused or refuses(context) is not None:
        return settled
    try:
        return _settle(context, settled, budget_s)
    except Mismatch:
        raise
    except Exception as error:
        # As fast as it was without; the plan says so.
        return replace(settled, unfused=f"no layer runs on blocked tensors: {failure(error)}")


def refuses(context: Context) -> str | None:
    """Why stretches are not to be tried, or None if they are."""
    if best_isa() in (None, PORTABLE):
        return "there is no compiled code for this machine's vector instructions"
    images = [x for x in context.example if isinstance(x, Tensor) and x.dim() == 4]
    if not images or any(x.dtype != torch.float32 or not x.is_cpu for x in images):
        return "its inputs are no float32 images on the CPU"
    if len(images[0]) < FEWEST_IMAGES:
        return f"a batch of {len(images[0])} is less than {FEWEST_IMAGES}"
    return None


def _settle(context: Context, settled: Settled, budget_s: float) -> Settled:
    ends = time.perf_counter() + budget_s
    dense_forms, to_beat = settled.dense, settled.to_beat
    if to_beat is None:
        to_beat = partial(context.dense, *context.example)
        if dense_forms.fastest == CHANNELS_LAST:
            to_beat = channels_last_call(context.dense, context.example)
    best, call = settled, settled.call or to_beat
    share = budget_s / 5
    for way in _ways(context, settled.layers):
        check_model(context.base, way.model, context.example)
        about = f"{name_of(way.layers)} blocked"
        forms, blocked = fastest_layout(context, way.model, about, share)
        fastest = best.packed if best.call else dense_forms
        what = {"forms": [fastest.fastest, forms.fastest], "of": [best.about, about]}
        measured = context.timed_whole(what, call, blocked, share)
        if measured.low > 1:
            call = blocked
            best = Settled(way.layers, measured, dense_forms, forms, way.fusions)
            best = replace(best, stretches=way.stretches, call=call, about=about)
        if time.perf_counter() > ends:
            break
    if best is settled:
        return settled
    if settled.to_beat is None:
        # Nothing was packed before, so that nobody has asked how fast dense is when compiled.
        dense_forms, to_beat = try_compiled(
            context, context.dense, "dense", dense_forms, to_beat, share
        )
    whole = against(context, dense_forms, to_beat, best.packed, call, best.about, share)
    if whole.speedup <= 1:
        return settled
    return replace(best, whole=whole, dense=dense_forms, to_beat=to_beat)


def _ways(context: Context, layers: list[LayerPlan]) -> Iterator[_Way]:
    """The models to try, those that differ: all convolutions of stretches packed, then fewer."""
    every = _way_with(context, layers, [_packed_anyway(context, layer) for layer in layers])
    if every is not None:
        yield every
    if any(layer.becomes is not None for layer in layers):
        own = _way_with(context, layers, [_on_kernels(layer) for layer in layers])
        if own is not None and (every is None or own.layers != every.layers):
            yield own


def _way(context: Context, layers: list[LayerPlan]) -> _Way | None:
    """The model with these layers packed, and with all of its stretches; None if it has none."""
    model = converted(context, layers)
    fusions = fuse.find(model, fuse.shapes_of(model, context.example))
    if fusions:
        model = fuse.fused(model, fusions)
    stretches = stretch.find(model, fuse.shapes_of(model, context.example))
    if not stretches:
        return None
    return _Way(layers, fusions, stretches, stretch.blocked(model, stretches))


def _way_with(context: Context, layers: list[LayerPlan], changed: list[LayerPlan]) -> _Way | None:
    """As `_way`, where layers are changed like this, those only that stand in a stretch."""
    packed = changed
    while (way := _way(context, packed)) is not None:
        inside = {name for each in way.stretches for name in each.nodes}
        fewer = [
            new if new is old or new.name in inside else old
            for new, old in zip(packed, layers, strict=True)
        ]
        if all(new is old for new, old in zip(packed, fewer, strict=True)):
            return way
        packed = fewer
    return None


def _on_kernels(layer: LayerPlan) -> LayerPlan:
    """A packed convolution on a backend that has kernels for blocked tensors; or as it is."""
    if layer.becomes is None or layer.kind != "Conv2d" or layer.backend in (*ISAS, AUTO):
        return layer
    return replace(layer, backend=AUTO)


def _packed_anyway(context: Context, layer: LayerPlan) -> LayerPlan:
    """A layer that stays dense as the most regular sparse one that it can be; or as it is."""
    if layer.becomes is not None or layer.constant or layer.kind != "Conv2d":
        return _on_kernels(layer)
    dense = context.base.get_submodule(layer.name)
    if not isinstance(dense, nn.Conv2d) or keeps_dense(context.base, layer.name) is not None:
        return layer
    if dense.groups == dense.in_channels > 1:
        # Each of its filters reads one channel only: there is little to be had from a kernel.
        return layer
    mask = context.masks.get(weight_name(layer.name))
    if (kind := _kind(dense, mask)) is None:
        return layer
    _, activation = context.folding.activations.get(layer.name, ("", None))
    reason = (
        "packed because of the stretch that it stands in; without that it stays dense: "
        f"{layer.reason}"
    )
    return replace(layer, becomes=kind, backend=AUTO, activation=activation, reason=reason)


def _kind(dense: nn.Conv2d, mask: Tensor | None) -> str | None:
    """The class of the most regular sparse layer that a convolution can become."""
    if mask is None or bool(mask.all()):
        if dense.groups == 1:
            # Outside of stretches, at small batches, that is the dense library.
            return ChannelPrunedConv2d.__name__
        mask = torch.ones_like(dense.weight, dtype=torch.bool)
    kinds: Sequence[type] = [e.layer for e in LAYERS if issubclass(e.layer, SparseConv2d)]
    return next((k.__name__ for k in kinds if k.refuses(dense, mask) is None), None)  # type: ignore[attr-defined]
