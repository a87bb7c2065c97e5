"""Resizing: values, and what nodes say of them, after channels have gone."""

import torch
from torch import Tensor

from sparse_ops.graph.channel_analysis import Sizes
from sparse_ops.graph.channel_classes import Channels
from sparse_ops.graph.channels import Analysis
from sparse_ops.graph.ir import Node

# On nodes that say something else now than the model's code, which only the graph can run.
DIFFERS = "differs"


def resize_values_(analysis: Analysis, out: set[int]) -> None:
    """Gives the values of a graph the sizes that they have without some classes."""
    for node in analysis.graph.nodes:
        if node.op == "slice":
            _pick_again_(analysis, node, out)
    for node in analysis.graph.nodes:
        known, value = analysis.known.get(id(node.output)), node.output
        if isinstance(known, Channels) and value.shape is not None:
            value.shape = _resized(analysis, value.shape, known, out)
        elif isinstance(known, Sizes) and isinstance(value.plain, tuple):
            value.plain = torch.Size(_resized(analysis, value.plain, known.channels, out))


def _resized(
    analysis: Analysis, shape: tuple[int, ...], known: Channels, out: set[int]
) -> tuple[int, ...]:
    if len(shape) <= known.axis or shape[known.axis] != len(known.ids):
        return shape
    count = sum(analysis.classes.of(id_) not in out for id_ in known.ids)
    return (*shape[: known.axis], count, *shape[known.axis + 1 :])


def _pick_again_(analysis: Analysis, node: Node, out: set[int]) -> None:
    """Lets a slice pick what is left of what it picked."""
    known = analysis.channels(node.inputs[0])
    if known is None:
        return
    left: Tensor = torch.tensor([analysis.classes.of(id_) not in out for id_ in known.ids])
    first = node.attributes["first"]
    last = first + node.attributes["count"]
    picked = {"first": int(left[:first].sum()), "count": int(left[first:last].sum())}
    if picked != {name: node.attributes[name] for name in picked}:
        node.attributes |= picked | {DIFFERS: True}
