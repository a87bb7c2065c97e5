"""Evaluating: what a graph gives, node by node, as PyTorch does it."""

from collections.abc import Callable, Sequence
from typing import Any

from sparse_ops.graph import ops
from sparse_ops.graph.ir import Graph, Node, Value, mapped

Watch = Callable[[Node, Sequence[Any], Any], None]


def evaluate(graph: Graph, inputs: Sequence[Any], watch: Watch | None = None) -> Any:
    """What the model gives for these inputs, of any size, dtype and device that it takes.

    Args:
        watch: is told of each node: (node, what it was given, what it gave).
    """
    known: dict[int, Any] = {id(v): x for v, x in zip(graph.inputs, inputs, strict=True)}
    last = {id(value): node for node in graph.nodes for value in node.inputs}
    kept = {id(value) for value in graph.outputs()}
    for node in graph.nodes:
        given = [known[id(value)] for value in node.inputs]
        known[id(node.output)] = result = ops.evaluate(node, graph.root, given)
        if watch is not None:
            watch(node, given, result)
        for value in node.inputs:
            if last[id(value)] is node and id(value) not in kept:
                known.pop(id(value), None)
    return mapped(graph.output, Value, lambda value: known[id(value)])
