"""The network as programs: what becomes of its layers where whole networks are measured.

With a clock of our own the search in `plan.search` decides about layers, orders and pieces from
times that were taken inside of the running network. With somebody else's, layers are as that clock
decided one by one, and it is asked which uniform order of values is the fastest.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.graph.capture import Uncaptured, capture
from sparse_ops.graph.inputs import calling
from sparse_ops.graph.ir import Graph, Node
from sparse_ops.ops._program_code import CHANNELS, IMAGES, PLANAR
from sparse_ops.passes.fuse import fuse
from sparse_ops.passes.layout import has_room, may_be_packed, uniform
from sparse_ops.passes.layout import refuses as refuses_node
from sparse_ops.passes.pack import LAYERS
from sparse_ops.passes.winograd import allow_tiles
from sparse_ops.planning.assemble import LayerPlan, assemble_
from sparse_ops.planning.choose import with_floor
from sparse_ops.planning.context import Context
from sparse_ops.planning.copies import sharing_copy
from sparse_ops.planning.costs import Costs
from sparse_ops.planning.decisions import Decisions
from sparse_ops.planning.differences import Mismatch
from sparse_ops.planning.environment import best_isa
from sparse_ops.planning.fastest import fastest_layout, try_compiled
from sparse_ops.planning.forms import Call as Run
from sparse_ops.planning.forms import channels_last_call, failure
from sparse_ops.planning.layout import CHANNELS_LAST
from sparse_ops.planning.lines import decide_lines
from sparse_ops.planning.masked import Call
from sparse_ops.planning.measure import Comparison, quantile
from sparse_ops.planning.memory import memory_of
from sparse_ops.planning.programmed import with_programs_
from sparse_ops.planning.progress import Step
from sparse_ops.planning.search import checked_images, search
from sparse_ops.planning.swap import Chosen, against, converted, name_of
from sparse_ops.planning.verify_model import check_block

# The sparse layer of each form.
KINDS = {
    ("conv2d", "periodic"): "PeriodicConv2d",
    ("conv2d", "csr"): "CSRConv2d",
    ("linear", "csr"): "CSRLinear",
    ("conv_transpose2d", "csr"): "CSRConvTranspose2d",
}
# What programs run of a network's work, at least, to be worth the search.
LEAST_WORK = 0.1
SEARCH_SHARE, LEAST_SHARE, WHOLE_SHARE = 0.5, 0.1, 0.2
# Calls of the dense model, as long as it takes to check what was found and to compare it, at least;
# and to trace, check and time what is packed as a program, and the whole once more.
CALLS_AFTER, CALLS_OF_PROGRAM = 6, 8


def refuses_programs(context: Context) -> str | None:
    """Why the model cannot run as programs, or None if it may."""
    if best_isa() is None:
        return "there is no compiled code"
    tensors = [x for x in context.example if isinstance(x, Tensor)]
    if len(tensors) != len(context.example):
        return "its inputs are not all tensors"
    if any(x.dtype != torch.float32 or not x.is_cpu for x in tensors):
        return "its inputs are not float32 on the CPU"
    if len({x.shape[0] for x in tensors if x.dim()}) != 1 or any(x.dim() < 2 for x in tensors):
        return "its inputs are not of one batch"
    return None


def refuses(context: Context, graph: Graph) -> str | None:
    """Why a graph cannot run as programs, or None if it can, in part at least."""
    if (reason := refuses_programs(context)) is not None:
        return reason
    layers = [node for node in graph.nodes if node.op in LAYERS]
    if not layers:
        return "it has no layer that is known"
    wrong = [node for node in layers if not may_be_packed(node)]
    reasons = {node.name: words for node in wrong if (words := refuses_node(node)) is not None}
    if len(reasons) == len(layers):
        return f"no layer of it can: {next(iter(reasons.values()))}"
    most = sum(map(_macs, layers))
    able = sum(_macs(node) for node in layers if node.name not in reasons)
    if able < LEAST_WORK * most:
        words = next(iter(reasons.values()))
        return f"{1 - able / most:.0%} of its work is in layers that cannot: {words}"
    return None


def _macs(node: Node) -> int:
    """The multiply-accumulates of a layer on the example."""
    kept = node.parameters.get("weight", node.parameters.get("values"))
    if not isinstance(kept, Tensor):
        return 0
    # A transposed convolution multiplies what it reads by all that a channel gives.
    counted = node.inputs[0] if node.op == "conv_transpose2d" else node.output
    return math.prod(counted.shape or ()) * kept.numel() // max(1, node.attributes["shape"][0])


def planned(
    context: Context,
    graph: Graph,
    rows: list[LayerPlan],
    calls: Mapping[str, Call],
    budget_s: float,
    step: Step,
) -> Chosen:
    """What the search comes to, timed against dense.

    Args:
        graph: of the context's base.
        rows: the layers; those with a reason stay dense.
        budget_s: seconds for it.
    """
    fixed = [row.name for row in rows if row.reason]
    share = WHOLE_SHARE * budget_s
    step("dense forms")
    to_beat: Run | None
    dense, to_beat = fastest_layout(context, context.dense, "dense", share / 4)
    dense, to_beat = try_compiled(context, context.dense, "dense", dense, to_beat, share / 4)
    if dense.fastest == CHANNELS_LAST:
        # Its weights in channels_last are not kept while the search needs memory.
        to_beat = None
    rows = decide_lines(context, rows, share, step)
    known = _from_cache(context, rows)
    allow_tiles(graph, context.winograd)
    if known is None:
        # What was timed is surer than the first call.
        call_s = min(dense.milliseconds.values(), default=1e3 * context.call_s) / 1e3
        left = context.left_s - CALLS_AFTER * call_s
        search_s = max(LEAST_SHARE * budget_s, min(SEARCH_SHARE * budget_s, left))
        found = search(graph, context.masks, context.example, search_s, fixed, step, call_s)
        rows = [_row(context, row, graph, found.decisions, found.costs, calls) for row in rows]
        decisions = found.decisions
        _to_cache(context, decisions, rows)
        left_out = found.left_out
    else:
        (decisions, rows), left_out = known, ()
    fast = model_of(context, rows, decisions)
    check_block(context.reference, fast, checked_images(context.example))
    to_beat = to_beat or channels_last_call(context.dense, context.example)
    packed, call = (
        replace(dense, fastest="program", milliseconds={}, skipped={}),
        calling(fast, context.example),
    )
    about = name_of(rows) + " program"
    step("dense against packed")
    whole = against(context, dense, to_beat, packed, call, about, share, fast)
    if whole.speedup <= 1:
        back = [_dense_again(row, whole) for row in rows]
        return Chosen(back, None, dense, replace(packed, fastest="eager"), to_beat=to_beat)
    return Chosen(
        rows,
        whole,
        dense,
        packed,
        decisions=decisions,
        to_beat=to_beat,
        call=call,
        about=about,
        left_out=left_out,
        takes=memory_of(context.dense, fast),
    )


def by_measure(context: Context, chosen: Chosen, budget_s: float) -> Chosen:
    """What is chosen, or the same as a program where a clock says that is faster."""
    call = chosen.call or chosen.to_beat
    if call is None:
        return chosen
    late = replace(chosen, left_out=(*chosen.left_out, "what is packed as a program"))
    if not context.has_calls(CALLS_OF_PROGRAM):
        return late
    try:
        graph = capture(converted(context, chosen.layers), context.example)
    except Uncaptured:
        return chosen
    if refuses(context, graph) is not None:
        return chosen
    fuse(graph)
    room = any(value.rank == 4 and has_room(value) for value in graph.inputs)
    planar = tuple(uniform(graph, PLANAR).items())
    best, speed = None, 1.0
    for order in (PLANAR, CHANNELS, IMAGES) if room else (PLANAR, CHANNELS):
        if not context.has_calls(CALLS_OF_PROGRAM):
            chosen = late
            break
        orders = tuple(uniform(graph, order).items())
        decisions = Decisions(_forms(chosen.layers), orders, planar, winograd=context.winograd)
        try:
            model = model_of(context, chosen.layers, decisions)
            check_block(context.reference, model, context.example)
        except (Mismatch, ValueError) as error:
            context.tell_of("the network as a program", error)
            words = f"the network does not run as a program: {failure(error)}"
            return replace(chosen, unfused=chosen.unfused or words)
        one: Run = calling(model, context.example)
        what = {"program": order, "of": name_of(chosen.layers)}
        measured = context.timed_whole(what, call, one, budget_s / 3)
        if measured.low > 1 and measured.speedup > speed:
            best, speed = (decisions, model, one), measured.speedup
    if best is None:
        return chosen
    decisions, model, one = best
    assert chosen.to_beat is not None
    packed = replace(chosen.packed, fastest="program")
    about = name_of(chosen.layers) + " program"
    whole = against(context, chosen.dense, chosen.to_beat, packed, one, about, budget_s / 2, model)
    if whole.speedup <= 1:
        return chosen
    return replace(
        chosen,
        whole=whole,
        packed=packed,
        fusions=(),
        concatenations=(),
        decisions=decisions,
        call=one,
        about=about,
        takes=memory_of(context.dense, model),
    )


def model_of(context: Context, layers: list[LayerPlan], decisions: Decisions) -> nn.Module:
    """A copy of the base with these layers packed, that runs as decided."""
    model = assemble_(sharing_copy(context.base), context.masks, layers, context.folding)
    shapes = tuple(tuple(x.shape) for x in context.example)
    return with_programs_(model, decisions, context.few or context.example, shapes)


def _forms(layers: list[LayerPlan]) -> tuple[tuple[str, str], ...]:
    named = {kind: form for (_, form), kind in KINDS.items()}
    packed = [each for each in layers if each.becomes and each.kind != "Conv1d"]
    return tuple((each.name, named.get(str(each.becomes), "csr")) for each in packed)


def _row(
    context: Context,
    row: LayerPlan,
    graph: Graph,
    decisions: Decisions,
    costs: Costs,
    calls: Mapping[str, Call],
) -> LayerPlan:
    """What becomes of a layer, by what was measured of it."""
    nodes = [node for node in graph.nodes if node.module == row.name]
    if row.reason or not nodes:
        return row
    node = nodes[0]
    if row.name in calls:
        row = with_floor(context, row, calls[row.name])
    form = dict(decisions.forms).get(row.name)
    measured = costs.steps.get(node.name, {})
    dense = [times for (own, _), times in measured.items() if own == "dense"]
    packed = [times for (own, _), times in measured.items() if own != "dense"]
    fastest = {True: _fastest(dense), False: _fastest(packed)}
    if fastest[True] and fastest[False]:
        row = replace(row, measured=compared(fastest[True], fastest[False]))
    if form is None:
        return replace(row, reason=_why_dense(row))
    return replace(
        row,
        becomes=KINDS[node.op, form],
        backend="auto",
        reason=f"fastest of {len(measured)} ways, in the network",
    )


def _why_dense(row: LayerPlan) -> str:
    if row.measured is None:
        return "it has no packed form that programs run"
    if row.measured.speedup <= 1:
        return "its packed form is not faster here"
    return "the network as a whole is not faster with it packed"


def _fastest(times: list[list[float]]) -> list[float]:
    return min(times, key=lambda own: quantile(own, 0.5), default=[])


def compared(dense: list[float], packed: list[float]) -> Comparison:
    """Two lists of milliseconds, of runs of the network, run by run."""
    ratios = [a / max(b, 1e-9) for a, b in zip(dense, packed, strict=False)]
    return Comparison(
        dense_ms=quantile(dense, 0.5),
        packed_ms=quantile(packed, 0.5),
        speedup=quantile(dense, 0.5) / max(quantile(packed, 0.5), 1e-9),
        low=quantile(ratios, 0.1),
        high=quantile(ratios, 0.9),
        pairs=len(ratios),
    )


def _dense_again(row: LayerPlan, whole: Comparison) -> LayerPlan:
    if row.becomes is None:
        return row
    reason = f"the whole network was not faster with packed layers ({whole.speedup:.2f})"
    return replace(row, becomes=None, backend=None, activation=None, reason=reason)


def _cache_key(context: Context) -> dict[str, Any] | None:
    if context.cache is None or context.identity is None:
        return None
    return {**context.identity, "decided": 1}


# What the search finds out about a layer.
_FOUND = ("becomes", "backend", "reason", "floor_ms", "bytes")


def _to_cache(context: Context, decisions: Decisions, rows: list[LayerPlan]) -> None:
    key = _cache_key(context)
    if key is None or context.cache is None:
        return
    own = []
    for row in rows:
        measured = None if row.measured is None else asdict(row.measured)
        own.append({name: getattr(row, name) for name in _FOUND} | {"measured": measured})
    context.cache.put(key, {"decisions": decisions.as_data(), "layers": own})


def _from_cache(
    context: Context, rows: list[LayerPlan]
) -> tuple[Decisions, list[LayerPlan]] | None:
    """What was decided before about this very network; None if nothing was."""
    key = _cache_key(context)
    kept = None if key is None or context.cache is None else context.cache.get(key)
    try:
        decisions = Decisions.from_data(kept["decisions"])  # type: ignore[index]
        found = []
        for row, own in zip(rows, kept["layers"], strict=True):  # type: ignore[index]
            measured = None if own["measured"] is None else Comparison(**own["measured"])
            known = {name: own[name] for name in _FOUND}
            found.append(replace(row, measured=measured, **known))
    except (ValueError, TypeError, KeyError):
        return None
    assert context.cache is not None
    context.cache.hits += 1
    return decisions, found
