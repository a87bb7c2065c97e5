"""Stretches: parts of a graph in which packed convolutions hand each other blocked tensors.

Blocked tensors (`ops.blocked`) are what the kernels for batches of 16 images and more work on; a
convolution that is given ordinary ones has to turn them around first, and back. In a stretch only
what comes in and what goes out is turned around. As in `fuse`, the model becomes a
torch.fx.GraphModule of the same modules and parameter names; it takes all that it took before, and
blocks what is worth it when it is called.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from sparse_ops.convert import fuse, stretch_calls
from sparse_ops.convert.stretch_groups import Groups, connected, worth_it
from sparse_ops.convert.stretch_nodes import members, names
from sparse_ops.convert.stretch_rewrite import rewrite_
from sparse_ops.graph.trace import rewritten, trace
from sparse_ops.ops.blocked import LANES, ROOM, blocks_of, enter, leave


@dataclass(frozen=True)
class Stretch:
    """A part of a graph that runs on blocked tensors.

    Attributes:
        nodes: what is in it, in order, as `stretch_nodes.names` has it: modules by their names,
            functions as "torch.add (2)".
        room: a batch is blocked if its blocks hold at most this many times its images.
    """

    nodes: tuple[str, ...]
    room: float = ROOM


def find(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[Stretch]:
    """The stretches of a converted model.

    Args:
        model: not changed.
        shapes: node -> the shape of its result for an example, as `fuse.shapes_of` has it; its
            batch will be blocked.
    """
    graph, _ = trace(model, fuse.LEAVES)
    if graph is None:
        return []
    sizes = {node: math.prod(shapes.get(node.name, ())) for node in graph.nodes}
    roles = worth_it(members(model, graph, shapes), sizes)
    called = names(model, graph)
    found = []
    for group in connected(roles, [n for n in roles], through_operands=True):
        batch = shapes[roles[group[0]].operands[0].name][0]
        room = max(ROOM, blocks_of(batch) * LANES / batch)
        found.append(Stretch(tuple(called[node] for node in group), room))
    return found


def blocked(model: nn.Module, stretches: Sequence[Stretch]) -> fx.GraphModule:
    """The model with these stretches; its layers and tensors are those of `model`.

    Raises:
        ValueError: the model has no place for one of them.
    """
    graph, _ = trace(model, fuse.LEAVES)
    free: dict[str, fx.Node] = {}
    if graph is not None:
        roles = members(model, graph, None)
        free = {name: node for node, name in names(model, graph).items() if node in roles}
    groups = []
    for each in stretches:
        nodes = [free.pop(name, None) for name in each.nodes]
        group = [node for node in nodes if node is not None]
        if not group or len(group) < len(nodes):
            raise ValueError(f"the model has no place for {each}")
        groups.append(group)
    assert graph is not None
    for each, group in zip(stretches, groups, strict=True):
        rewrite_(model, graph, group, each.room)
    graph.lint()
    return rewritten(model, graph)


def stretches_of(model: nn.Module) -> list[Stretch]:
    """The stretches that a model was given by `blocked`."""
    if not isinstance(model, fx.GraphModule):
        return []
    called = names(model, model.graph)
    groups = Groups()
    inside: list[fx.Node] = []
    # The nodes that give blocked tensors.
    giving: set[fx.Node] = set()
    rooms: dict[fx.Node, Any] = {}
    for node in model.graph.nodes:
        given = [each for each in node.all_input_nodes if each in giving]
        if node.target is enter:
            giving.add(node)
            rooms[node] = node.args[2]
        elif given and node.target is not leave:
            inside.append(node)
            groups.join([node, *given])
            if node.target is not stretch_calls.mean:
                giving.add(node)
    rooms = {groups.of(node): room for node, room in rooms.items()}
    found: dict[fx.Node, list[str]] = {}
    for node in inside:
        found.setdefault(groups.of(node), []).append(called[node])
    return [Stretch(tuple(nodes), float(rooms[group])) for group, nodes in found.items()]


def unblocked(model: nn.Module) -> nn.Module:
    """A model that does the same as this one, which is changed, without blocking anything."""
    if not isinstance(model, fx.GraphModule) or not stretches_of(model):
        return model
    for node in list(model.graph.nodes):
        if node.op == "call_function" and node.target in (enter, leave):
            node.replace_all_uses_with(node.args[0])
            model.graph.erase_node(node)
        elif "halos" in node.kwargs:
            node.kwargs = {name: v for name, v in node.kwargs.items() if name != "halos"}
    model.recompile()
    return model
