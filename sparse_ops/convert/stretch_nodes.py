"""The nodes of a graph that can take blocked tensors (`ops.blocked`), and their names."""

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sparse_ops.convert import stretch_calls
from sparse_ops.convert.concat import CHANNELS
from sparse_ops.convert.concat import FUNCTIONS as CONCATENATIONS
from sparse_ops.convert.flow import hooked
from sparse_ops.convert.fuse import ADDITIONS
from sparse_ops.convert.stretch_pools import POOLS, mean_of, of_function, of_module
from sparse_ops.convert.stretch_writes import (
    ACTIVATION_FUNCTIONS,
    ACTIVATIONS,
    written_elsewhere,
)
from sparse_ops.nn._conv import SparseConv2d
from sparse_ops.nn._folded import Folded

CONVOLUTION, ALIKE, CONCATENATION = "convolution", "alike", "concatenation"
POOL, MEAN = "pool", "mean"
# Of smaller batches most of a block would be empty.
FEWEST_IMAGES = 8
# All give 0 for 0, so that halos stay zero.
ELEMENTWISE = (*ACTIVATIONS, nn.Identity, nn.Dropout)
FUNCTIONS = (*ACTIVATION_FUNCTIONS, torch.relu_, F.relu_, F.dropout)
METHODS = ("relu", "relu_")
MEANS = (torch.mean, "mean")


@dataclass(frozen=True, eq=False)
class Role:
    """What a node does with blocked tensors.

    Attributes:
        kind: which of the words above.
        operands: the tensors that it wants blocked.
        call: what is called instead of it, or None if the same is.
        arguments: what that is given after the tensor and before the halos.
    """

    kind: str
    operands: tuple[fx.Node, ...]
    call: Callable[..., Tensor] | None = None
    arguments: tuple[Any, ...] = ()

    @property
    def gives_blocked(self) -> bool:
        return self.kind != MEAN


def members(
    model: nn.Module, graph: fx.Graph, shapes: Mapping[str, tuple[int, ...]] | None
) -> dict[fx.Node, Role]:
    """The nodes that may be in a stretch, in order.

    Args:
        shapes: node -> the shape of its result, as `fuse.shapes_of` has it; None: whatever is asked
            of shapes is taken for granted.
    """
    elsewhere = written_elsewhere(model, graph)
    found = {}
    for node in graph.nodes:
        role = role_of(model, node)
        if role is None or elsewhere.intersection((node, *role.operands)):
            continue
        if shapes is None or _fits(role, node, shapes):
            found[node] = role
    return found


def role_of(model: nn.Module, node: fx.Node) -> Role | None:
    """What a node does with blocked tensors, or None if it cannot take any."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        x = node.args[0] if len(node.args) == 1 else None
        if hooked(module) or not isinstance(x, fx.Node):
            return None
        if isinstance(module, SparseConv2d):
            return _convolution(node, module)
        if node.kwargs:
            return None
        if type(module) in POOLS:
            call = of_module(module)
            return None if call is None else Role(POOL, (x,), *call)
        return Role(ALIKE, (x,)) if _elementwise(module) else None
    if node.op == "call_method":
        if node.target in MEANS:
            return _mean(node)
        return _function(node) if node.target in METHODS else None
    if node.op != "call_function":
        return None
    if node.target in ADDITIONS:
        plain = len(node.args) == 2 and not node.kwargs
        return Role(ALIKE, tuple(node.args)) if plain and _all_nodes(node.args) else None  # type: ignore[arg-type]
    if node.target in CONCATENATIONS:
        return _concatenation(node)
    if node.target in MEANS:
        return _mean(node)
    if node.target in POOLS:
        return _pool(node)
    return _function(node) if node.target in FUNCTIONS else None


def names(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, str]:
    """A name for each node that does something, the same before and after it takes blocked tensors.

    That of its module, or "torch." and its function; the second of a name has " (2)" after it.
    """
    seen: Counter[str] = Counter()
    found = {}
    for node in graph.nodes:
        if not node.op.startswith("call_"):
            continue
        name = _name(model, node)
        seen[name] += 1
        found[node] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return found


def _name(model: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        kind = type(model.get_submodule(str(node.target)))
        return f"torch.{POOLS[kind]}" if kind in POOLS else str(node.target)
    if node.op == "call_method":
        return f"torch.{node.target}"
    if node.target in POOLS:
        return f"torch.{POOLS[node.target]}"
    # A graph that is traced again has the one for the other.
    function = operator.add if node.target is operator.iadd else node.target
    return f"torch.{getattr(function, '__name__', function)}"


def _all_nodes(given: Any) -> bool:
    return bool(given) and all(isinstance(each, fx.Node) for each in given)


def _convolution(node: fx.Node, layer: SparseConv2d) -> Role | None:
    if node.kwargs.keys() - {"residual"} or layer.refuses_blocked() is not None:
        return None
    residual = node.kwargs.get("residual")
    operands = (*node.args, *([] if residual is None else [residual]))
    return Role(CONVOLUTION, operands) if _all_nodes(operands) else None  # type: ignore[arg-type]


def _elementwise(module: nn.Module) -> bool:
    if type(module) is Folded:
        return module.act is None or (type(module.act) in ELEMENTWISE and not hooked(module.act))
    return type(module) in ELEMENTWISE and not (type(module) is nn.Dropout and module.training)


def _function(node: fx.Node) -> Role | None:
    if not node.args or not isinstance(node.args[0], fx.Node) or not _constant(node):
        return None
    drops = node.target is F.dropout and node.kwargs.get("training", True) is not False
    return None if drops else Role(ALIKE, (node.args[0],))


def _constant(node: fx.Node) -> bool:
    """Whether all that a function is given beside its tensor is written in the graph."""
    return len(node.all_input_nodes) == 1


def _concatenation(node: fx.Node) -> Role | None:
    given = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
    parts = given.pop("tensors", None)
    dim = given.pop("dim", given.pop("axis", 0))
    if given or dim not in CHANNELS or not isinstance(parts, list | tuple) or not _all_nodes(parts):
        return None
    return Role(CONCATENATION, tuple(parts), stretch_calls.cat, (dim,))


def _pool(node: fx.Node) -> Role | None:
    if (found := of_function(node)) is None:
        return None
    x, call = found
    return Role(POOL, (x,), *call)


def _mean(node: fx.Node) -> Role | None:
    if (found := mean_of(node)) is None:
        return None
    x, keepdim = found
    return Role(MEAN, (x,), stretch_calls.mean, (keepdim,))


def _fits(role: Role, node: fx.Node, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    own, given = shapes.get(node.name, ()), [shapes.get(each.name, ()) for each in role.operands]
    if any(len(shape) != 4 or shape[0] < FEWEST_IMAGES for shape in given):
        return False
    if role.kind == CONVOLUTION:
        return all(shape == own for shape in given[1:])
    if role.kind == ALIKE:
        return all(shape == own for shape in given)
    if role.call is stretch_calls.adaptive_avg_pool2d:
        (size,) = role.arguments
        return all(have % want == 0 for have, want in zip(given[0][2:], size, strict=True))
    return True
