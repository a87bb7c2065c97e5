"""Tensors that somebody writes to where others see it: blocked copies of them would not follow."""

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from sparse_ops.convert.concat import FUNCTIONS as CONCATENATIONS
from sparse_ops.convert.fuse import changes_in_place
from sparse_ops.nn import SparseLayer

# All give 0 for 0, and change what they are given only where they are told to.
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU, nn.LeakyReLU)
ACTIVATION_FUNCTIONS = (
    torch.relu,
    F.relu,
    F.relu6,
    F.silu,
    F.hardswish,
    F.gelu,
    F.leaky_relu,
)
# What these give has memory of its own, unless they change what they are given.
MODULES = (
    SparseLayer,
    nn.Conv2d,
    nn.Linear,
    nn.modules.batchnorm._BatchNorm,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    *ACTIVATIONS,
)
FUNCTIONS = (
    *CONCATENATIONS,
    torch.add,
    operator.add,
    *ACTIVATION_FUNCTIONS,
    F.max_pool2d,
    torch.max_pool2d,
    F.avg_pool2d,
)


def written_elsewhere(model: nn.Module, graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose tensors may be written to by one user, and be read by another.

    Where there is one user only at each step, writing in place is like giving a new tensor.
    """
    memory: dict[fx.Node, set[fx.Node]] = {}
    for node in graph.nodes:
        own = memory[node] = {node}
        if not _is_new(model, node):
            for given in node.all_input_nodes:
                own |= memory[given]
        for each in own:
            memory[each] = own
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if (changed := _changed(model, node)) is not None and not _alone(model, changed):
            found |= memory[changed]
    return found


def _changed(model: nn.Module, node: fx.Node) -> fx.Node | None:
    """The tensor that a node writes to, or None."""
    target: Any = node.kwargs.get("out")
    if target is None and changes_in_place(model, node):
        target = node.args[0] if node.args else node.kwargs.get("input")
    return target if isinstance(target, fx.Node) else None


def _alone(model: nn.Module, node: fx.Node) -> bool:
    """Whether nothing else uses a tensor, nor what its memory may be of."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if len(one.users) != 1:
            return False
        if not _is_new(model, one):
            waiting += one.all_input_nodes
    return True


def _is_new(model: nn.Module, node: fx.Node) -> bool:
    """Whether what a node gives surely has memory of its own."""
    if changes_in_place(model, node) or "out" in node.kwargs:
        return False
    if node.op == "call_module":
        plain = not node.kwargs.get("into")
        return plain and isinstance(model.get_submodule(str(node.target)), MODULES)
    return node.op == "call_function" and node.target in FUNCTIONS
