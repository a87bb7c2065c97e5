"""Blame: where a model that computes something else goes wrong.

A kernel is blamed only if a step or a layer alone, on what it was given when the model ran, gives
something else than PyTorch does in float64. If none does, all of them are right and it is what the
model was made into that is not: then the first value that differs from the dense model's is named.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.graph import ops
from sparse_ops.graph.capture import Uncaptured, capture
from sparse_ops.graph.evaluate import evaluate
from sparse_ops.graph.ir import Graph, Node
from sparse_ops.graph.running import copied_example, seeded
from sparse_ops.nn import SparseLayer
from sparse_ops.passes.fold_norms import fold_norms
from sparse_ops.passes.fuse import fuse
from sparse_ops.planning.differences import MODEL_ULPS, difference, factor_of
from sparse_ops.planning.masked import watch
from sparse_ops.program.model import Programs, programs_of
from sparse_ops.program.segments import Segment, cut, release_all, run

REPORT = "this is a fault of sparse_ops: please report it, with the model's code and this message"


def where(dense: nn.Module, packed: nn.Module, example: tuple[Any, ...]) -> tuple[str, bool]:
    """Where two models part that should compute the same, in words, and whether a kernel is wrong.

    Args:
        dense: the masked model.
        packed: what it was made into.
        example: inputs for which they give different outputs.
    """
    try:
        with seeded():
            if (wrong := wrong_alone(packed, example)) is not None:
                return wrong, True
            return first_difference(dense, packed, example), False
    except Exception as error:
        # What is wrong may fail in other ways, too; the outputs are known to differ.
        return f"where is not known ({type(error).__name__}: {error})", False


def wrong_alone(packed: nn.Module, example: tuple[Any, ...]) -> str | None:
    """The first step or layer that is wrong on what it is given when the model runs, in words."""
    programs = programs_of(packed)
    if programs is not None and programs.fits(packed, example):
        return _wrong_step(programs, packed, example)
    layers = {name: m for name, m in packed.named_modules() if isinstance(m, SparseLayer)}
    for name, call in watch(packed, layers, example).items():
        layer: Any = layers[name]
        plain = layer.to_dense()
        theirs = plain(call.x)
        words = difference([layer(call.x)], [theirs], [plain.double()(call.x.double())])
        if words is not None:
            kind = f"{type(layer).__name__} on backend {layer.backend}"
            return _alone(name, kind, tuple(call.x.shape), words)
    return None


def _alone(name: str, kind: str, given: Any, words: str) -> str:
    return f"{name}, a {kind}, is wrong alone, on what it was given here, {given}: {words}"


def _wrong_step(programs: Programs, packed: nn.Module, example: Sequence[Any]) -> str | None:
    known, compiled = _program_values(programs, packed, example)
    for node in programs.graph.nodes:
        given = [known.get(id(value)) for value in node.inputs]
        y = known.get(id(node.output))
        if node.name not in compiled or y is None or not all(isinstance(x, Tensor) for x in given):
            continue
        theirs = ops.evaluate(node, packed, given)
        truth = ops.evaluate(node, packed, [x.double() for x in given if x is not None])
        words = difference([y], [theirs], [truth], factor=factor_of(packed))
        if words is not None:
            shapes = ", ".join(str(tuple(x.shape)) for x in given if x is not None)
            return _alone(node.name, f"{node.op} step of a program", shapes, words)
    return None


def _program_values(
    programs: Programs, packed: nn.Module, example: Sequence[Any]
) -> tuple[dict[int, Any], set[str]]:
    """(what each value of a graph is when it runs as programs, the nodes that those run)."""
    own = programs.graph.copy()
    own.output = [node.output for node in own.nodes if node.output.shape is not None]
    route = programs.route_of(example[0].shape[0])
    items = cut(own, route.orders, route.piece)
    given = run(items, own, packed, copied_example(example))
    in_segments = {id(v) for item in items if isinstance(item, Segment) for v in item.outputs}
    release_all(items)
    named = dict(zip((id(value) for value in own.output), given, strict=True))
    known: dict[int, Any] = dict(zip(map(id, programs.graph.inputs), example, strict=True))
    compiled = set()
    for node, twin in zip(programs.graph.nodes, own.nodes, strict=True):
        known[id(node.output)] = named.get(id(twin.output), node.output.plain)
        if id(twin.output) in in_segments:
            compiled.add(node.name)
    return known, compiled


def first_difference(dense: nn.Module, packed: nn.Module, example: tuple[Any, ...]) -> str:
    """The first value of the dense model that is another one in what it was made into, in words."""
    try:
        nodes, ours = _packed_values(packed, example)
        graph = _folded_alike(capture(dense, example), nodes)
    except Uncaptured as error:
        return f"every packed layer alone is right; which value differs first is not known: {error}"
    theirs = _evaluated(graph, example)
    alike = {
        node.name: _alike(ours[node.name], theirs[node.name])
        for node in graph.nodes
        if node.name in theirs and node.name in ours and _does(node) == _does(nodes[node.name])
    }
    # What lies on a way to the outputs on which nothing agrees.
    off: set[str] = set()
    left: list[Node | None] = [value.producer for value in graph.outputs()]
    while left:
        node = left.pop()
        if node is None or node.name in off or alike.get(node.name) is True:
            continue
        off.add(node.name)
        left += [value.producer for value in node.inputs]
    for node in graph.nodes:
        if node.name in off and alike.get(node.name) is False:
            return (
                "every packed layer alone is right; the first value that differs is that of "
                f"{node.name} ({node.op}): {_both(ours[node.name], theirs[node.name])}"
            )
    return "every packed layer alone is right, and so is every value that both models have"


def _does(node: Node) -> tuple[Any, ...]:
    """What a node does beside."""
    return node.op, node.attributes.get("residual"), node.attributes.get("activation")


def _folded_alike(graph: Graph, nodes: Mapping[str, Node]) -> Graph:
    """A dense graph with as much done by the layers as in one with these nodes."""
    after = {node.name: graph.only_user(node.output) for node in graph.nodes}
    kept = {str(graph.named(n).module) for n, user in after.items() if user and user.name in nodes}
    fold_norms(graph, kept)
    fuse(graph)
    return graph


def _evaluated(graph: Graph, example: Sequence[Any]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(node: Node, given: Sequence[Any], y: Any) -> None:
        if isinstance(y, Tensor) and y.is_floating_point():
            found[node.name] = y.clone()

    evaluate(graph, copied_example(example), keep)
    return found


def _packed_values(
    packed: nn.Module, example: tuple[Any, ...]
) -> tuple[dict[str, Node], dict[str, Any]]:
    """The nodes of a packed model, and what each gives."""
    programs = programs_of(packed)
    if programs is not None and programs.fits(packed, example):
        graph = programs.graph
        known, _ = _program_values(programs, packed, example)
        values = {node.name: known[id(node.output)] for node in graph.nodes}
    else:
        graph = capture(packed, example)
        fuse(graph)
        values = dict(_evaluated(graph, example))
    return {node.name: node for node in graph.nodes}, values


def _alike(ours: Any, theirs: Tensor) -> bool | None:
    """Whether two values agree; None if that cannot be told, as where channels were removed."""
    if not isinstance(ours, Tensor) or ours.shape != theirs.shape or not theirs.numel():
        return None
    error = (ours.double() - theirs.double()).abs().nan_to_num(nan=float("inf")).max()
    eps = torch.finfo(theirs.dtype).eps
    return bool(error <= MODEL_ULPS * eps / 2 * theirs.abs().max())


def _both(ours: Tensor, theirs: Tensor) -> str:
    errors = (ours.double() - theirs.double()).abs().nan_to_num(nan=float("inf"))
    place = int(errors.argmax())
    at = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), errors.shape))
    return (
        f"where it is worst, at {at}, it is {float(ours.flatten()[place]):.6g}, and "
        f"{float(theirs.flatten()[place]):.6g} in the dense model"
    )
