"""Tracing: the graph that a model is planned by."""

from typing import Any

from torch import nn

from sparse_ops.graph.capture import Uncaptured, capture
from sparse_ops.graph.ir import Graph
from sparse_ops.graph.running import Run


def captured(
    masked: nn.Module, inputs: tuple[Any, ...], given: Run
) -> tuple[Graph | None, str | None]:
    """The graph of a model, and what is not as it should be with it; or None and why."""
    try:
        graph = capture(masked, inputs, given, keep_unused=True)
    except Uncaptured as error:
        return None, str(error)
    return graph, "; ".join(graph.notes) or None


def asks_sizes(graph: Graph) -> bool:
    """Whether sizes decided what the model's code does."""
    return any(v.is_asked for v in (*graph.inputs, *(node.output for node in graph.nodes)))
