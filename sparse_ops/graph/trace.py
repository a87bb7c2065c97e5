"""Tracing: which modules follow which, as far as torch.fx can tell.

Where a forward cannot be traced, its module becomes one node, and the rest of the model is
still traced.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import fx, nn

from sparse_ops.graph import optional
from sparse_ops.graph.spelling import runs_as
from sparse_ops.nn._constant import Constant

# A model whose tracing fails in more places than this is not worth the time.
MOST_OPAQUE = 50


class Tracer(fx.Tracer):
    """torch.fx's, which takes BatchNorms of any package and named modules as one node each."""

    def __init__(
        self, opaque: Collection[str] = (), leaves: tuple[type[nn.Module], ...] = ()
    ) -> None:
        super().__init__()
        self.opaque, self.leaves = opaque, leaves
        # The modules whose forwards are running, outermost first.
        self.inside: list[str] = []
        # Whether something runs under autocast that the caller has not turned on.
        self.casts = False
        self._cast_outside = torch.is_autocast_enabled("cpu")

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = (nn.BatchNorm1d, nn.BatchNorm2d, Constant, *self.leaves)
        if module_qualified_name in self.opaque or isinstance(m, whole):
            return True
        if runs_as(m, nn.Conv2d) or runs_as(m, nn.Linear):
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        self.casts |= torch.is_autocast_enabled("cpu") and not self._cast_outside
        return super().create_node(*args, **kwargs)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self.inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        # Left as it is where tracing fails: then it tells where that was.
        self.inside.pop()
        return result


def trace(
    model: nn.Module, leaves: tuple[type[nn.Module], ...] = ()
) -> tuple[fx.Graph | None, str | None]:
    """The graph of a model.

    Args:
        model: not changed.
        leaves: kinds of modules that are one node each, beside those of torch.nn.

    Returns:
        The graph and None; or the graph and which modules are one node each in it, and why; or
        None and why there is no graph.
    """
    opaque: set[str] = set()
    first = ""
    while True:
        tracer = Tracer(opaque, leaves)
        try:
            graph = tracer.trace(model)
            break
        except Exception as error:
            first = first or (str(error).splitlines() or [""])[0]
            if not tracer.inside or len(opaque) == MOST_OPAQUE:
                return None, f"torch.fx cannot trace the model, so nothing was folded: {first}"
            opaque.add(tracer.inside[-1])
    if tracer.casts:
        return None, "its forward turns autocast on, so nothing was folded"
    if (depends := optional.matters(model, Tracer(opaque, leaves), graph)) is not None:
        return None, f"{depends}, so nothing was folded"
    if not opaque:
        return graph, None
    names = ", ".join(sorted(opaque))
    return graph, f"torch.fx cannot trace {names}, so nothing was folded inside: {first}"


def rewritten(model: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A traced model with another graph, in its mode; layers and tensors are the model's."""
    result = fx.GraphModule(model, graph, type(model).__name__)
    result.training = model.training
    return result
