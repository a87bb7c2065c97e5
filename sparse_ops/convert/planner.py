"""Planning: every candidate of every layer is timed against dense, then the whole model."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from sparse_ops.convert import fold as folding_
from sparse_ops.convert import variants
from sparse_ops.convert.assemble import LayerPlan, weight_name
from sparse_ops.convert.choose import Context, Measure, converted, decide, settle
from sparse_ops.convert.fold import Folding, fold_batch_norms_
from sparse_ops.convert.measure import compare
from sparse_ops.convert.plans import Plan
from sparse_ops.convert.prepare import (
    Call,
    check_initialised,
    copied,
    example_tuple,
    find_masks,
    keeps_dense,
    masked_copy,
    prunable_layers,
    watch,
)
from sparse_ops.convert.progress import Step, steps
from sparse_ops.convert.recognise import describe_zeros
from sparse_ops.convert.shrink import Shrinking
from sparse_ops.convert.tiny import warn_of_tiny
from sparse_ops.convert.variants import Variant

# The parts of the budget that layers and the whole model get; the rest is for choosing widths.
LAYERS_SHARE, WHOLE_SHARE, WIDTHS_SHARE = 0.55, 0.35, 0.1


def plan(
    model: nn.Module,
    example: Any,
    masks: Mapping[str, Tensor] | None = None,
    *,
    threshold: float = 0.0,
    budget_s: float = 30.0,
    fold: bool = True,
    shrink: bool = True,
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
        threshold: without masks, weights with |w| <= threshold count as zeros. A warning counts
            the weights that look as if they were meant to be zero and are not.
        budget_s: about how long timing may take. More is surer, not better.
        fold: whether BatchNorm and activations may be folded into the layers before them; on both
            sides of the comparison. Needs eval mode.
        shrink: whether channels that nothing needs may be taken out of all layers. Needs eval mode.
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
    notes = []
    if masks is None:
        masks = find_masks(model, threshold)
        notes += warn_of_tiny(model, masks, threshold)
    masks = {name: mask.detach().clone() for name, mask in masks.items()}
    masked = masked_copy(model, masks)
    trains = any(module.training for module in masked.modules())
    masked.eval()
    layers = [_layer(name, module, masks) for name, module in prunable_layers(masked).items()]
    calls = watch(masked, prunable_layers(masked), inputs)
    layers = [replace(row, macs=_macs(row, calls.get(row.name))) for row in layers]

    folding, note = Folding(), None
    if trains and (fold or shrink):
        done = " and ".join(["folded"] * fold + ["shrunk"] * shrink)
        note = f"the model is in training mode, so nothing was {done}: call model.eval() first"
    elif fold:
        folding, note = folding_.find(masked, calls)
    notes += [note] if note else []
    unshrunk = Variant(masked, Shrinking(masks=masks))
    ways = [unshrunk]
    if shrink and not trains:
        ways, note = variants.find(masked, inputs, masks, WIDTHS_SHARE * budget_s, measure, fold)
        notes += [note] if note else []
    dense = masked
    if folding.batch_norms:
        dense = copied(masked)
        fold_batch_norms_(dense, folding)

    packer = _Packer(dense, inputs, tuple(layers), fold and not trains, measure, progress)
    plans = [packer.plan(way, budget_s / len(ways)) for way in ways]
    best, context = plans[0]
    for other, other_context in plans[1:]:
        if other.whole is None:
            continue
        sides = [
            partial(converted(c, p.layers), *inputs)
            for c, p in ((context, best), (other_context, other))
        ]
        if best.whole is None or measure(sides[0], sides[1], 0.05 * budget_s).speedup > 1:
            best, context = other, other_context
    if best.whole is None and best.shrinking.changes:
        notes.append("with channels removed the model was not faster, so none is")
        best, _ = packer.plan(unshrunk, budget_s / 2)
    if best.whole is None:
        notes.append("no layer is replaced: the answer is the masked dense model")
    return replace(best, notes=(*notes, *best.notes), masks=masks)


class _Packer:
    """Plans how to pack one variant of a model."""

    def __init__(
        self,
        dense: nn.Module,
        inputs: tuple[Any, ...],
        layers: tuple[LayerPlan, ...],
        fold: bool,
        measure: Measure,
        progress: bool,
    ) -> None:
        self.dense, self.inputs, self.layers = dense, inputs, layers
        self.fold, self.measure, self.progress = fold, measure, progress

    def plan(self, way: Variant, budget_s: float) -> tuple[Plan, Context]:
        """The plan, whose `whole` is None if nothing is faster, and what it was made in."""
        inputs, shrinking = self.inputs, way.shrinking
        base, masks = copied(way.model), shrinking.masks
        watched = prunable_layers(base)
        calls = watch(base, watched, inputs)
        folding = folding_.find(base, calls)[0] if self.fold else Folding()
        fold_batch_norms_(base, folding)
        if not shrinking.changes:
            base = self.dense
        rows = [_after(row, base, shrinking, calls.get(row.name)) for row in self.layers]
        context = Context(self.dense, base, masks, inputs, folding, self.measure)
        with steps("timing", sum(not row.reason for row in rows) + 1, self.progress) as step:
            layers = self._decided(context, rows, calls, budget_s, step)
            layers, whole, note = settle(context, layers, WHOLE_SHARE * budget_s, step)
        notes = [note] if note else []
        if shrinking.multiple > 1:
            notes.append(
                f"widths were rounded up to multiples of {shrinking.multiple}, measured faster"
            )
        made = Plan(tuple(layers), whole, tuple(notes), folding, masks, inputs, shrinking)
        return made, context

    def _decided(
        self,
        context: Context,
        rows: list[LayerPlan],
        calls: Mapping[str, Call],
        budget_s: float,
        step: Step,
    ) -> list[LayerPlan]:
        share = LAYERS_SHARE * budget_s / max(1, sum(not row.reason for row in rows))
        return [
            row if row.reason else decide(context, row, calls[row.name], share, step)
            for row in rows
        ]


def _layer(name: str, module: nn.Module, masks: Mapping[str, Tensor]) -> LayerPlan:
    weight, mask = module.get_parameter("weight"), masks.get(weight_name(name))
    nnz = weight.numel() if mask is None else int(mask.sum())
    kind = "Linear" if isinstance(module, nn.Linear) else "Conv2d"
    zeros = "" if mask is None else describe_zeros(mask)
    row = LayerPlan(name, kind, tuple(weight.shape), nnz, 0, None, None, None, None, "")
    return replace(row, zeros=zeros)


def _macs(row: LayerPlan, call: Call | None) -> int:
    return 0 if call is None else call.outputs * (row.weights // row.shape[0])


def _after(row: LayerPlan, base: nn.Module, shrinking: Shrinking, call: Call | None) -> LayerPlan:
    """The row of a layer after shrinking, with the reason if it is not to be packed."""
    cut, mask = shrinking.cuts.get(row.name), shrinking.masks.get(weight_name(row.name))
    if cut is not None:
        left = cut.shape if cut.shape != cut.before else None
        row = replace(row, left=left, constant=cut.constant)
        row = replace(row, dead_kept=cut.kept, dead_why=cut.why)
    if row.constant:
        return replace(row, nnz=0, reason="no weight is left: its bias takes its place")
    if mask is not None:
        row = replace(row, nnz=int(mask.sum()))
    elif row.left is not None:
        row = replace(row, nnz=base.get_submodule(row.name).get_parameter("weight").numel())
    return replace(row, reason=_stays(base, row, mask, call) or "")


def _stays(base: nn.Module, row: LayerPlan, mask: Tensor | None, call: Call | None) -> str | None:
    """Why a layer stays dense without being measured, or None if it may change."""
    if mask is None:
        return (
            "no weight that is left is zero"
            if row.left
            else ("it has no mask: no weight of it is zero")
        )
    if bool(mask.all()):
        return (
            "its mask keeps every weight"
            if row.left is None
            else ("no weight that is left is zero")
        )
    if row.nnz == 0:
        return "no weight is left, so there is nothing to pack: its output is its bias"
    if call is None:
        return "the model never called it on the example"
    return keeps_dense(base, row.name)


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
