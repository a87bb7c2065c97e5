"""Planning: what a model is made into, found out by timing every way against dense."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from sparse_ops.graph.inputs import calling
from sparse_ops.graph.ir import Graph
from sparse_ops.graph.running import first_run
from sparse_ops.masks import from_table
from sparse_ops.passes.winograd import SMALL, TILES
from sparse_ops.planning import network
from sparse_ops.planning.attention import is_of_split, split_copy, split_masks, to_split
from sparse_ops.planning.cache import Cache, folder
from sparse_ops.planning.columns import some
from sparse_ops.planning.context import Context, Measure, tell_of
from sparse_ops.planning.copies import free_cycles
from sparse_ops.planning.copy_check import check_copy
from sparse_ops.planning.deciding import LEAST_S
from sparse_ops.planning.floors import floors
from sparse_ops.planning.fold import Folding
from sparse_ops.planning.forms import COMPILED
from sparse_ops.planning.images import few_images
from sparse_ops.planning.layer_rows import calls_of, row_of
from sparse_ops.planning.masked import (
    check_initialised,
    example_tuple,
    find_masks,
    masked_view,
    prunable_layers,
    undisturbed,
    watch,
)
from sparse_ops.planning.measure import compare
from sparse_ops.planning.other_layers import other_rows
from sparse_ops.planning.pieces import find_pieces, is_inside, masks_of, with_pieces
from sparse_ops.planning.plans import Plan
from sparse_ops.planning.progress import Step, steps
from sparse_ops.planning.recorded import by_graphs, is_on_card
from sparse_ops.planning.tiny import warn_of_tiny
from sparse_ops.planning.tracing import asks_sizes, captured
from sparse_ops.planning.way_planner import Between, WayPlanner, identity_of
from sparse_ops.planning.ways import MULTIPLES, Way, find_ways, plain_way

# The part of the budget for what can be traced inside of what cannot.
PIECES_SHARE = 0.6
# The part of the budget for a model whose attentions have their projections apart.
SPLIT_SHARE = 0.7
# A plan that takes so many times its budget, and a call or some seconds, says so.
OVER, SHORT_S = 1.2, 3.0
NOT_FASTER = "with its projections apart and packed it was not faster"
# The part of the budget for the widths of a shrunk model, and calls that compare two of them.
WIDTHS_SHARE, WIDTHS_CALLS = 0.05, 6


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
    kwargs: Mapping[str, Any] | None = None,
    winograd: str = SMALL,
) -> Plan:
    """Finds out which layers of a pruned model to replace, by timing every way against dense.

    The model is not changed. It is measured in eval mode, on its own device, with the number of
    threads that torch has now.

    Args:
        model: any module.
        example: an input as the model will see it, batch size included: a tensor; a tuple or list
            of arguments; or a dict of keyword arguments. A list or dict that is one argument is
            written (example,).
        masks: parameter name -> mask, or another table that `masks.from_table` reads; default: the
            model's own zeros.
        threshold: without masks, weights with |w| <= threshold count as zeros. A warning counts
            the weights that look as if they were meant to be zero and are not.
        budget_s: seconds that planning may take; a compilation that has begun may take longer, and
            so does a model that cannot be called some ten times in it. More is surer, not
            better. What there was no time for is said.
        fold: whether BatchNorm and activations may be folded into the layers before them, on both
            sides of the comparison, and the network may run as a program: one call of one operator.
            Needs eval mode.
        shrink: whether channels that nothing needs may be taken out of all layers and, on a GPU,
            the others sorted, those that are masked alike side by side. Needs eval mode.
        progress: whether what is being done is shown, on the standard error stream: as a bar on a
            terminal, else as a line from time to time.
        compile: whether dense under torch.compile, weights frozen, has to be beaten too: where
            there is a compiler, and a budget of 50 s or more, for it takes long. It takes memory,
            too, several times the model's; without it, planning takes less than four times.
        measure: what times dense against packed: (dense, packed, seconds) -> Comparison. Default:
            `planning.measure.compare`, its results kept on disk (`planning.cache` says where), so
            that the same model is planned faster the next time.
        kwargs: keyword arguments beside the example.
        winograd: the tiles in which programs may compute dense 3×3 convolutions: "2x2", which
            rounds about as plain sums do, or "4x4", up to 1.8 times faster, with errors 3 to 8
            times as large (about 2e-6 of a layer's largest output).

    Raises:
        ValueError: the example is empty, a mask does not fit, or an option is out of range.
        Mismatch: a candidate computes something else than the dense layer.
    """
    if not budget_s > 0:
        raise ValueError(f"budget_s must be above 0, got {budget_s}")
    if winograd not in TILES:
        raise ValueError(f"winograd must be one of {', '.join(TILES)}, got {winograd!r:.80}")
    options: dict[str, Any] = {"threshold": threshold, "budget_s": budget_s, "fold": fold}
    options |= {"shrink": shrink, "compile": compile, "measure": measure, "winograd": winograd}
    with undisturbed(), steps("planning", budget_s, progress) as step:
        begun = time.perf_counter()
        inputs = example_tuple(example, kwargs, model)
        made = _planned(model, inputs, masks, **options, step=step, splits=True)
        took_s = time.perf_counter() - begun
        call_s = 0.0 if made.whole is None else made.whole.dense_ms / 1e3
        if measure is None and took_s > OVER * budget_s + max(call_s, SHORT_S):
            said = (
                f"planning took {took_s:.0f} s, for a call of the dense model takes {call_s:.2g} s"
            )
            made = replace(
                made, notes=(*made.notes, f"budget_s={budget_s:g} was too little: {said}")
            )
        return made


def _planned(
    model: nn.Module,
    inputs: tuple[Any, ...],
    masks: Mapping[str, Tensor] | None,
    *,
    budget_s: float,
    step: Step,
    splits: bool = False,
    **options: Any,
) -> Plan:
    """See `plan` and `_as_it_is`.

    Args:
        splits: whether attentions may have their projections apart.
    """
    begun = time.perf_counter()
    planned = partial(_as_it_is, model, inputs, masks, step=step, **options)
    if not splits or not any(isinstance(m, nn.MultiheadAttention) for m in model.modules()):
        return planned(budget_s=budget_s)
    apart = planned(budget_s=SPLIT_SHARE * budget_s, splits=True)
    if not apart.split or any(is_of_split(row.name, apart.split) for row in apart.packed):
        return apart
    # Nothing is gained there: then PyTorch's own attention is the faster one.
    left = max((1 - SPLIT_SHARE) * budget_s, begun + budget_s - time.perf_counter())
    return planned(budget_s=left, reasons=dict.fromkeys(apart.split, NOT_FASTER))


def _as_it_is(
    model: nn.Module,
    inputs: tuple[Any, ...],
    masks: Mapping[str, Tensor] | None,
    *,
    threshold: float,
    budget_s: float,
    fold: bool,
    shrink: bool,
    compile: bool,
    measure: Measure | None,
    winograd: str,
    step: Step,
    rewrites: bool = True,
    failed: list[str] | None = None,
    splits: bool = False,
    reasons: Mapping[str, str] | None = None,
) -> Plan:
    """See `plan`.

    Args:
        rewrites: whether the answer may be a traced graph, of which no file tells inside a model.
        failed: of the plan that this one is a piece of; what fails is added.
        splits: whether attentions with zeros have their projections apart.
        reasons: module -> why nothing packs it.
    """
    begun = time.perf_counter()
    failed = [] if failed is None else failed
    step("reading the zeros")
    check_initialised(model)
    notes = []
    masks_given = masks is not None
    if masks is None:
        masks = find_masks(model, threshold)
        notes += warn_of_tiny(model, masks, threshold)
    else:
        masks = from_table(masks, model)
    masked = masked_view(model, masks)
    trains = any(module.training for module in model.modules())
    given, call_s = check_copy(model, masked, inputs)
    masked.eval()
    few = few_images(masked, inputs)
    if trains and (fold or shrink):
        done = " and ".join(["folded"] * fold + ["shrunk"] * shrink)
        notes.append(
            f"the model is in training mode, so nothing was {done}: call model.eval() first"
        )
    fold, shrink = fold and not trains, shrink and not trains
    step("tracing")
    graph: Graph | None = None
    user_masks, reasons = masks, dict(reasons or {})
    split: tuple[str, ...] = ()
    if splits:
        split, refused = to_split(masked, masks, few)
        reasons |= refused
    if fold or shrink:
        graph, note = captured(masked, inputs, given)
        notes += [note] if note else []
    plain = dense = plain_way(masked, graph, masks, fold)
    if split:
        masked, masks = split_copy(masked, split), split_masks(masks, split)
        if graph is not None:
            graph, note = captured(masked, inputs, first_run(masked, inputs))
            notes += [note] if note and note not in notes else []
        plain = replace(plain_way(masked, graph, masks, fold), split=True)
    if graph is None or asks_sizes(graph):
        # With fewer images its code may do something else.
        few = inputs
    is_traced = graph is not None
    pieces: dict[str, Plan] = {}
    if (fold or shrink) and masks:
        options: dict[str, Any] = {"fold": fold, "shrink": shrink, "measure": measure}
        options |= {"threshold": threshold, "winograd": winograd, "failed": failed}
        pieces = _pieces(masked, graph, masks, inputs, PIECES_SHARE * budget_s, options, step)
    if pieces:
        fast = {n: p._applied(masked.get_submodule(n)) for n, p in pieces.items()}
        masked = with_pieces(masked, fast)
        plain = replace(plain_way(masked, graph, masks, fold), pieces=True, split=bool(split))
    calls = watch(masked, prunable_layers(masked), inputs) if graph is None else calls_of(graph)
    rows = [
        row_of(name, module, masks, calls.get(name), masks_given)
        for name, module in prunable_layers(masked).items()
        if not is_inside(name, pieces)
    ]
    clock, on_card = measure or compare, is_on_card(inputs)
    if on_card:
        clock = by_graphs(clock)
    cache = Cache(folder()) if measure is None else None
    identity = identity_of(graph, masked, masks, inputs, fold) if measure is None else None
    identity = identity and {**identity, "winograd": winograd}
    between = Between(clock, cache, identity)
    ways = [plain]
    if shrink and graph is not None:
        step("removing channels")
        share = WIDTHS_SHARE * budget_s

        def faster(one: Way, other: Way) -> bool:
            of = masked, masked, masks, inputs, Folding(), clock
            context = Context(*of, budget_s, few=few, call_s=call_s)
            example = context.on_part(WIDTHS_CALLS, share / len(MULTIPLES)).example
            sides = [calling(way.model, example) for way in (one, other)]
            return between(sides[0], sides[1], share / len(MULTIPLES)).low > 1

        # Programs have whole vectors of channels anyway.
        rounds = cache is None or runs_layer_by_layer(plain, inputs, masks)
        ways, note = find_ways(
            plain, masked, graph, masks, few, fold, faster if rounds else None,
            partial(tell_of, failed), max(share, LEAST_S) if cache is not None else float("inf"),
        )  # fmt: skip
        notes += [note] if note else []
    # Floors are those of the CPU.
    limits = floors(cache) if cache is not None and masks and not on_card else None
    way_planner = WayPlanner(
        dense.model,
        inputs,
        rows,
        fold,
        clock,
        between,
        step,
        cache,
        limits,
        compile and measure is None,
        identity,
        budget_s,
        begun + budget_s,
        rewrites,
        winograd,
        failed,
        few,
        call_s,
    )
    best = way_planner.best(
        ways, plain, max(0.2 * budget_s, begun + budget_s - time.perf_counter())
    )
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
    if on_card and best.whole is not None:
        notes.append(
            "both sides were timed as CUDA graphs; apply() gives a model that records one for each "
            "shape of its inputs (convert.record_); packed layers add and activate themselves, "
            "layers that stay dense do so in further kernels"
        )
    del way_planner, ways, plain, graph
    free_cycles(masked)
    if best.whole is None:
        notes.append("no layer is replaced: the answer is the masked dense model")
    if pieces:
        best, more = _together(best, pieces, is_traced)
        notes.append(more)
    cuts = best.shrinking.cuts if best.whole is not None else {}
    others = other_rows(masked, {row.name for row in rows}, cuts, reasons)
    if split and best.whole is not None:
        notes.append(f"attention with its projections apart, without a fast path: {some(split)}")
    best = replace(best, notes=tuple(notes), masks=user_masks, others=tuple(others), split=split)
    return replace(best, failed=tuple(failed), floors=limits)


def _pieces(
    masked: nn.Module,
    graph: Graph | None,
    masks: Mapping[str, Tensor],
    inputs: tuple[Any, ...],
    budget_s: float,
    options: dict[str, Any],
    step: Step,
) -> dict[str, Plan]:
    """The plans of what can be traced inside of what cannot, of those that gain by it."""
    found = find_pieces(masked, graph, masks, inputs)
    plans = {}
    for name, given in found.items():
        own, share = masks_of(masks, name), budget_s / len(found)
        piece = masked.get_submodule(name)
        own_plan = _planned(
            piece, given, own, **options, budget_s=share, compile=False, step=step, rewrites=False
        )
        if own_plan.whole is not None:
            plans[name] = own_plan
    return plans


def _together(best: Plan, pieces: dict[str, Plan], is_traced: bool) -> tuple[Plan, str]:
    """A plan with those of its pieces, and how it came to that, in words."""
    layers = [*best.layers]
    for name, piece in pieces.items():
        layers += [
            replace(row, name=f"{name}.{row.name}" if row.name else name) for row in piece.layers
        ]
    names = some([*pieces])
    if best.whole is None:
        back = "with the modules that could be planned by themselves it was not faster as a whole"
        layers = [
            replace(row, becomes=None, backend=None, activation=None, left=None, reason=back)
            if is_inside(row.name, pieces)
            else row
            for row in layers
        ]
        return replace(best, layers=tuple(layers)), f"{back}: {names}"
    around = "what is around them" if is_traced else "the model"
    note = f"planned by themselves, for {around} cannot be traced: {names}"
    return replace(best, layers=tuple(layers), pieces=pieces), note


def runs_layer_by_layer(way: Way, inputs: tuple[Any, ...], masks: Mapping[str, Tensor]) -> bool:
    """Whether a way of a model is no program."""
    context = Context(way.model, way.model, masks, inputs, way.folding, compare, 0.0)
    return way.graph is None or network.refuses(context, way.graph) is not None


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
