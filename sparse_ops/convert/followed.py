"""A model whose channels were followed through its whole graph, or why they cannot be."""

from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from sparse_ops.convert import tracing
from sparse_ops.convert.channel_tables import handler_of
from sparse_ops.convert.flow import Flow, follow, hooked


@dataclass(frozen=True, eq=False)
class Followed:
    """The graph of a model, and what is known of its channels."""

    graph: fx.Graph
    flow: Flow


def followed(model: nn.Module, example: tuple[Any, ...]) -> Followed | str:
    """Follows a model's channels, or says in words why that cannot be.

    Args:
        model: masked, plain, in eval mode; its parameters are made contiguous.
        example: its input.
    """
    graph, note = tracing.trace(model)
    if graph is None:
        return str(note)
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    if watchers := [n for n, m in model.named_modules() if hooked(m) and n not in called]:
        return f"{watchers[0]!r} has hooks"
    # Weights are changed through views of them, which other layouts do not have.
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    try:
        shapes, others = tracing.run(model, graph, example)
    except Exception as error:
        return f"the model's graph does not run ({error!r:.200})"
    return Followed(graph, follow(model, graph, shapes, others, handler_of))
