"""Planning: every candidate of every layer is timed against dense, then the whole model."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from sparse_ops import masks as masks_
from sparse_ops.convert import fold as folding_
from sparse_ops.convert.assemble import LayerPlan, weight_name
from sparse_ops.convert.cache import Cache, digest, folder
from sparse_ops.convert.choose import decide
from sparse_ops.convert.context import Context, Measure, about_tensor, tensor_digest
from sparse_ops.convert.fold import Folding, fold_batch_norms_
from sparse_ops.convert.forms import COMPILED
from sparse_ops.convert.layout import CHANNELS_LAST
from sparse_ops.convert.measure import compare
from sparse_ops.convert.plans import Plan
from sparse_ops.convert.prepare import (
    Call,
    check_initialised,
    example_tuple,
    find_masks,
    keeps_dense,
    masked_copy,
    watch,
)
from sparse_ops.convert.progress import Step, steps
from sparse_ops.convert.roofline import floors
from sparse_ops.convert.trace import trace
from sparse_ops.convert.whole import Forms, Settled, fastest_layout, settle

# The parts of the budget: for the layout of the dense model, for the layers, for the whole model;
# the rest is for torch.compile, and for what is not timing.
LAYOUT_SHARE, LAYERS_SHARE, WHOLE_SHARE = 0.05, 0.45, 0.2


def _layer(name: str, module: nn.Module, mask: Tensor | None, call: Call | None) -> LayerPlan:
    weight = module.get_parameter("weight")
    nnz = weight.numel() if mask is None else int(mask.sum())
    kind = "Linear" if isinstance(module, nn.Linear) else "Conv2d"
    macs = 0 if call is None else call.outputs * (weight.numel() // weight.shape[0])
    return LayerPlan(name, kind, tuple(weight.shape), nnz, macs, None, None, None, None, "")


def _stays(base: nn.Module, layer: LayerPlan, mask: Tensor | None, call: Call | None) -> str | None:
    """Why a layer stays dense without being measured, or None if it may change."""
    if mask is None:
        return "it has no mask: no weight of it is zero"
    if layer.nnz == layer.weights:
        return "its mask keeps every weight"
    if layer.nnz == 0:
        return "no weight is left, so there is nothing to pack: its output is its bias"
    if call is None:
        return "the model never called it on the example"
    return keeps_dense(base, layer.name)


def plan(
    model: nn.Module,
    example: Any,
    masks: Mapping[str, Tensor] | None = None,
    *,
    threshold: float = 0.0,
    budget_s: float = 60.0,
    fold: bool = True,
    progress: bool = True,
    compile: bool = True,
    measure: Measure | None = None,
) -> Plan:
    """Finds out which layers of a pruned model to replace, by timing every way against dense.

    The model is not changed. It is measured in eval mode, on its own device, with the number of
    threads that torch has now.

    Args:
        model: any module.
        example: an input as the model will see it, batch size included; a tensor or a tuple.
        masks: parameter name -> mask; default: the model's own zeros.
        threshold: without masks, weights with |w| <= threshold count as zeros.
        budget_s: seconds that timing may take; a large model, or a compilation that has begun, may
            take somewhat longer. More is surer, not better.
        fold: whether BatchNorm and activations may be folded into the layers before them, on both
            sides of the comparison, and additions and functions into packed layers: the fast model
            is then a torch.fx.GraphModule. Needs eval mode.
        progress: whether a progress bar is shown, on the standard error stream.
        compile: whether dense under torch.compile, weights frozen, has to be beaten too: where
            there is a compiler, and a budget of 50 s or more, for it takes long. It takes memory,
            too, several times the model's; without it, planning takes less than three times.
        measure: what times dense against packed: (dense, packed, seconds) -> Comparison. Default:
            `convert.measure.compare`, its results kept on disk (`convert.cache` says where), so
            that the same model is planned faster the next time.

    Raises:
        ValueError: the example is empty, a mask does not fit, or an option is out of range.
        Mismatch: a candidate computes something else than the dense layer.
    """
    inputs = example_tuple(example)
    if not budget_s > 0:
        raise ValueError(f"budget_s must be above 0, got {budget_s}")
    check_initialised(model)
    if masks is None:
        masks = find_masks(model, threshold)
    else:
        masks = {name: mask.detach().clone() for name, mask in masks.items()}
    base = masked_copy(model, masks)
    trains = any(module.training for module in base.modules())
    watched = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, masks_.PRUNABLE)
        and isinstance(module._parameters.get("weight"), Tensor)
    }
    base.eval()
    calls = watch(base, watched, inputs)

    notes = []
    folding, note = Folding(), None
    if fold and trains:
        note = "the model is in training mode, so nothing was folded: call model.eval() first"
    elif fold:
        folding, note = folding_.find(base, calls)
    notes += [note] if note else []
    identity = _identity(base, masks, inputs, fold) if measure is None else None
    fold_batch_norms_(base, folding)

    rows = []
    for name, module in watched.items():
        mask = masks.get(weight_name(name))
        row = _layer(name, module, mask, calls.get(name))
        reason = _stays(base, row, mask, calls.get(name))
        rows.append(replace(row, reason=reason or ""))
    open_rows = [row for row in rows if not row.reason]
    cache = Cache(folder()) if measure is None else None
    context = Context(
        base,
        masks,
        inputs,
        folding,
        measure or compare,
        budget_s,
        cache,
        floors(cache) if cache is not None and open_rows else None,
        identity,
        compile and measure is None,
    )
    settled = Settled(rows, None, Forms(), Forms())
    if open_rows:
        with steps("timing", len(open_rows) + 2, progress) as step:
            settled = _measured(context, rows, calls, fold and not trains, budget_s, step)
    if cache is not None:
        cache.write()
        notes += cache.notes
        notes += [f"{cache.hits} measurements were known from before"] if cache.hits else []
    if settled.packed.fastest == COMPILED:
        notes.append(
            "dense is fastest under torch.compile with freezing, and packed is faster than that "
            "under the same: compile what apply() returns"
        )
    if settled.whole is None:
        notes.append("no layer is replaced: the answer is the masked dense model")
    return Plan(
        tuple(settled.layers),
        settled.whole,
        tuple(notes),
        folding,
        masks,
        inputs,
        settled.dense,
        settled.packed,
        tuple(settled.fusions),
    )


def _measured(
    context: Context,
    rows: list[LayerPlan],
    calls: Mapping[str, Call],
    fold: bool,
    budget_s: float,
    step: Step,
) -> Settled:
    """What becomes of the layers, and how the whole compares: see `settle`."""
    # Only which it is: a copy in channels_last is not kept while the layers are timed.
    dense, _ = fastest_layout(context, context.base, "dense", LAYOUT_SHARE * budget_s)
    del _
    planar = dense.fastest == CHANNELS_LAST
    step()
    left = sum(not row.reason for row in rows)
    # As much for each; less where the ones before took too long.
    most = LAYERS_SHARE * budget_s / left
    ends = time.perf_counter() + LAYERS_SHARE * budget_s
    layers = []
    for row in rows:
        if not row.reason:
            share = min(most, max(most / 4, (ends - time.perf_counter()) / left))
            row = decide(context, row, calls[row.name], planar, share, step)
            left -= 1
        layers.append(row)
    return settle(context, layers, dense, fold, WHOLE_SHARE * budget_s, step)


def _identity(
    base: nn.Module, masks: Mapping[str, Tensor], inputs: tuple[Any, ...], fold: bool
) -> dict[str, Any] | None:
    """What a whole model's measurements are kept under; None where its forward is not known."""
    graph, note = trace(base)
    if graph is None or note is not None:
        return None
    example = [about_tensor(x) if isinstance(x, Tensor) else repr(x) for x in inputs]
    return {
        "what": "whole",
        "model": digest([type(base).__qualname__, repr(base), str(graph)]),
        "masks": digest({name: tensor_digest(mask) for name, mask in masks.items()}),
        "example": example,
        "fold": fold,
    }


def sparsify(
    model: nn.Module,
    example: Any,
    masks: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> nn.Module:
    """`plan(...).apply(model)`: the fast model, in one call.

    Raises:
        As `plan` and `Plan.apply`.
    """
    return plan(model, example, masks, **options).apply(model)
