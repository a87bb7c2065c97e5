"""Costs: how long each step of a network takes, in each form and order, measured in the network.

A whole program in which everything is done in one way is run a few times; each of its steps is
timed there, between its neighbours, with the caches as they leave them.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparse_ops.graph import ops
from sparse_ops.graph.ir import Graph, Value
from sparse_ops.ops import program as programs
from sparse_ops.ops._program_code import CHANNELS, IMAGES, PLANAR, Program, Step
from sparse_ops.ops._program_code import Value as Place
from sparse_ops.passes.layout import may_be_packed
from sparse_ops.passes.pack import LAYERS
from sparse_ops.program.segments import Item, Segment

# A first run prepares and warms; then as many count as there is time for, so many at least and at
# most.
LEAST, MOST = 2, 40
ORDERS = (PLANAR, CHANNELS, IMAGES)

Choice = tuple[str, int]  # the form of a layer's weight ("" for no layer), the order of its output


@dataclass(eq=False)
class Costs:
    """What was measured.

    Attributes:
        steps: node -> choice -> milliseconds of each run.
        conversions: (shape, from order, to order) -> milliseconds.
        totals: name of a way -> milliseconds of each whole run.
    """

    steps: dict[str, dict[Choice, list[float]]] = field(default_factory=lambda: defaultdict(dict))
    conversions: dict[tuple[tuple[int, ...], int, int], float] = field(default_factory=dict)
    totals: dict[str, list[float]] = field(default_factory=dict)

    def of(self, node: str, choice: Choice) -> float | None:
        """The median of a step; None if it was not measured."""
        found = self.steps.get(node, {}).get(choice)
        return None if found is None else median(found)


def median(numbers: Sequence[float]) -> float:
    """The lower one of two."""
    ordered = sorted(numbers)
    return ordered[(len(ordered) - 1) // 2]


@torch.inference_mode()
def measure(
    graph: Graph,
    items: Sequence[Item],
    forms: Mapping[str, str],
    orders: Mapping[str, int],
    example: Sequence[Any],
    seconds: float,
) -> tuple[dict[str, tuple[Choice, list[float]]], list[float]]:
    """Times every step of a fused and packed graph in these orders.

    Args:
        items: the graph in these orders, as programs; prepared afterwards.

    Returns:
        node -> its choice and the milliseconds of each run; and those of all steps together.
    """
    # Prepares what runs, which may take much longer than a run.
    begun = time.perf_counter()
    _profiled(items, graph, example, 1)
    prepared = time.perf_counter()
    # Where preparing takes all of the time there is, one more run has to do.
    least = 1 if prepared - begun > seconds else LEAST
    times = _profiled(items, graph, example, least)
    took = (time.perf_counter() - prepared) / least
    if (again := min(MOST, int(seconds / max(took, 1e-6))) - least) > 0:
        more = _profiled(items, graph, example, again)
        times = {name: row + more[name] for name, row in times.items()}
    for node in graph.nodes:
        # Its layer's step has done it: `lower`.
        if node.op == "prelu" and times and node.name in orders:
            times.setdefault(node.name, [0.0] * len(next(iter(times.values()))))
    modules = {node.name: node.module or "" for node in graph.nodes}
    found = {}
    for node in graph.nodes:
        if node.name in times and may_be_packed(node):
            # PyTorch does it, between programs.
            found[node.name] = (("dense", PLANAR), times[node.name])
        elif node.name in times and node.name in orders:
            form = forms.get(modules[node.name], "dense")
            layer = node.op in LAYERS
            found[node.name] = ((form if layer else "", orders[node.name]), times[node.name])
    totals = [sum(column) for column in zip(*times.values(), strict=False)]
    return found, totals


def _profiled(
    items: Sequence[Item], graph: Graph, example: Sequence[Any], repeats: int
) -> dict[str, list[float]]:
    """Node -> milliseconds of each run, of all programs, and of what is between them."""
    known: dict[int, Any] = {id(v): x for v, x in zip(graph.inputs, example, strict=True)}
    times: dict[str, list[float]] = defaultdict(lambda: [0.0] * repeats)
    for item in items:
        if isinstance(item, Segment):
            given = [known[id(value)] for value in item.inputs]
            constants = item.program.constants
            table: Tensor = programs.profile(given, item.encoded, constants, repeats)
            for number, step in enumerate(item.program.steps):
                # A node may be several steps.
                row = table[:, number].tolist()
                times[step.name] = [a + b for a, b in zip(times[step.name], row, strict=True)]
            if item is not items[-1]:
                found = item(given, graph.root)
                known |= {id(v): y for v, y in zip(item.outputs, found, strict=True)}
            continue
        given = [known[id(value)] for value in item.inputs]
        for run in range(repeats):
            begun = time.perf_counter()
            result = ops.evaluate(item, graph.root, given)
            times[item.name][run] += 1e3 * (time.perf_counter() - begun)
        known[id(item.output)] = result
    return dict(times)


@torch.inference_mode()
def measure_conversions(
    costs: Costs, values: Sequence[Value], orders: Sequence[int], seconds: float
) -> None:
    """Times the ways between orders for values of these sizes, of which each is tried once.

    Args:
        seconds: where it takes longer, each is run once and not three times.
    """
    ends = time.perf_counter() + seconds
    for shape in {value.shape for value in values if value.rank == 4 and value.shape}:
        pairs = [(a, b) for a in orders for b in orders if a != b]
        if all((shape, *pair) in costs.conversions for pair in pairs):
            continue
        # One after the other, so that each begins where the last one ended.
        path = [PLANAR, CHANNELS, PLANAR]
        if IMAGES in orders:
            path = [PLANAR, CHANNELS, IMAGES, PLANAR, IMAGES, CHANNELS, PLANAR]
        steps = tuple(
            Step("convert", number, (number - 1,), name=str(number))
            for number in range(1, len(path))
        )
        places = tuple(Place(order) for order in path)
        program = Program(1, (len(path) - 1,), places, steps, (), _number())
        x = torch.randn(shape)
        repeats = 1 if time.perf_counter() > ends else 3
        table = programs.profile([x], program.encoded(), (), repeats)
        programs.release(program.number)
        fastest = table.median(0).values.tolist()
        for number in range(1, len(path)):
            key = shape, path[number - 1], path[number]
            costs.conversions[key] = fastest[number - 1]


def _number() -> int:
    import secrets

    return secrets.randbits(62)
