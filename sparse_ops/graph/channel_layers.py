"""Layers and their channels: what has rows and columns for them, and the arithmetic of constants.

What a layer gives on channels that are constant is worked out in float64.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparse_ops.graph.channel_classes import NOT_CONSTANT, Channels, Classes, varying
from sparse_ops.graph.ir import Node
from sparse_ops.ops._activation import function_of


def name_of(node: Node) -> str:
    """What a layer is called: as its module is."""
    return node.name if node.module is None else node.module


def pads_zeros(node: Node) -> bool:
    """Whether a layer puts zeros around its images, which no bias can stand for."""
    if node.op == "linear":
        return False
    if node.op == "conv_transpose2d":
        # Between the pixels and around them: what a constant adds differs from pixel to pixel.
        return True
    about = node.attributes
    padded = any(about.get("padding", ())) or any(about["outer"])
    return about["padding_mode"] == "zeros" and padded


@dataclass(eq=False)
class Rows:
    """The parameters of BatchNorms, or of constants: one number for each channel.

    Attributes:
        nodes: all hold the same ones.
        ids: of their channels.
        axis: which dimension of the parameters the channels are.
    """

    nodes: tuple[Node, ...]
    ids: tuple[int, ...]
    axis: int = 0


@dataclass(eq=False)
class Layer:
    """A weight of convolutions or linear layers, and all the nodes that hold it.

    Attributes:
        nodes: a module that is called twice is two.
        outputs: the ids of what they give.
        inputs: the ids of what they are given; None: of a value whose channels are not known.
        given: (in channels) the constants that they are all given; NaN where they differ.
        gives: the same of what they give.
        calls: how many of the nodes have been seen.
        kernels: (groups, outputs a group, inputs a group), bool, on the CPU: those that are not
            zero altogether, as they were when the layer was found.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    inputs: tuple[int, ...] | None = None
    given: Tensor = field(default_factory=lambda: varying(0))
    gives: Tensor = field(default_factory=lambda: varying(0))
    calls: int = 0
    kernels: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.kernels = (self.grouped() != 0).any(3).cpu()

    @property
    def name(self) -> str:
        return name_of(self.nodes[0])

    @property
    def names(self) -> tuple[str, ...]:
        """Of all modules that hold the weight, each once."""
        return tuple(dict.fromkeys(name_of(node) for node in self.nodes))

    @property
    def weight(self) -> Tensor:
        return self.nodes[0].parameters["weight"]

    @property
    def is_transposed(self) -> bool:
        """Whether the weight has its inputs first."""
        return self.nodes[0].op == "conv_transpose2d" and self.groups == 1

    @property
    def turned(self) -> Tensor:
        """The weight as (out channels, in channels / groups, ...), without gradients."""
        return self.turn(self.weight.detach())

    def turn(self, weight: Tensor) -> Tensor:
        """A weight with its outputs first; or, of such a one, as the layer holds it."""
        return weight.transpose(0, 1) if self.is_transposed else weight

    @property
    def groups(self) -> int:
        return int(self.nodes[0].attributes.get("groups", 1))

    @property
    def in_channels(self) -> int:
        return int(self.turned.shape[1]) * self.groups

    @property
    def pads(self) -> bool:
        return any(pads_zeros(node) for node in self.nodes)

    @property
    def is_depthwise(self) -> bool:
        """Whether each output reads the one input of its own."""
        return self.groups == len(self.weight) and self.turned.shape[1] == 1

    def grouped(self) -> Tensor:
        """The weight as (groups, outputs a group, inputs a group, taps)."""
        return as_groups(self.turned, self.groups)

    def call(self, classes: Classes, node: Node, x: Channels | None, axis: int) -> Channels:
        """What `node` gives for x; remembers what it was given."""
        constant = varying(self.in_channels) if x is None else x.constant
        result = self._result(node, constant)
        if self.calls == 0:
            self.inputs = None if x is None else x.ids
            self.given, self.gives = constant, result
        else:
            self._meet(classes, x)
            self.given = torch.where(self.given == constant, constant, NOT_CONSTANT)
            self.gives = torch.where(self.gives == result, result, NOT_CONSTANT)
        self.calls += 1
        return Channels(self.outputs, varying(0), axis).with_constant(result)

    def refuse(self, classes: Classes, x: Channels | None, reason: str) -> None:
        """Says that a node is given its input in a way that nothing can be removed for."""
        for ids in (self.outputs, self.inputs, None if x is None else x.ids):
            if ids is not None:
                classes.keep(ids, reason)
        self.inputs, self.calls = None, self.calls + 1
        self.given, self.gives = varying(self.in_channels), varying(len(self.outputs))

    def _meet(self, classes: Classes, x: Channels | None) -> None:
        if x is not None and self.inputs is not None:
            classes.join(self.inputs, x.ids)
            return
        known = self.inputs if x is None else x.ids
        if known is not None:
            classes.keep(known, f"{self.name} is also given something whose channels are not known")
        self.inputs = None

    def _result(self, node: Node, constant: Tensor) -> Tensor:
        """(out channels) the constants that a node gives for (in channels) constants."""
        weight = self.grouped()
        given = constant.reshape(self.groups, 1, -1)
        bad = given.isnan() | ((given != 0) & pads_zeros(node))
        known = given.masked_fill(bad, 0)
        total = contributed(weight, known.to(weight.device)).cpu()
        total = total.masked_fill((self.kernels & bad).any(2), NOT_CONSTANT).flatten()
        if "bias" in node.parameters:
            total = total + node.parameters["bias"].detach().double().cpu()
        return activated(node, total)


def as_groups(weight: Tensor, groups: int) -> Tensor:
    """(O, I / groups, ...) as (groups, outputs a group, inputs a group, taps)."""
    return weight.reshape(groups, -1, weight.shape[1], weight[0, 0].numel())


def activated(node: Node, constant: Tensor) -> Tensor:
    """Constants after the activation that a node ends with."""
    activation = function_of(node.attributes["activation"])
    return torch.where(constant.isnan(), constant, activation(constant))


def contributed(weight: Tensor, given: Tensor) -> Tensor:
    """(groups, outputs) in float64: what inputs of these constants (groups, 1, inputs) add up to.

    Weights (groups, outputs, inputs, taps) are widened only where a constant is not zero.
    """
    some = (given != 0).any(0).flatten()
    sums = weight[:, :, some].sum(3, dtype=torch.float64)
    return (sums @ given[..., some].double().mT).squeeze(2)
