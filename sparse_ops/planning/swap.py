"""The whole model: its fastest dense form against its fastest packed one.

It must be faster in the median, or layers go back to dense until it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from sparse_ops.graph.inputs import calling
from sparse_ops.planning import concat, fuse
from sparse_ops.planning.assemble import LayerPlan, assemble_
from sparse_ops.planning.cache import digest
from sparse_ops.planning.columns import some
from sparse_ops.planning.concat import Concatenation
from sparse_ops.planning.context import Context
from sparse_ops.planning.copies import sharing_copy
from sparse_ops.planning.decisions import Decisions
from sparse_ops.planning.fastest import Forms, fastest_layout, try_compiled
from sparse_ops.planning.forms import COMPILED, Call, channels_last_call, failure
from sparse_ops.planning.fuse import Fusion
from sparse_ops.planning.layout import CHANNELS_LAST
from sparse_ops.planning.measure import Comparison
from sparse_ops.planning.memory import Memory, memory_of
from sparse_ops.planning.progress import Step

# How much of the layers that are left goes back to dense at a time.
BACK_SHARE = 4
# What it takes to compare the whole model with fewer layers packed, in calls of the dense one.
CALLS_ONCE_MORE = 6
# What it takes to compare its layouts.
CALLS_OF_LAYOUT = 8
TOO_SLOW = "faster alone, but the whole model was not faster with it ({:.2f})"


@dataclass(frozen=True, eq=False)
class Chosen:
    """What came out.

    Attributes:
        layers: what becomes of them.
        whole: how the whole compares, or None if nothing is faster.
        dense, packed: the forms of the two models.
        fusions: what is fused in the graph of the packed one.
        concatenations: what is concatenated in it without a copy.
        unfused: what stands against a graph of it, in words; "" if nothing does.
        decisions: how the packed one runs as programs; None: it does not.
        to_beat, call: calls of the two models in their fastest forms, where they were timed.
        about: a short name for the packed one.
        left_out: what there was no time for, in words.
        takes: the memory of the two; None: nothing is replaced.
    """

    layers: list[LayerPlan]
    whole: Comparison | None
    dense: Forms
    packed: Forms
    fusions: Sequence[Fusion] = ()
    concatenations: Sequence[Concatenation] = ()
    unfused: str = ""
    decisions: Decisions | None = None
    to_beat: Call | None = None
    call: Call | None = None
    about: str = "dense"
    left_out: tuple[str, ...] = ()
    takes: Memory | None = None


def swap_layers(
    context: Context,
    layers: list[LayerPlan],
    dense: Forms,
    fuses: bool,
    budget_s: float,
    step: Step,
) -> Chosen:
    """Times the whole model; while it is not faster, what gains least goes back to dense.

    Args:
        dense: what `fastest_layout` says of the dense model.
        fuses: whether the packed model may become a graph.
    """
    layers, unusable = _drop_unusable(context, layers)
    shrunk = context.base is not context.dense
    if not shrunk and not any(layer.becomes is not None for layer in layers):
        return Chosen(layers, None, dense, Forms(), unfused=unusable)
    share = budget_s / 2
    step("dense forms")
    to_beat: Call = calling(context.dense, context.example)
    if dense.fastest == CHANNELS_LAST:
        to_beat = channels_last_call(context.dense, context.example)
    dense_forms, to_beat = try_compiled(context, context.dense, "dense", dense, to_beat, share / 2)
    packed_forms = Forms()
    left_out: tuple[str, ...] = ()
    while (packed := [layer for layer in layers if layer.becomes is not None]) or shrunk:
        fast = converted(context, layers)
        about = name_of(layers)
        step(f"whole model, {len(packed)} layers packed")
        packed_forms, call = _layout(context, fast, dense_forms, about, share / 2)
        fusions: list[Fusion] = []
        concatenations: list[Concatenation] = []
        unfused = unusable
        if fuses:
            form = packed_forms.fastest
            try:
                rewriting = _Rewriting("fused", fuse.find, fuse.fused)
                fusions, fast, call = rewriting(context, fast, form, call, about, share / 2)
                about += " fused" if fusions else ""
                rewriting = _Rewriting("concatenated", concat.find, concat.joined)
                concatenations, fast, call = rewriting(context, fast, form, call, about, share / 2)
            except Exception as error:
                # Without a graph the model is as fast as it was; the plan says so.
                context.tell_of("the model's graph with layers fused", error)
                unfused = f"nothing was fused in the model's graph: {failure(error)}"
        about += " concatenated" if concatenations else ""
        whole = against(context, dense_forms, to_beat, packed_forms, call, about, share, fast)
        if whole.speedup <= 1 and dense_forms.fastest == COMPILED:
            packed_forms, call = try_compiled(context, fast, about, packed_forms, call, share / 2)
            if packed_forms.fastest == COMPILED:
                forms = dense_forms, to_beat, packed_forms, call
                whole = against(context, *forms, about, share, fast)
        if whole.speedup > 1:
            ways = fusions, concatenations
            made = Chosen(layers, whole, dense_forms, packed_forms, *ways, unfused)
            takes = memory_of(context.dense, fast)
            return replace(made, to_beat=to_beat, call=call, about=about, takes=takes)
        if not packed:
            break
        if not context.has_calls(CALLS_ONCE_MORE):
            left_out = ("the model with fewer layers packed",)
            reason = TOO_SLOW.format(whole.speedup)
            layers = [_back_to_dense(each, reason) if each.becomes else each for each in layers]
            break
        layers = _some_back(layers, packed, whole)
        share = budget_s / 2 / len(packed)
    made = Chosen(layers, None, dense_forms, packed_forms, to_beat=to_beat, unfused=unusable)
    return replace(made, left_out=left_out)


def _layout(
    context: Context, fast: nn.Module, dense: Forms, about: str, seconds: float
) -> tuple[Forms, Call]:
    """The faster layout of a packed model; without time for that, the dense one's."""
    if context.has_calls(CALLS_OF_LAYOUT):
        return fastest_layout(context, fast, about, seconds)
    if dense.fastest == CHANNELS_LAST:
        return Forms(CHANNELS_LAST), channels_last_call(fast, context.example)
    return Forms(), calling(fast, context.example)


@dataclass(frozen=True)
class _Rewriting:
    """A way to rewrite the graph of the packed model: its name, what finds places, what does it."""

    name: str
    find: Callable[..., list[Any]]
    rewrite: Callable[..., nn.Module]

    def __call__(
        self,
        context: Context,
        fast: nn.Module,
        form: str,
        call: Call,
        about: str,
        seconds: float,
    ) -> tuple[list[Any], nn.Module, Call]:
        """What is rewritten, the model with it and its call: where that is surely faster."""
        found = self.find(fast, fuse.shapes_of(fast, context.few or context.example))
        if not found:
            return [], fast, call
        model = self.rewrite(sharing_copy(fast), found)
        context.check(model)
        one: Call = calling(model, context.example)
        if form == CHANNELS_LAST:
            one = channels_last_call(model, context.example)
        what = {"forms": [form] * 2, "of": [about, self.name]}
        if context.timed_whole(what, call, one, seconds).low <= 1:
            return [], fast, call
        return found, model, one


def against(
    context: Context,
    dense_forms: Forms,
    to_beat: Call,
    packed_forms: Forms,
    call: Call,
    about: str,
    seconds: float,
    fast: nn.Module,
) -> Comparison:
    """The fastest dense form against the packed one, on all of the example.

    Args:
        to_beat, call: of the two models, as they are timed here.
        fast: the packed one.
    """
    what = {"forms": [dense_forms.fastest, packed_forms.fastest], "of": ["dense", about]}
    if context.is_part:
        context = context.of_all
        to_beat, call = (
            (channels_last_call if forms.fastest == CHANNELS_LAST else calling)(m, context.example)
            for m, forms in ((context.dense, dense_forms), (fast, packed_forms))
        )
    return context.timed_last(what, to_beat, call, seconds)


def name_of(layers: Sequence[LayerPlan]) -> str:
    """A short name for what becomes of the layers."""
    return digest(
        [[layer.name, layer.becomes, layer.backend, layer.activation] for layer in layers]
    )


def _some_back(
    layers: list[LayerPlan], packed: list[LayerPlan], whole: Comparison
) -> list[LayerPlan]:
    """The layers with those that gain least, a quarter but at least one, back at dense."""
    worst = sorted(packed, key=_gain)[: max(1, len(packed) // BACK_SHARE)]
    reason = TOO_SLOW.format(whole.speedup)
    return [_back_to_dense(layer, reason) if layer in worst else layer for layer in layers]


def _gain(layer: LayerPlan) -> float:
    assert layer.measured is not None
    return layer.measured.dense_ms - layer.measured.packed_ms


def _back_to_dense(layer: LayerPlan, reason: str) -> LayerPlan:
    return replace(layer, becomes=None, backend=None, activation=None, reason=reason)


def converted(context: Context, layers: Sequence[LayerPlan]) -> nn.Module:
    """A copy of the base with these layers packed; it shares the tensors of others with it."""
    return assemble_(sharing_copy(context.base), context.masks, layers, context.folding)


def _failure(context: Context, layers: Sequence[LayerPlan]) -> str | None:
    """Why the model cannot have these layers packed: it fails, or computes something else."""
    try:
        context.check(converted(context, layers))
    except Exception as error:
        names = some([layer.name or layer.kind for layer in layers if layer.becomes])
        context.tell_of(f"the model with {names} packed", error)
        return f"{type(error).__name__}: {error}"
    return None


def _drop_unusable(context: Context, layers: list[LayerPlan]) -> tuple[list[LayerPlan], str]:
    """Sends back to dense the layers with which the model does not work, for it reads their weight,
    say; and what is to be said of the model as a whole."""
    whole = _failure(context, layers)
    if whole is None:
        return layers, ""
    kept = []
    for layer in layers:
        alone = layer.becomes and _failure(context, [layer])
        reason = f"the model fails with the packed layer ({alone})"
        kept.append(_back_to_dense(layer, reason) if alone else layer)
    if _failure(context, kept) is None:
        return kept, ""
    reason = "the model fails with packed layers, though not with any of them alone"
    return [_back_to_dense(layer, reason) if layer.becomes else layer for layer in layers], whole
