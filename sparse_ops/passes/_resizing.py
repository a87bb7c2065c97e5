"""Resizing: values, and what nodes say of them, after channels have gone."""

import torch
from torch import Tensor

from sparse_ops.graph.channel_analysis import Count, Sizes
from sparse_ops.graph.channel_classes import Channels
from sparse_ops.graph.channels import Analysis
from sparse_ops.graph.ir import Node


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
        elif isinstance(known, Count):
            value.plain = _count(analysis, known.channels, out)
        if "channels" in node.attributes and isinstance(known, Channels):
            _narrow_norm_(node, _count(analysis, known, out))


def _count(analysis: Analysis, known: Channels, out: set[int]) -> int:
    return sum(analysis.classes.of(id_) not in out for id_ in known.ids)


def _narrow_norm_(node: Node, count: int) -> None:
    """Tells a norm how many channels it has; its groups go as a whole."""
    about = node.attributes
    if "groups" in about:
        about["groups"] = about["groups"] * count // about["channels"]
    about["channels"] = count


def _resized(
    analysis: Analysis, shape: tuple[int, ...], known: Channels, out: set[int]
) -> tuple[int, ...]:
    if len(shape) <= known.axis or shape[known.axis] != len(known.ids):
        return shape
    count = _count(analysis, known, out)
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
    node.attributes |= picked
