"""Units: the parameters that a channel has rows and columns in, and the arithmetic of constants.

A unit is one weight and all the layers that hold it. What a layer gives on channels that are
constant is worked out in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.convert.channels import NOT_CONSTANT, Classes, Value, varying

Norm = nn.BatchNorm1d | nn.BatchNorm2d


def is_depthwise(unit: "Unit") -> bool:
    """Whether each output reads the one input of its own."""
    return unit.groups == len(unit.weight) and unit.weight.shape[1] == 1


def pads_zeros(layer: nn.Module) -> bool:
    """Whether a layer puts zeros around its images, which no bias can stand for."""
    if not isinstance(layer, nn.Conv2d) or layer.padding_mode != "zeros":
        return False
    return any(layer._reversed_padding_repeated_twice)


@dataclass(eq=False)
class Unit:
    """A weight of Conv2d or Linear layers.

    Attributes:
        layers: name -> layer; all hold the same weight.
        outputs: the ids of what they give.
        inputs: the ids of what they are given; None: of a tensor whose channels are not known.
        given: (in channels) the constants that they are all given; NaN where they differ.
        gives: the same of what they give.
    """

    layers: dict[str, Any]
    outputs: tuple[int, ...]
    inputs: tuple[int, ...] | None = None
    given: Tensor = field(default_factory=lambda: varying(0))
    gives: Tensor = field(default_factory=lambda: varying(0))
    calls: int = 0

    @property
    def name(self) -> str:
        return next(iter(self.layers))

    @property
    def layer(self) -> Any:
        return next(iter(self.layers.values()))

    @property
    def weight(self) -> Tensor:
        return self.layer.weight

    @property
    def groups(self) -> int:
        return int(getattr(self.layer, "groups", 1))

    @property
    def pads(self) -> bool:
        return any(pads_zeros(layer) for layer in self.layers.values())

    def grouped(self) -> Tensor:
        """The weight as (groups, outputs a group, inputs a group, taps), the same memory."""
        return self.weight.detach().reshape(
            self.groups, -1, self.weight.shape[1], self.weight[0, 0].numel()
        )

    def call(self, classes: Classes, layer: Any, x: Value | None, axis: int) -> Value:
        """What `layer` gives for x; remembers what it was given."""
        channels = self.weight.shape[1] * self.groups
        constant = varying(channels) if x is None else x.constant
        result = self.result(layer, constant)
        if self.calls == 0:
            self.inputs = None if x is None else x.ids
            self.given, self.gives = constant, result
        else:
            self._meet(classes, x)
            self.given = torch.where(self.given == constant, constant, NOT_CONSTANT)
            self.gives = torch.where(self.gives == result, result, NOT_CONSTANT)
        self.calls += 1
        return Value(self.outputs, result, axis)

    def refuse(self, classes: Classes, x: Value | None, reason: str) -> None:
        """Says that a layer of the unit is called in a way that nothing can be removed for."""
        for ids in (self.outputs, self.inputs, None if x is None else x.ids):
            if ids is not None:
                classes.keep(ids, reason)
        self.inputs, self.calls = None, self.calls + 1
        self.given = varying(self.weight.shape[1] * self.groups)
        self.gives = varying(len(self.outputs))

    def _meet(self, classes: Classes, x: Value | None) -> None:
        if x is not None and self.inputs is not None:
            classes.join(self.inputs, x.ids)
            return
        known = self.inputs if x is None else x.ids
        if known is not None:
            classes.keep(known, f"{self.name} is also given something whose channels are not known")
        self.inputs = None

    def result(self, layer: Any, constant: Tensor) -> Tensor:
        """(out channels) the constants that a layer gives for (in channels) constants."""
        weight = self.grouped()
        given = constant.reshape(self.groups, 1, -1)
        read = (weight != 0).any(3)
        bad = given.isnan() | ((given != 0) & pads_zeros(layer))
        known = given.masked_fill(bad, 0)
        total = contributed(weight, known.to(weight.device))
        total = total.masked_fill((read & bad.to(weight.device)).any(2), NOT_CONSTANT).flatten()
        if layer.bias is not None:
            total = total + layer.bias.detach().double()
        return total.cpu()

    def biases(self) -> list[nn.Parameter | None]:
        """The different biases of the layers; None for each layer without."""
        found: list[nn.Parameter | None] = []
        for layer in self.layers.values():
            bias = layer.bias
            if bias is None or all(bias is not other for other in found):
                found.append(bias)
        return found


def contributed(weight: Tensor, given: Tensor) -> Tensor:
    """(groups, outputs) in float64: what inputs of these constants (groups, 1, inputs) add up to.

    Weights (groups, outputs, inputs, taps) are widened only where a constant is not zero.
    """
    some = (given != 0).any(0).flatten()
    sums = weight[:, :, some].sum(3, dtype=torch.float64)
    return (sums @ given[..., some].double().mT).squeeze(2)


@torch.no_grad()
def fold_(unit: Unit, constant: Tensor) -> None:
    """Adds to the biases what (in channels) constants, 0 elsewhere, contribute to each output."""
    weight = unit.grouped()
    given = constant.reshape(unit.groups, 1, -1).to(weight.device)
    total = contributed(weight, given).flatten()
    if not bool(total.any()):
        return
    done: list[Tensor] = []
    for layer in unit.layers.values():
        if layer.bias is None:
            bias = nn.Parameter(total.to(weight.dtype), unit.weight.requires_grad)
            layer.bias = bias
            done.append(bias)
        elif all(layer.bias is not other for other in done):
            layer.bias.copy_(layer.bias.double() + total)
            done.append(layer.bias)


@torch.no_grad()
def merge_(unit: Unit, source: int, target: int, ratio: float) -> None:
    """Lets input channel `target` carry what `source`, `ratio` times as large, contributes."""
    weight = unit.grouped()
    group, place = divmod(source, weight.shape[2])
    other_group, other = divmod(target, weight.shape[2])
    assert group == other_group
    sum_ = weight[group, :, other].double() + ratio * weight[group, :, place].double()
    weight[group, :, other] = sum_.to(weight.dtype)
    weight[group, :, place] = 0


@torch.no_grad()
def clear_(unit: Unit, outputs: Tensor, inputs: Tensor) -> None:
    """Sets what makes some outputs, and what reads some inputs, to zero; bool, one a channel."""
    weight = unit.grouped()
    rows = outputs.reshape(unit.groups, -1, 1, 1)
    columns = inputs.reshape(unit.groups, 1, -1, 1)
    weight.masked_fill_((rows | columns).to(weight.device), 0)
    for bias in unit.biases():
        if bias is not None:
            bias.masked_fill_(outputs.to(bias.device), 0)


def _sliced(tensor: Tensor | None, kept: Sequence[int]) -> Any:
    """Some entries of a parameter or buffer, as what it was."""
    if tensor is None:
        return None
    rows = tensor.detach()[torch.tensor(kept, device=tensor.device)].clone()
    return nn.Parameter(rows, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else rows


def cut(tensor: Tensor, groups: int, outputs: Sequence[int], inputs: Sequence[int]) -> Tensor:
    """The rows and columns of (O, I / groups, ...) for some outputs and inputs, even by group.

    They come out in the order that is given, within their groups; depthwise, groups do, too.
    """
    rows, columns = len(tensor) // groups, tensor.shape[1]
    if rows == columns == 1:
        return tensor[list(outputs)]
    parts = []
    for group in range(groups):
        out = [o for o in outputs if o // rows == group]
        read = [i - group * columns for i in inputs if i // columns == group]
        if out:
            parts.append(tensor[out][:, read])
    return torch.cat(parts)


@torch.no_grad()
def shrink_unit_(unit: Unit, outputs: Sequence[int], inputs: Sequence[int]) -> None:
    """Removes all outputs and inputs but these from every layer of the unit."""
    old = unit.weight
    groups = unit.groups
    if list(outputs) == [*range(len(old))] and list(inputs) == [*range(old.shape[1] * groups)]:
        return
    left = len({o // (len(old) // groups) for o in outputs})
    weight = nn.Parameter(cut(old.detach(), groups, outputs, inputs), old.requires_grad)
    biases: dict[int, Any] = {}
    for layer in unit.layers.values():
        layer.weight = weight
        if layer.bias is not None:
            key = id(layer.bias)
            biases.setdefault(key, (layer.bias, _sliced(layer.bias, outputs)))
            layer.bias = biases[key][1]
        if isinstance(layer, nn.Conv2d):
            layer.out_channels, layer.in_channels = len(outputs), len(inputs)
            layer.groups = left
        else:
            layer.out_features, layer.in_features = len(outputs), len(inputs)


@torch.no_grad()
def shrink_norm_(norm: Any, kept: Sequence[int]) -> None:
    """Removes all channels but these from a BatchNorm."""
    for name in ("weight", "bias"):
        setattr(norm, name, _sliced(getattr(norm, name), kept))
    for name in ("running_mean", "running_var"):
        setattr(norm, name, _sliced(getattr(norm, name), kept))
    norm.num_features = len(kept)
