"""Planning: every candidate of every layer is timed against dense, then the whole model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from sparse_ops import masks as masks_
from sparse_ops.convert import fold as folding_
from sparse_ops.convert.assemble import LayerPlan, weight_name
from sparse_ops.convert.choose import Context, Measure, decide, settle
from sparse_ops.convert.fold import Folding, fold_batch_norms_
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
from sparse_ops.convert.progress import steps

# The parts of the budget that layers and the whole model get.
LAYERS_SHARE, WHOLE_SHARE = 0.6, 0.4


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
    budget_s: float = 30.0,
    fold: bool = True,
    progress: bool = True,
    measure: Measure = compare,
) -> Plan:
    """Finds out which layers of a pruned model to replace, by timing every way against dense.

    The model is not changed. It is measured in eval mode, on its own device, with the number of
    threads that torch has now.

    Args:
        model: any module.
        example: an input as the model will see it, batch size included; a tensor or a tuple.
        masks: parameter name -> mask; default: the model's own zeros.
        threshold: without masks, weights with |w| <= threshold count as zeros.
        budget_s: about how long timing may take. More is surer, not better.
        fold: whether BatchNorm and activations may be folded into the layers before them; on both
            sides of the comparison. Needs eval mode.
        progress: whether a progress bar is shown, on the standard error stream.
        measure: what times dense against packed: (dense, packed, seconds) -> Comparison.

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
    fold_batch_norms_(base, folding)

    rows = []
    for name, module in watched.items():
        mask = masks.get(weight_name(name))
        row = _layer(name, module, mask, calls.get(name))
        reason = _stays(base, row, mask, calls.get(name))
        rows.append(replace(row, reason=reason or ""))
    context = Context(base, masks, inputs, folding, measure)
    open_rows = [row for row in rows if not row.reason]
    share = LAYERS_SHARE * budget_s / max(1, len(open_rows))
    with steps("timing", len(open_rows) + 1, progress) as step:
        layers = [
            row if row.reason else decide(context, row, calls[row.name], share, step)
            for row in rows
        ]
        layers, whole, note = settle(context, layers, WHOLE_SHARE * budget_s, step)
    notes += [note] if note else []
    if whole is None:
        notes.append("no layer is replaced: the answer is the masked dense model")
    return Plan(tuple(layers), whole, tuple(notes), folding, masks, inputs)


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
