"""Pieces: the largest parts of what cannot be traced that can be, each planned by itself.

Where a module's code cannot be traced, it runs as it is, and the modules in it that can be traced
are as fast as they come: each is a model of its own, with what it was given on the example.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from sparse_ops.graph.capture import Uncaptured, capture
from sparse_ops.graph.ir import Graph
from sparse_ops.graph.running import first_run
from sparse_ops.nn._folded import Folded
from sparse_ops.planning.copies import sharing_copy
from sparse_ops.planning.masked import makes_nested, prunable_layers, replaced

# More are not worth the time: those with most weights are taken.
MOST_PIECES = 16

Inputs = tuple[Any, ...]


def untraced(model: nn.Module, graph: Graph | None) -> list[str]:
    """The names of the modules whose code is in no graph, and that have layers inside."""
    if graph is None:
        return [""]
    called = {node.module for node in graph.nodes if node.op == "call" and node.module is not None}
    return sorted(name for name in called if prunable_layers(model.get_submodule(name)))


def find_pieces(
    model: nn.Module, graph: Graph | None, masks: Mapping[str, Tensor], inputs: Inputs
) -> dict[str, Inputs]:
    """The names of the pieces, and what each is given on the example.

    Args:
        model: masked, in eval mode.
        graph: of it; None: it cannot be traced.
    """
    outer = untraced(model, graph)
    if not outer:
        return {}
    seen = _given(model, outer, inputs)
    # Where nothing is traced, layers that stand alone are planned one by one anyway.
    least = 2 if graph is None else 1
    found = {p: seen[p] for name in outer for p in _inside(model, name, masks, seen, least)}
    weights = {p: sum(w.numel() for w in model.get_submodule(p).parameters()) for p in found}
    most = sorted(found, key=lambda name: -weights[name])[:MOST_PIECES]
    return {name: given for name, given in found.items() if name in most}


def _given(model: nn.Module, outer: list[str], inputs: Inputs) -> dict[str, Inputs]:
    """What modules inside of others are given when the model runs, if that is tensors by place."""
    seen: dict[str, Inputs] = {}
    other: set[str] = set()

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, args: Inputs, kwargs: dict[str, Any]) -> None:
            if kwargs or not args or not all(isinstance(x, Tensor) for x in args):
                other.add(name)
            seen.setdefault(name, tree_map_only(Tensor, lambda x: x.detach().clone(), args))

        return hook

    names = [*model.named_modules(remove_duplicate=False)]
    once = [n for n, m in names if sum(m is same for _, same in names) == 1]
    handles = [
        model.get_submodule(name).register_forward_pre_hook(hook_for(name), with_kwargs=True)
        for name in once
        if any(name != top and (not top or name.startswith(f"{top}.")) for top in outer)
    ]
    try:
        first_run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: given for name, given in seen.items() if name not in other}


def _inside(
    model: nn.Module,
    name: str,
    masks: Mapping[str, Tensor],
    seen: Mapping[str, Inputs],
    least: int,
) -> Iterator[str]:
    for child_name, child in model.get_submodule(name).named_children():
        full = f"{name}.{child_name}" if name else child_name
        layers = prunable_layers(child)
        if not any(masks_of(masks, full)) or makes_nested(model, full) is not None:
            continue
        if full in seen and len(layers) >= least and _is_traced(child, seen[full]):
            yield full
        else:
            yield from _inside(model, full, masks, seen, least)


def _is_traced(module: nn.Module, inputs: Inputs) -> bool:
    """Whether a module has a graph, with layers in it."""
    try:
        graph = capture(module, inputs)
    except Uncaptured:
        return False
    return any(node.op in ("conv2d", "linear", "conv_transpose2d") for node in graph.nodes)


def masks_of(masks: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The masks of a module's layers, by their names in it."""
    prefix = f"{name}."
    return {k[len(prefix) :]: mask for k, mask in masks.items() if k.startswith(prefix)}


def with_pieces(model: nn.Module, fast: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of a model that has these in the place of its modules; it shares the other tensors."""
    whole = sharing_copy(model)
    for name, piece in fast.items():
        for module in piece.modules():
            if isinstance(module, Folded):
                module.into = f"{name}.{module.into}" if module.into else name
        whole = replaced(whole, name, piece)
    return whole


def is_inside(name: str, pieces: Mapping[str, Any]) -> bool:
    """Whether a module is one of these pieces, or in one."""
    return any(f"{name}.".startswith(f"{piece}.") for piece in pieces)
