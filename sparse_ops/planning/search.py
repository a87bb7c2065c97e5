"""The search: how a network runs fastest as programs, by what was measured in it.

Whole networks are run in a few uniform ways (all layers packed on planar values, all dense with
channels innermost, ...), each step timed. From these times a beam chooses a way for every node;
that choice and the uniform ways are then timed against each other as they are, and the batch in
pieces.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparse_ops.graph.inputs import Inputs
from sparse_ops.graph.ir import Graph, Node
from sparse_ops.ops._program_code import CHANNELS, IMAGES, LANES, PLANAR
from sparse_ops.passes.fuse import fuse
from sparse_ops.passes.layout import allowed, has_room, may_be_packed, refuses, uniform
from sparse_ops.passes.pack import DENSE, LAYERS, pack
from sparse_ops.passes.winograd import tiles_of
from sparse_ops.patterns import Periodic
from sparse_ops.planning import beam, costs
from sparse_ops.planning.costs import Costs
from sparse_ops.planning.decisions import Decisions
from sparse_ops.planning.images import first_images, images_of
from sparse_ops.program.segments import Item, cut, release_all, run

# Is told what begins now.
Step = Callable[[str], None]
# Of the budget: for uniform ways, for whole programs, for pieces, for small batches.
UNIFORM_SHARE, WHOLE_SHARE, PIECES_SHARE, SMALL_SHARE = 0.4, 0.2, 0.2, 0.2
CONVERSIONS_SHARE = 0.05
# How many images are run to find the way, a block of them for each of two threads; how large pieces
# are is found out with all of them.
ENOUGH_IMAGES = 2 * LANES
# Of a larger example, for what has to be right and not fast: two blocks, one of them not full.
CHECKED_IMAGES = LANES + 1
# Ways whose steps together take so many times as long as the fastest are not run once more.
HOPELESS = 1.5
# How many calls of the dense model a way takes to time, and images it is timed on at least; what
# the dense way in blocks and all that comes after it take.
CALLS_OF_WAY, LEAST_IMAGES, CALLS_OF_DENSE = 2.5, 4, 5
DENSE_BLOCKS = "dense, images innermost"
MOST_TURNS = 200
# Pieces that are tried, as a multiple of what fills the vectors.
PIECES = (16, 32, 64)
# Each runs so often at least; that may take so many times the seconds that are left for it.
TURNS_OF_PIECES, MOST_LATE = 2, 2


@dataclass(frozen=True, eq=False)
class Found:
    """What the search came to.

    Attributes:
        graph: fused and packed as decided.
        decisions: how every node runs.
        costs: what was measured.
        milliseconds: name of a whole program -> its time, the chosen one's and the others'.
        left_out: what there was no time for, in words.
    """

    graph: Graph
    decisions: Decisions
    costs: Costs
    milliseconds: Mapping[str, float]
    left_out: tuple[str, ...] = ()


def possible_forms(
    graph: Graph, masks: Mapping[str, Tensor], fixed: Sequence[str] = ()
) -> dict[str, str]:
    """Layer -> the form that its zeros allow, the more regular the better.

    Args:
        fixed: layers that must stay dense.
    """
    forms: dict[str, str] = {}
    for node in graph.nodes:
        name = node.module
        if name is None or node.op not in LAYERS or name in fixed:
            continue
        mask = masks.get(f"{name}.weight" if name else "weight")
        runs = refuses(node) is None or may_be_packed(node)
        plain = "weight" in node.parameters and runs
        if mask is None or not plain or bool(mask.all()) or not bool(mask.any()):
            continue
        rows = mask.dim() == 4 and node.op != "conv_transpose2d"
        periodic = rows and Periodic.recognise(mask.cpu()) is not None
        forms[name] = "periodic" if periodic else "csr"
    return forms


def search(
    graph: Graph,
    masks: Mapping[str, Tensor],
    example: Sequence[Any],
    budget_s: float,
    fixed: Sequence[str] = (),
    step: Step = lambda doing: None,
    call_s: float = 0.0,
) -> Found:
    """Finds the fastest way to run a graph as programs.

    Args:
        graph: folded; not changed.
        masks: of the graph's layers.
        example: the model's inputs.
        budget_s: seconds that it may take, about.
        fixed: layers that must stay dense.
        step: is told what begins now.
        call_s: seconds of a call of the dense model with the example, about.
    """
    ends = time.perf_counter() + budget_s
    few = some_images(example)
    few_s = call_s * images_of(tuple(few)) / images_of(tuple(example))
    fused = graph.copy()
    fuse(fused)
    forms = possible_forms(fused, masks, fixed)
    share = budget_s * (1 - SMALL_SHARE - PIECES_SHARE)
    found = _chosen(fused, forms, masks, few, share, step, call_s=few_s)
    step("pieces of the batch")
    seconds = min(PIECES_SHARE * budget_s, ends - time.perf_counter())
    of_all = images_of(tuple(example)) / images_of(tuple(few))
    call_ms = of_all * min(found.milliseconds.values())
    found = _in_pieces(found, example, max(0.0, seconds), call_ms / 1e3)
    if not any(order == IMAGES for _, order in found.decisions.orders):
        return replace(found, decisions=replace(found.decisions, small=found.decisions.orders))
    # The same network for a batch that leaves blocks empty: with what layers are packed in now.
    own = {name: form for name, form in found.decisions.forms}
    one = [x[:1] if isinstance(x, Tensor) else x for x in example]
    left = ends - time.perf_counter()
    if left <= 0:
        small = tuple(uniform(_packed(fused, own, masks), PLANAR).items())
        note = "how batches of few images run: as blocks of images cannot, plain"
        made = replace(found.decisions, small=small)
        return replace(found, decisions=made, left_out=(*found.left_out, note))

    def small_step(doing: str) -> None:
        step(f"one image: {doing}")

    of_one = call_s / images_of(tuple(example))
    other = _chosen(
        fused, own, masks, one, left, small_step, (PLANAR, CHANNELS), keep=True, call_s=of_one
    )
    return replace(found, decisions=replace(found.decisions, small=other.decisions.orders))


def _packed(fused: Graph, forms: Mapping[str, str], masks: Mapping[str, Tensor]) -> Graph:
    own = fused.copy()
    pack(own, forms, masks)
    return own


def _chosen(
    fused: Graph,
    forms: Mapping[str, str],
    masks: Mapping[str, Tensor],
    example: Sequence[Any],
    budget_s: float,
    step: Step,
    orders: Sequence[int] | None = None,
    keep: bool = False,
    call_s: float = 0.0,
) -> Found:
    """The fastest way for one size of the inputs.

    Args:
        orders: those to choose among; default: all that the batch fills.
        keep: whether layers keep the forms that they are given.
        call_s: seconds of a call of the dense model, about.
    """
    ends = time.perf_counter() + budget_s
    left_out: list[str] = []
    room = any(value.rank == 4 and has_room(value) for value in fused.inputs)
    if orders is None:
        orders = (PLANAR, CHANNELS, IMAGES) if room else (PLANAR, CHANNELS)
    ways: dict[str, tuple[Mapping[str, str], int]] = {"packed, planar": (forms, PLANAR)}
    if CHANNELS in orders:
        dense = {name: form for name, form in forms.items() if keep}
        ways["dense, channels innermost"] = (dense, CHANNELS)
    if IMAGES in orders:
        ways["packed, images innermost"] = (forms, IMAGES)
        ways[DENSE_BLOCKS] = ({}, IMAGES)
    if not forms:
        ways = {name: way for name, way in ways.items() if not name.startswith("packed, im")}
    known = Costs()
    share = UNIFORM_SHARE * budget_s / len(ways)
    made: dict[str, _Made] = {}
    for name, (own, order) in ways.items():
        # It is there for layers whose packed form is slower in blocks, which are few.
        late = ends - time.perf_counter() < CALLS_OF_DENSE * call_s
        if name == DENSE_BLOCKS and forms and late:
            left_out.append("dense layers in blocks of images")
            continue
        step(f"ways: {name}")
        packed = _packed(fused, own, masks)
        one = made[name] = _Made.of(packed, own, uniform(packed, order))
        part, scale = (example, 1.0) if order == IMAGES else _part(example, call_s, share)
        measured, totals = costs.measure(packed, one.items, own, one.orders, part, share)
        for node, (choice, milliseconds) in measured.items():
            known.steps[node].setdefault(choice, [scale * each for each in milliseconds])
        known.totals[name] = [scale * each for each in totals]
    step("ways between orders of values")
    costs.measure_conversions(known, _images_of(fused), orders, CONVERSIONS_SHARE * budget_s)
    choices = beam.choose(fused, known, orders)
    named = {node.name: node for node in fused.nodes}
    best_forms = {
        str(named[node].module): form
        for node, (form, _) in choices.items()
        if form not in ("", DENSE)
    }
    if keep:
        best_forms = dict(forms)
    packed = _packed(fused, best_forms, masks)
    best_orders = _possible(packed, {node: order for node, (_, order) in choices.items()})
    step("whole programs")
    least = min(costs.median(totals) for totals in known.totals.values())
    hurry = ends - time.perf_counter() < CALLS_OF_DENSE * call_s
    for name, totals in known.totals.items():
        if costs.median(totals) > (1 if hurry else HOPELESS) * least:
            release_all(made.pop(name).items)
    made["chosen by steps"] = _Made.of(packed, best_forms, best_orders)
    times = _race(made, example, WHOLE_SHARE * budget_s)
    best = made[min(times, key=lambda name: times[name])]
    found_orders = tuple(best.orders.items())
    decisions = Decisions(
        tuple(best.forms.items()), found_orders, found_orders, winograd=tiles_of(fused)
    )
    return Found(best.graph, decisions, known, times, tuple(left_out))


def _part(example: Sequence[Any], call_s: float, seconds: float) -> tuple[Sequence[Any], float]:
    """As many images as there is time for, and how many times as many the example has.

    Values that are planar or have channels innermost take as long for each image, about.
    """
    images = count = images_of(tuple(example))
    while count > LEAST_IMAGES and count * CALLS_OF_WAY * call_s > seconds * images:
        count //= 2
    return first_images(tuple(example), count), images / count


@dataclass(frozen=True, eq=False)
class _Made:
    """A graph that was packed in these forms, as programs with values in these orders."""

    graph: Graph
    forms: Mapping[str, str]
    orders: Mapping[str, int]
    items: Sequence[Item]

    @classmethod
    def of(cls, graph: Graph, forms: Mapping[str, str], orders: Mapping[str, int]) -> "_Made":
        return cls(graph, forms, orders, cut(graph, orders))


def some_images(example: Sequence[Any]) -> list[Any]:
    """The first images of an example: how fast steps are does not depend on the rest."""
    enough = LANES * min(ENOUGH_IMAGES // LANES, torch.get_num_threads())
    return [x[:enough] if isinstance(x, Tensor) else x for x in example]


def checked_images(example: Sequence[Any]) -> tuple[Any, ...]:
    """What is enough of an example to trace a network and to check it."""

    def few(x: Any) -> Any:
        large = isinstance(x, Tensor) and x.dim() > 0 and len(x) > ENOUGH_IMAGES
        return x[:CHECKED_IMAGES] if large else x

    some = tuple(few(x) for x in example)
    return example.like(some) if isinstance(example, Inputs) else some


def _in_pieces(found: Found, example: Sequence[Any], seconds: float, call_s: float) -> Found:
    """The same in pieces of the batch, if that is faster.

    Args:
        call_s: seconds of a call in one piece, about.
    """
    way = dict(found.decisions.orders)
    sizes = _sizes(way, example)
    if TURNS_OF_PIECES * (1 + len(sizes)) * call_s > MOST_LATE * seconds:
        words = ("the batch in pieces",) if sizes else ()
        return replace(found, left_out=(*found.left_out, *words))
    piece, pieces = _pieces(found.graph, way, example, sizes, seconds)
    decisions = replace(found.decisions, piece=piece)
    return replace(found, decisions=decisions, milliseconds={**found.milliseconds, **pieces})


def _images_of(graph: Graph) -> list[Any]:
    return [*graph.inputs, *(node.output for node in graph.nodes)]


def _possible(graph: Graph, orders: Mapping[str, int]) -> dict[str, int]:
    """The orders, of nodes that programs run, planar where a node cannot be in its own."""

    def one(node: Node) -> int:
        wanted = orders.get(node.name, PLANAR)
        return wanted if wanted in allowed(node) else PLANAR

    return {node.name: one(node) for node in graph.nodes if refuses(node) is None}


@torch.inference_mode()
def _race(
    programs: Mapping[str, _Made], example: Sequence[Any], seconds: float
) -> dict[str, float]:
    """Milliseconds of whole programs, by turns; the lower quartile of each."""
    calls = {
        name: partial(run, made.items, made.graph, made.graph.root, example)
        for name, made in programs.items()
    }
    times = _by_turns(calls, seconds)
    for made in programs.values():
        release_all(made.items)
    return times


def _by_turns(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    # What they prepare at first may take much longer than they do.
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for done in range(1, MOST_TURNS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
        spent = time.perf_counter() - begun
        # Three are worth twice the time there is.
        if spent + spent / done > (2 * seconds if done < 3 else seconds):
            break
    return {name: sorted(own)[len(own) // 4] for name, own in times.items()}


def _sizes(way: Mapping[str, int], example: Sequence[Any]) -> list[int]:
    """The numbers of images at a time that are worth a try."""
    batch = next((x.shape[0] for x in example if isinstance(x, Tensor)), 0)
    in_blocks = any(order == IMAGES for order in way.values())
    return [size for size in (PIECES if in_blocks else (1, 4, LANES)) if size < batch]


@torch.inference_mode()
def _pieces(
    graph: Graph,
    way: Mapping[str, int],
    example: Sequence[Any],
    sizes: Sequence[int],
    seconds: float,
) -> tuple[int, dict[str, float]]:
    """How many images to run at a time, and how long each number takes."""
    if not sizes:
        return 0, {}
    items: dict[int, list[Item]] = {size: cut(graph, way, size) for size in (0, *sizes)}
    calls = {
        str(size): partial(run, own, graph, graph.root, example) for size, own in items.items()
    }
    times = _by_turns(calls, seconds)
    for own in items.values():
        release_all(own)
    best = min(times, key=lambda size: times[size])
    return int(best), {f"in pieces of {size}": times[str(size)] for size in sizes}
