"""The beam: an order and a form for every node, by what steps and conversions cost together.

Nodes are decided in the order that they run. A state is which orders each live value is there in;
of states that are alike in that, the cheapest is kept, and of all the `WIDTH` cheapest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sparse_ops.graph.ir import Graph, Node, Value
from sparse_ops.ops._program_code import PLANAR
from sparse_ops.passes.layout import allowed, may_be_packed, reads, refuses
from sparse_ops.planning.costs import Choice, Costs

WIDTH = 64

State = tuple[tuple[int, tuple[int, ...]], ...]  # live value -> the orders that it is there in


@dataclass(frozen=True)
class _Path:
    cost: float
    choices: "tuple[tuple[str, Choice], ...]"
    first: dict[int, int]
    there: dict[int, frozenset[int]]


def choose(graph: Graph, costs: Costs, orders: Sequence[int]) -> dict[str, Choice]:
    """Node -> the form of its weight and the order of what it gives, cheapest together.

    Args:
        graph: fused; every node that programs run has been measured in one choice at least.
        orders: those to choose among.
    """
    start = {id(value): frozenset([PLANAR]) for value in graph.inputs}
    paths = [_Path(0.0, (), dict.fromkeys(start, PLANAR), start)]
    last = {id(value): place for place, node in enumerate(graph.nodes) for value in node.inputs}
    given = {id(value) for value in graph.outputs()}
    for place, node in enumerate(graph.nodes):
        best: dict[State, _Path] = {}
        for path in paths:
            for choice in _choices(node, costs, orders):
                made = _after(path, node, choice, costs, id(node.output) in given)
                there = {k: v for k, v in made.there.items() if last.get(k, -1) > place}
                made = _Path(made.cost, made.choices, made.first, there)
                key: State = tuple(sorted((k, tuple(sorted(v))) for k, v in there.items()))
                if key not in best or made.cost < best[key].cost:
                    best[key] = made
        paths = sorted(best.values(), key=lambda path: path.cost)[:WIDTH]
    return dict(min(paths, key=lambda path: path.cost).choices)


def _choices(node: Node, costs: Costs, orders: Sequence[int]) -> list[Choice]:
    if refuses(node) is not None and not may_be_packed(node):
        return [("", PLANAR)]
    able = set(allowed(node))
    known = costs.steps.get(node.name, {})
    found = [choice for choice in known if choice[1] in orders and choice[1] in able]
    return found or [("", PLANAR)]


def _after(path: _Path, node: Node, choice: Choice, costs: Costs, is_given: bool) -> _Path:
    order = choice[1] if node.output.rank == 4 else PLANAR
    cost = path.cost + (costs.of(node.name, choice) or 0.0)
    there, first = dict(path.there), path.first
    if refuses(node) is None or choice[0] == "csr":
        for value in node.inputs:
            wanted = reads(node, order) if value is node.inputs[0] else order
            if node.op in ("flatten", "mean") or value.rank != 4:
                wanted = first.get(id(value), PLANAR)
            cost += _converted(there, first, value, wanted, costs)
    else:
        for value in node.inputs:
            cost += _converted(there, first, value, PLANAR, costs)
    out = id(node.output)
    there[out] = frozenset([order])
    if is_given:
        cost += _converted(there, {out: order}, node.output, PLANAR, costs)
    return _Path(cost, (*path.choices, (node.name, choice)), {**first, out: order}, there)


def _converted(
    there: dict[int, frozenset[int]],
    first: dict[int, int],
    value: Value,
    order: int,
    costs: Costs,
) -> float:
    """What bringing a value into an order costs; nothing where it is there in that."""
    own = there.get(id(value), frozenset([PLANAR]))
    if order in own or value.rank != 4 or value.shape is None:
        return 0.0
    there[id(value)] = own | {order}
    source = first.get(id(value), PLANAR)
    # As a guess where nothing was measured: 4 GB/s.
    size = 4e-6
    for n in value.shape:
        size *= n
    return costs.conversions.get((value.shape, source, order), size / 4)
