"""Packing: what becomes of each layer of a model, and which way to shrink it is the fastest."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from sparse_ops.graph.inputs import calling
from sparse_ops.graph.ir import Graph
from sparse_ops.passes.winograd import SMALL
from sparse_ops.planning import network
from sparse_ops.planning.assemble import LayerPlan
from sparse_ops.planning.cache import Cache, digest
from sparse_ops.planning.concat import joined
from sparse_ops.planning.context import Context, Measure, about_tensor, tensor_digest
from sparse_ops.planning.deciding import Deciding
from sparse_ops.planning.fastest import COMPILE_S, COMPILE_SHARE, Forms, fastest_layout
from sparse_ops.planning.floors import Floors
from sparse_ops.planning.forms import Call as Run
from sparse_ops.planning.forms import failure
from sparse_ops.planning.fuse import fused
from sparse_ops.planning.images import images_of
from sparse_ops.planning.layer_rows import after_shrinking, calls_of
from sparse_ops.planning.layout import CHANNELS_LAST
from sparse_ops.planning.masked import prunable_layers, watch
from sparse_ops.planning.measure import Comparison
from sparse_ops.planning.memory import memory_of
from sparse_ops.planning.plans import Plan
from sparse_ops.planning.programmed import with_programs_
from sparse_ops.planning.progress import Step
from sparse_ops.planning.swap import Chosen, converted, swap_layers
from sparse_ops.planning.ways import Way

# The parts of the budget: for the layout of the dense model, for the layers, for the whole model,
# for programs; what `planner` and `whole` have beside is for widths and for torch.compile.
LAYOUT_SHARE, LAYERS_SHARE, WHOLE_SHARE, PROGRAM_SHARE = 0.05, 0.4, 0.2, 0.1

# How many calls of the dense model it takes to time all of its layers, at least; and the budget
# with which models are compiled, of all of the example.
CALLS_OF_LAYERS, PART_S = 10, COMPILE_S / COMPILE_SHARE


class Between:
    """Compares two forms of the model, of whichever kind, or knows from before how they compared.

    The comparisons of one planning are told apart by their order.
    """

    def __init__(
        self, measure: Measure, cache: Cache | None, identity: Mapping[str, Any] | None
    ) -> None:
        self.measure, self.cache, self.identity = measure, cache, identity
        self.number = 0

    def __call__(self, one: Run, two: Run, seconds: float) -> Comparison:
        self.number += 1
        if self.cache is None or self.identity is None:
            return self.measure(one, two, seconds)
        what = {**self.identity, "variants": self.number}
        known = self.cache.comparison(what, seconds)
        if known is None:
            known = self.measure(one, two, seconds)
            self.cache.put_comparison(what, seconds, known)
        return known


@dataclass(frozen=True, eq=False)
class WayPlanner:
    """Plans how to pack one way of a model, or the best of several.

    Attributes:
        dense: the masked model, unshrunk, BatchNorm folded: what is to be beaten.
        rows: its layers.
        between: compares ways.
        step: is told what begins now.
        identity: what measurements of whole models are kept under; None: they are not.
        ends: when the time for all of it is over, as `time.perf_counter` has it.
        rewrites: whether what is packed layer by layer may become a traced graph.
        winograd: the tiles of dense 3×3 convolutions: see `passes.winograd`.
        failed: what was left out because it computed something else, in words.
        few: what is enough of the inputs to compare models on.
        call_s: seconds of a call of the dense model, about.
    """

    dense: nn.Module
    inputs: tuple[Any, ...]
    rows: list[LayerPlan]
    fold: bool
    measure: Measure
    between: Measure
    step: Step
    cache: Cache | None
    floors: Floors | None
    compiles: bool
    identity: Mapping[str, Any] | None
    budget_s: float
    ends: float
    rewrites: bool = True
    winograd: str = SMALL
    failed: list[str] = field(default_factory=list)
    few: tuple[Any, ...] = ()
    call_s: float = 0.0

    def best(self, ways: list[Way], unshrunk: Way, budget_s: float) -> Plan:
        """The plan of the fastest way; its `whole` is None if nothing is faster than dense."""
        best, context = self.plan(ways[0], budget_s / len(ways))
        for place, way in enumerate(ways[1:], start=1):
            left = self.ends - time.perf_counter()
            if left < budget_s / len(ways) / 4:
                note = f"{len(ways) - place} other ways to remove channels: no time was left"
                return replace(best, notes=(*best.notes, f"left out: {note}"))
            other, of_other = self.plan(way, min(left, budget_s / len(ways)))
            if other.whole is None:
                continue
            one = calling(_as_planned(context, best), self.inputs)
            two = calling(_as_planned(of_other, other), self.inputs)
            if best.whole is None or self.between(one, two, 0.05 * budget_s).speedup > 1:
                best, context = other, of_other
        if best.whole is not None or not (best.sorts or best.shrinking.changes):
            return best
        note = "with channels removed or sorted the model was not faster, so none is"
        best, _ = self.plan(unshrunk, max(budget_s / 8, self.ends - time.perf_counter()))
        return replace(best, notes=(note, *best.notes))

    def plan(self, way: Way, budget_s: float) -> tuple[Plan, Context]:
        """The plan of one way, and what it was made in."""
        shrinking, base = way.shrinking, way.model
        identity = self.identity
        if identity is not None and way.changes:
            identity = {**identity, "shrunk": digest([repr(way.model), *_digests(shrinking.masks)])}
        context = Context(
            self.dense,
            base,
            shrinking.masks,
            self.inputs,
            way.folding,
            self.measure,
            self.budget_s,
            self.cache,
            self.floors,
            identity,
            self.compiles,
            ends=self.ends,
            winograd=self.winograd,
            failed=self.failed,
            few=self.few,
            call_s=self.call_s,
        )
        graph, reason = self._graph(way, context)
        if graph is None:
            calls = watch(base, prunable_layers(base), self.few or self.inputs)
        else:
            calls = calls_of(graph)
        rows = [after_shrinking(row, base, shrinking, calls.get(row.name)) for row in self.rows]
        chosen = Chosen(rows, None, Forms(), Forms())
        left = sum(not row.reason for row in rows)
        if left or way.changes:
            made_it = False
            if graph is not None:
                try:
                    chosen = network.planned(context, graph, rows, calls, budget_s, self.step)
                    made_it = True
                except Exception as error:
                    # Without a program the model is as fast as it was; the plan says so. Layers
                    # that are wrong themselves are found when they are compared one by one.
                    context.tell_of("the network as a program", error)
                    reason = f"the network does not run as a program: {failure(error)}"
            fold = self.fold and way.graph is not None
            if not made_it:
                chosen = _measured(context, rows, fold, self.rewrites, budget_s, self.step)
                chosen = replace(chosen, unfused=chosen.unfused or reason)
            elif chosen.whole is None and left:
                chosen = self._by_layers(chosen, context, rows, fold, budget_s)
        notes = [chosen.unfused] if chosen.unfused else []
        notes += [f"left out for want of time: {words}" for words in chosen.left_out]
        if shrinking.multiple > 1 and shrinking.changes:
            notes.append(
                f"widths were rounded up to multiples of {shrinking.multiple}, measured faster"
            )
        if way.sorts:
            notes.append("channels are in another order inside, those alike side by side")
        made = Plan(
            tuple(chosen.layers),
            chosen.whole,
            tuple(notes),
            way.folding,
            shrinking.masks,
            self.inputs,
            shrinking,
            chosen.dense,
            chosen.packed,
            tuple(chosen.fusions),
            tuple(chosen.concatenations),
            chosen.decisions,
            way.sorts,
            chosen.takes or memory_of(self.dense, self.dense),
        )
        return made, context

    def _by_layers(
        self,
        chosen: Chosen,
        context: Context,
        rows: list[LayerPlan],
        fold: bool,
        budget_s: float,
    ) -> Chosen:
        """What a network that is not faster as a program gains layer by layer, if that is more.

        Torch's own dense layers stay then: where most layers are dense that may be the better part.
        """
        left = min(budget_s, self.ends - time.perf_counter())
        if left < budget_s / 4:
            return replace(chosen, left_out=(*chosen.left_out, "layers packed one by one"))
        found = _measured(context, rows, fold, self.rewrites, left, self.step)
        if found.whole is not None:
            return found
        pairs = zip(chosen.layers, found.layers, strict=True)
        told = [one if one.measured is not None else other for one, other in pairs]
        return replace(chosen, layers=told)

    def _graph(self, way: Way, context: Context) -> tuple[Graph | None, str]:
        """The graph that is to run as programs; or None, and why not if that is worth a word."""
        if way.graph is None or not self.fold or self.cache is None:
            return None, ""
        if (reason := network.refuses(context, way.graph)) is not None:
            return None, f"the network does not run as a program: {reason}"
        return way.graph, ""


def _measured(
    context: Context,
    rows: list[LayerPlan],
    fold: bool,
    rewrites: bool,
    budget_s: float,
    step: Step,
) -> Chosen:
    """What becomes of the layers, and how the whole compares: see `swap_layers`."""
    step("layout of the dense model")
    # Only which it is: a copy in channels_last is not kept while the layers are timed.
    dense, _ = fastest_layout(context, context.dense, "dense", LAYOUT_SHARE * budget_s)
    del _
    planar = dense.fastest == CHANNELS_LAST
    context = context.with_call(dense.milliseconds)
    left_out: tuple[str, ...] = ()
    # Forms that are compiled are for all of the example.
    if not context.compiles or budget_s < PART_S:
        whole, context = context, context.on_part(CALLS_OF_LAYERS, LAYERS_SHARE * budget_s)
        if context is not whole:
            count = images_of(context.example), images_of(whole.example)
            left_out = ("to time layers on more than {} of {} images".format(*count),)
    # What a graph knows of inputs has no memory to run a layer on.
    calls = watch(context.base, prunable_layers(context.base), context.example)
    deciding = Deciding(context, calls, planar, LAYERS_SHARE * budget_s, step)
    layers = deciding.all(rows)
    fuses = fold and rewrites
    chosen = swap_layers(context, layers, dense, fuses, WHOLE_SHARE * budget_s, step)
    chosen = replace(chosen, left_out=(*left_out, *deciding.left_out, *chosen.left_out))
    step("programs")
    return network.by_measure(context, chosen, PROGRAM_SHARE * budget_s) if fold else chosen


def _as_planned(context: Context, plan: Plan) -> nn.Module:
    """A copy of the base as the plan has it, but for its layout."""
    model = converted(context, plan.layers)
    if plan.fusions:
        model = fused(model, list(plan.fusions))
    if plan.concatenations:
        model = joined(model, plan.concatenations)
    if plan.decisions is None:
        return model
    return with_programs_(model, plan.decisions, context.example)


def identity_of(
    graph: Graph | None,
    masked: nn.Module,
    masks: Mapping[str, Tensor],
    inputs: tuple[Any, ...],
    fold: bool,
) -> dict[str, Any] | None:
    """What a whole model's measurements are kept under; None where its forward is not known."""
    if graph is None or graph.notes:
        return None
    example = [about_tensor(x) if isinstance(x, Tensor) else repr(x) for x in inputs]
    return {
        "what": "whole",
        "model": digest([type(masked).__qualname__, repr(masked), str(graph)]),
        "masks": digest(_digests(masks)),
        "example": example,
        "fold": fold,
    }


def _digests(masks: Mapping[str, Tensor]) -> list[list[str]]:
    return [[name, tensor_digest(mask)] for name, mask in masks.items()]
