"""Rewriting one stretch of a graph: what enters, what leaves, and the halos between."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx, nn

from sparse_ops.convert.stretch_groups import Groups, hands_on
from sparse_ops.convert.stretch_nodes import (
    ALIKE,
    CONCATENATION,
    CONVOLUTION,
    MEAN,
    Role,
    role_of,
)
from sparse_ops.nn._conv import SparseConv2d
from sparse_ops.ops.blocked import enter, leave


def rewrite_(model: nn.Module, graph: fx.Graph, group: Sequence[fx.Node], room: float) -> None:
    """Has the nodes of a group hand each other blocked tensors, in place.

    Args:
        room: what `enter` is given.
    """
    # Read off the graph as it is now: another stretch may have been rewritten before.
    roles: dict[fx.Node, Role] = {}
    for node in [each for each in graph.nodes if each in set(group)]:
        role = role_of(model, node)
        assert role is not None
        roles[node] = role
    halos = _halos(model, roles)
    # What tells how many images a blocked tensor has.
    like: dict[fx.Node, fx.Node] = {}
    entered: dict[fx.Node, fx.Node] = {}
    for node, role in roles.items():
        for given in role.operands:
            if hands_on(roles, given):
                continue
            if given not in entered:
                with graph.inserting_before(node):
                    entered[given] = _call(graph, enter, (given, halos[given], room))
                halos[entered[given]] = halos[given]
            node.replace_input_with(given, entered[given])
        first = role.operands[0]
        like[node] = like.get(first, first)
    for node, role in roles.items():
        if role.gives_blocked and (users := [each for each in node.users if each not in roles]):
            with graph.inserting_after(node):
                left = _call(graph, leave, (node, halos[node], like[node]))
            for user in users:
                user.replace_input_with(node, left)
    for node, role in roles.items():
        _call_blocked(graph, node, role, halos, like[node])


def _call(graph: fx.Graph, function: Any, args: tuple[Any, ...]) -> fx.Node:
    node = graph.call_function(function, args)
    # One node, too, where the graph is traced again: in copies and pickles.
    node.meta["is_wrapped"] = True
    return node


def _call_blocked(
    graph: fx.Graph, node: fx.Node, role: Role, halos: dict[fx.Node, int], like: fx.Node
) -> None:
    """Has a node do its own on blocked tensors, its operands being such already."""
    if role.kind == CONVOLUTION:
        residual = node.kwargs.get("residual")
        added = halos[residual] if isinstance(residual, fx.Node) else 0
        (x,) = node.args
        assert isinstance(x, fx.Node)
        node.kwargs = {**node.kwargs, "halos": (halos[x], halos[node], added)}
        return
    if role.call is None:
        return
    first: Any = node.all_input_nodes[0]
    more: tuple[Any, ...] = (halos[first], halos[node])
    if role.kind == CONCATENATION:
        first, more = node.args[0] if node.args else node.kwargs["tensors"], ()
    elif role.kind == MEAN:
        more = (halos[first], like)
    with graph.inserting_before(node):
        new = _call(graph, role.call, (first, *role.arguments, *more))
    halos[new] = halos[node]
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _halos(model: nn.Module, roles: Mapping[fx.Node, Role]) -> dict[fx.Node, int]:
    """The halo of each tensor: the most that a user wants; the same where they must be alike."""
    groups = Groups()
    wanted: list[tuple[fx.Node, int]] = []
    for node, role in roles.items():
        if role.kind in (ALIKE, CONCATENATION):
            groups.join([node, *role.operands])
        if role.kind == CONVOLUTION:
            layer = model.get_submodule(str(node.target))
            assert isinstance(layer, SparseConv2d)
            wanted.append((role.operands[0], max(layer._inner)))
    most: dict[fx.Node, int] = {}
    for node, halo in wanted:
        most[groups.of(node)] = max(halo, most.get(groups.of(node), 0))
    nodes = {each for node, role in roles.items() for each in (node, *role.operands)}
    return {node: most.get(groups.of(node), 0) for node in nodes}
