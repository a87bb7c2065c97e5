"""Tracing: a model as a torch.fx graph, and what flows along its edges."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from sparse_ops.graph import optional
from sparse_ops.nn import SparseLayer
from sparse_ops.nn._constant import Constant


class Tracer(fx.Tracer):
    """torch's, which also leaves our own layers whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, SparseLayer | Constant)
        return ours or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> tuple[fx.Graph | None, str | None]:
    """The model's graph, or None and why torch.fx cannot trace the model."""
    try:
        graph = Tracer().trace(model)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        return None, f"torch.fx cannot trace the model: {first}"
    depends = optional.matters(model, Tracer(), graph)
    return (graph, None) if depends is None else (None, depends)


def text(graph: fx.Graph) -> str:
    """The graph line by line, every number that the model's code has written into it included."""
    return "\n".join(f"{n.op} {n.target} {n.args} {n.kwargs}" for n in graph.nodes)


class _Watch(fx.Interpreter):
    """Runs a graph and remembers the shapes of tensors, and whatever is no tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.others: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
        elif n.op != "output":
            self.others[n] = result
        return result


def run(
    model: nn.Module, graph: fx.Graph, example: tuple[Any, ...]
) -> tuple[dict[fx.Node, tuple[int, ...]], dict[fx.Node, Any]]:
    """Runs the graph once: the shape of every node's tensor, and the others' results.

    Random numbers that the model draws are not taken from the caller.
    """
    inputs = [x.clone() if isinstance(x, Tensor) else x for x in example]
    watch = _Watch(fx.GraphModule(model, graph))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        watch.run(*inputs)
    # What a node other than a tensor gives is kept only where it may be an argument: numbers.
    plain = (int, float, tuple, list, type(None))
    return watch.shapes, {n: r for n, r in watch.others.items() if isinstance(r, plain)}
