"""Optional arguments: whether a model does something else where one of them is not given.

torch.fx hands a stand-in to each argument, so that `if mask is None` is False to it: the graph is
that of a call with all of them. Where a call without any has another graph, neither is the model.
"""

import inspect
import operator
import warnings
from typing import Any

import torch
from torch import fx, nn


def matters(model: nn.Module, tracer: fx.Tracer, graph: fx.Graph) -> str | None:
    """Why the graph is not that of all calls of the model, or None if it is.

    Args:
        tracer: traces as `graph` was traced.
    """
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is not parameter.empty
    }
    if not defaults:
        return None
    words = f"its forward does something else without {' or '.join(defaults)}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            without = tracer.trace(model, concrete_args=defaults)
    # Tracing runs the model's own code, which may raise anything where an argument is not given.
    except Exception:
        return words
    return None if _lines(graph, defaults) == _lines(without, defaults) else words


def _lines(graph: fx.Graph, defaults: dict[str, Any]) -> list[str]:
    """What is done with these arguments, without the checks of them that tracing adds."""

    def given(node: fx.Node) -> Any:
        known = node.op == "placeholder" and node.target in defaults
        return defaults[str(node.target)] if known else node

    return [
        f"{node.op} {node.target} {fx.node.map_arg((node.args, node.kwargs), given)}"
        for node in graph.nodes
        if node.op != "placeholder" and not _is_check(node)
    ]


def _is_check(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    if node.target is torch._assert or getattr(node.target, "__name__", "") == "_assert_is_none":
        return True
    return node.target is operator.eq and all(_is_check(user) for user in node.users)
