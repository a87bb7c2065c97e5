"""Planning: what a model is made into, found out by timing every way against dense."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from sparse_ops.convert import fold as folding_
from sparse_ops.convert import variants
from sparse_ops.convert.cache import Cache, folder
from sparse_ops.convert.context import Measure
from sparse_ops.convert.fold import Folding, fold_batch_norms_
from sparse_ops.convert.forms import COMPILED
from sparse_ops.convert.measure import compare
from sparse_ops.convert.packer import Between, Packer, identity_of
from sparse_ops.convert.plans import Plan
from sparse_ops.convert.prepare import (
    check_initialised,
    copied,
    example_tuple,
    find_masks,
    masked_copy,
    prunable_layers,
    watch,
)
from sparse_ops.convert.progress import Step, steps
from sparse_ops.convert.roofline import floors
from sparse_ops.convert.rows import row_of
from sparse_ops.convert.shrink import Shrinking
from sparse_ops.convert.tiny import warn_of_tiny
from sparse_ops.convert.variants import Variant

# The part of the budget for the widths of a shrunk model.
WIDTHS_SHARE = 0.05


def plan(
    model: nn.Module,
    example: Any,
    masks: Mapping[str, Tensor] | None = None,
    *,
    threshold: float = 0.0,
    budget_s: float = 60.0,
    fold: bool = True,
    shrink: bool = True,
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
        threshold: without masks, weights with |w| <= threshold count as zeros. A warning counts
            the weights that look as if they were meant to be zero and are not.
        budget_s: seconds that timing may take; a large model, or a compilation that has begun, may
            take somewhat longer. More is surer, not better.
        fold: whether BatchNorm and activations may be folded into the layers before them, on both
            sides of the comparison, and additions and functions into packed layers: the fast model
            is then a torch.fx.GraphModule. Needs eval mode.
        shrink: whether channels that nothing needs may be taken out of all layers and, on a GPU,
            the others sorted, those that are masked alike side by side. Needs eval mode.
        progress: whether what is being done is shown, on the standard error stream: as a bar on a
            terminal, else as a line from time to time.
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
    if not budget_s > 0:
        raise ValueError(f"budget_s must be above 0, got {budget_s}")
    options = threshold, budget_s, fold, shrink, compile, measure
    with steps("planning", budget_s, progress) as step:
        return _planned(model, example, masks, *options, step)


def _planned(
    model: nn.Module,
    example: Any,
    masks: Mapping[str, Tensor] | None,
    threshold: float,
    budget_s: float,
    fold: bool,
    shrink: bool,
    compile: bool,
    measure: Measure | None,
    step: Step,
) -> Plan:
    step("reading the zeros")
    inputs = example_tuple(example)
    check_initialised(model)
    notes = []
    given = masks is not None
    if masks is None:
        masks = find_masks(model, threshold)
        notes += warn_of_tiny(model, masks, threshold)
    masks = {name: mask.detach().clone() for name, mask in masks.items()}
    masked = masked_copy(model, masks)
    trains = any(module.training for module in masked.modules())
    masked.eval()
    calls = watch(masked, prunable_layers(masked), inputs)
    rows = [
        row_of(name, module, masks, calls.get(name), given)
        for name, module in prunable_layers(masked).items()
    ]

    if trains and (fold or shrink):
        done = " and ".join(["folded"] * fold + ["shrunk"] * shrink)
        notes.append(
            f"the model is in training mode, so nothing was {done}: call model.eval() first"
        )
    folding = Folding()
    step("tracing")
    if fold and not trains:
        folding, note = folding_.find(masked, calls)
        notes += [note] if note else []
    cache = Cache(folder()) if measure is None else None
    identity = identity_of(masked, masks, inputs, fold) if measure is None else None
    between = Between(measure or compare, cache, identity)
    ways = [Variant(masked, Shrinking(masks=masks))]
    if shrink and not trains:
        step("removing channels")
        share = WIDTHS_SHARE * budget_s
        ways, note = variants.find(masked, inputs, masks, share, between, fold)
        notes += [note] if note else []
        ways = variants.with_sorted(ways, inputs)
    # A copy only where the model as it was is still needed: there are large ones.
    dense = copied(masked) if folding.batch_norms and any(w.changes for w in ways) else masked
    fold_batch_norms_(dense, folding)
    packer = Packer(
        dense,
        inputs,
        rows,
        folding,
        fold and not trains,
        measure or compare,
        between,
        step,
        cache,
        floors(cache) if cache is not None and masks else None,
        compile and measure is None,
        identity,
    )
    best = packer.best(ways, Variant(masked, Shrinking(masks=masks)), budget_s)
    notes += best.notes
    if cache is not None:
        cache.write()
        notes += cache.notes
        notes += [f"{cache.hits} measurements were known from before"] if cache.hits else []
    if best.packed_forms.fastest == COMPILED:
        notes.append(
            "dense is fastest under torch.compile with freezing, and packed is faster than that "
            "only under the same: apply() gives it compiled, for calls without gradients with "
            "inputs like the example; others, and copies, run it uncompiled (convert.compile_)"
        )
    if best.whole is None:
        notes.append("no layer is replaced: the answer is the masked dense model")
    return replace(best, notes=tuple(notes), masks=masks)


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
