"""Fusing in the graph: y = activation(layer(x) + residual) becomes one call of a packed layer.

What the forward of a model does with functions, or with one activation module in several places,
cannot be changed by exchanging modules (`fold`): here the model becomes a torch.fx.GraphModule of
the same modules and parameter names, whose forward is the changed graph.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sparse_ops.graph.layers import activation_name
from sparse_ops.graph.trace import rewritten, trace
from sparse_ops.nn import SparseLayer
from sparse_ops.nn._folded import Folded
from sparse_ops.ops._activation import leaky_relu, slope_of
from sparse_ops.planning.fold import gelu_name

FUNCTIONS: dict[Any, str] = {
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu: "relu",
    F.relu_: "relu",
    F.relu6: "relu6",
    F.silu: "silu",
    F.hardswish: "hardswish",
}
METHODS = {"relu": "relu", "relu_": "relu"}
ADDITIONS = (operator.add, operator.iadd, torch.add)
LEAVES = (SparseLayer, Folded)


@dataclass(frozen=True)
class Fusion:
    """What a packed layer does beside, once fused.

    Attributes:
        layer: its name.
        activation: what is applied to its output; None: nothing.
        residual: whether another tensor is added before that.
    """

    layer: str
    activation: str | None
    residual: bool


@dataclass(frozen=True, eq=False)
class _Site:
    """Where a fusion is in a graph: `node` calls the layer, `last` is what it becomes."""

    fusion: Fusion
    node: fx.Node
    last: fx.Node


def find(model: nn.Module, shapes: Mapping[str, tuple[int, ...]] | None = None) -> list[Fusion]:
    """What can be fused in a converted model; nothing where it cannot be traced.

    Args:
        model: not changed.
        shapes: node -> the shape of its result, as `shapes_of` has it; without, every addition is
            taken for one of equal shapes.
    """
    graph, _ = trace(model, LEAVES)
    return [] if graph is None else [site.fusion for site in _sites(model, graph, shapes)]


def shapes_of(model: nn.Module, example: tuple[Any, ...]) -> dict[str, tuple[int, ...]]:
    """Node -> the shape of its result, for one run of the model."""
    graph, _ = trace(model, LEAVES)
    shapes: dict[str, tuple[int, ...]] = {}
    if graph is None:
        return shapes

    class Watching(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, Tensor):
                shapes[n.name] = tuple(result.shape)
            return result

    with torch.no_grad():
        Watching(fx.GraphModule(model, graph)).run(*example)
    return shapes


def fused(model: nn.Module, fusions: list[Fusion]) -> fx.GraphModule:
    """The model with these fusions; its layers and tensors are those of `model`, and are changed.

    Raises:
        ValueError: the model has no place for one of them.
    """
    graph, _ = trace(model, LEAVES)
    sites = [] if graph is None else _sites(model, graph, None)
    known = {site.fusion: site for site in sites}
    if missing := [fusion for fusion in fusions if fusion not in known]:
        raise ValueError(f"the model has no place for {missing[0]}")
    assert graph is not None
    for fusion in fusions:
        _rewrite(graph, known[fusion])
        layer = model.get_submodule(fusion.layer)
        assert isinstance(layer, SparseLayer)
        layer.activation, layer.fused = fusion.activation, True
    return rewritten(model, graph)


def fusions_of(model: nn.Module) -> list[Fusion]:
    """The fusions that a model was given by `fused`."""
    if not isinstance(model, fx.GraphModule):
        return []
    calls = [(node, _module(model, node)) for node in model.graph.nodes]
    return [
        Fusion(str(node.target), layer.activation, "residual" in node.kwargs)
        for node, layer in calls
        if isinstance(layer, SparseLayer) and layer.fused
    ]


def _sites(
    model: nn.Module, graph: fx.Graph, shapes: Mapping[str, tuple[int, ...]] | None
) -> list[_Site]:
    uses: dict[Any, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            uses[node.target] = uses.get(node.target, 0) + 1
    order = {node: number for number, node in enumerate(graph.nodes)}
    changing = [number for node, number in order.items() if changes_in_place(model, node)]
    sites: list[_Site] = []
    taken: set[fx.Node] = set()
    # The later of two layers that are added to each other takes the other one's output.
    for node in reversed(graph.nodes):
        layer = _module(model, node)
        if not isinstance(layer, SparseLayer) or layer.activation is not None:
            continue
        if uses[node.target] > 1 or len(node.args) != 1 or node.kwargs:
            continue
        site = _site(model, node, shapes)
        if site is None or site.last in taken:
            continue
        chain = {order[n] for n in _chain(site)}
        between = range(order[node] + 1, order[site.last])
        if any(number in between and number not in chain for number in changing):
            continue
        taken.add(site.last)
        sites.append(site)
    return sites[::-1]


def _module(model: nn.Module, node: fx.Node) -> nn.Module | None:
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def changes_in_place(model: nn.Module, node: fx.Node) -> bool:
    """Whether a node writes to what it is given."""
    if node.op == "call_module":
        return bool(getattr(_module(model, node), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    name = getattr(node.target, "__name__", "")
    in_place = name in ("iadd", "isub", "imul", "itruediv", "setitem") or name.endswith("_")
    return node.op == "call_function" and (in_place or bool(node.kwargs.get("inplace")))


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _activation(model: nn.Module, node: fx.Node | None) -> str | None:
    """The activation that a node is, of its one argument."""
    if node is not None and node.op == "call_function" and node.target is F.leaky_relu:
        given = [*node.args[1:2], node.kwargs.get("negative_slope", 0.01)]
        return leaky_relu(given[0]) if isinstance(given[0], float) else None
    if node is None or len(node.args) != 1:
        return None
    if node.op == "call_function" and node.target is F.gelu:
        return gelu_name(node.kwargs.get("approximate", "none"))
    if node.kwargs.keys() - {"inplace"}:
        return None
    if node.op == "call_module":
        name = activation_name(_module(model, node))
        # As in `ways`: a module's slope may be set anew.
        return name if slope_of(name) is None else None
    if node.op == "call_function":
        return FUNCTIONS.get(node.target)
    return METHODS.get(str(node.target)) if node.op == "call_method" else None


def _is_nothing(model: nn.Module, node: fx.Node | None) -> bool:
    """Whether a node stands for a module that was folded away."""
    module = None if node is None else _module(model, node)
    return isinstance(module, Folded) and module.act is None


def _site(
    model: nn.Module, node: fx.Node, shapes: Mapping[str, tuple[int, ...]] | None
) -> _Site | None:
    last = node
    while (after := _only_user(last)) is not None and _is_nothing(model, after):
        last = after
    residual = False
    layer = _module(model, node)
    adds = isinstance(layer, SparseLayer) and layer.ADDS
    if adds and after is not None and (other := _added(after, last)) is not None:
        alike = shapes is None or shapes.get(other.name) == shapes.get(node.name) is not None
        if alike:
            residual, last = True, after
            after = _only_user(last)
    activation = _activation(model, after)
    if activation is not None:
        assert after is not None
        last = after
    if not residual and activation is None:
        return None
    return _Site(Fusion(str(node.target), activation, residual), node, last)


def _added(node: fx.Node, one: fx.Node) -> fx.Node | None:
    """What a node adds to `one`, if it does only that."""
    plain = node.op == "call_function" and node.target in ADDITIONS and not node.kwargs
    if not plain or len(node.args) != 2 or not all(isinstance(a, fx.Node) for a in node.args):
        return None
    first, second = node.args
    if first is one and second is not one:
        other = second
    elif second is one and first is not one and node.target is not operator.iadd:
        other = first
    else:
        return None
    assert isinstance(other, fx.Node)
    return other


def _chain(site: _Site) -> list[fx.Node]:
    """The nodes from the layer to the last one, both included."""
    nodes = [site.node]
    while nodes[-1] is not site.last:
        nodes.append(next(iter(nodes[-1].users)))
    return nodes


def _rewrite(graph: fx.Graph, site: _Site) -> None:
    """Calls the layer where the last node of its chain is; what is folded away stays after it."""
    chain = _chain(site)
    nothing = [n for n in chain[1:] if n.op == "call_module" and n is not site.last]
    with graph.inserting_before(site.last):
        # Read off the graph as it is now: what is added may have been rewritten before.
        kwargs: dict[str, Any] = {}
        for before, node in pairwise(chain):
            if (other := _added(node, before)) is not None:
                kwargs["residual"] = other
        result = graph.call_module(str(site.node.target), site.node.args, kwargs)
        for node in nothing:
            result = graph.call_module(str(node.target), (result,))
    site.last.replace_all_uses_with(result)
    for node in reversed(chain):
        graph.erase_node(node)
