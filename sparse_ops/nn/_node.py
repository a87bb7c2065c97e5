"""Layers are nodes in the graphs that anyone's tracers of torch.fx make, as those of torch.nn."""

from typing import Any

from torch import fx, nn


def node_of(layer: nn.Module, *given: Any) -> Any:
    """The node that a call of a layer is while a graph is traced; None if none is."""
    if not isinstance(given[0], fx.Proxy):
        return None
    tracer: Any = given[0].tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), given, {})
