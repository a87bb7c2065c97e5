"""Slicing: layers, BatchNorms and constants get the rows and columns of some channels only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparse_ops.graph.channel_analysis import is_attribute
from sparse_ops.graph.channel_layers import Layer, Rows, as_groups, name_of
from sparse_ops.graph.ir import Node
from sparse_ops.graph.ops import SLICED
from sparse_ops.passes._removal import Contribution


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


def is_everything(kept: Sequence[int], count: int) -> bool:
    """Whether all channels are kept, in their order."""
    return list(kept) == list(range(count))


def _like(tensor: Tensor, old: Tensor) -> Tensor:
    """A tensor as the parameter or buffer that the old one was."""
    return nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor


def _each_once(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The change, giving the same tensor again for the same one."""
    done: dict[int, Tensor] = {}

    def once(tensor: Tensor) -> Tensor:
        if id(tensor) not in done:
            done[id(tensor)] = change(tensor)
        return done[id(tensor)]

    return once


@dataclass(frozen=True, eq=False)
class Kept:
    """The channels of a layer that stay, and those of them that are put back with zeros.

    Attributes:
        outputs, inputs: in the order in which they will be.
        removed_outputs, removed_inputs: bool, one for each channel that there was: whether nothing
            needs it.
    """

    outputs: Sequence[int]
    inputs: Sequence[int]
    removed_outputs: Tensor
    removed_inputs: Tensor

    @property
    def are_all(self) -> bool:
        """Whether none goes, and none moves."""
        pairs = (self.outputs, self.removed_outputs), (self.inputs, self.removed_inputs)
        return all(is_everything(kept, len(removed)) for kept, removed in pairs)

    def groups(self, groups: int) -> int:
        """How many of the groups are left."""
        rows = len(self.removed_outputs) // groups
        return len({output // rows for output in self.outputs})

    def of(self, tensor: Tensor, groups: int) -> Tensor:
        """What stays of (O, I / groups, ...), zero where channels are put back.

        It is the tensor itself if that is the same.
        """
        if not self.are_all:
            tensor = cut(tensor.detach(), groups, self.outputs, self.inputs)
        left = self.groups(groups)
        rows = self.removed_outputs[list(self.outputs)].reshape(left, -1, 1, 1)
        columns = self.removed_inputs[list(self.inputs)].reshape(left, 1, -1, 1)
        if not bool(rows.any()) and not bool(columns.any()):
            return tensor
        parts = as_groups(tensor.detach(), left)
        gone = (rows | columns).to(tensor.device)
        if not bool(((parts != 0) & gone).any()):
            return tensor
        return parts.masked_fill(gone, 0).reshape(tensor.shape)


@torch.no_grad()
def _carrying(layer: Layer, merged: Sequence[tuple[int, int, float]]) -> Tensor:
    """The weight, outputs first, with what some inputs contribute in the place of others.

    It is the layer's own if none does and its outputs are first.
    """
    if not merged:
        return layer.turn(layer.weight)
    weight = layer.turned.clone(memory_format=torch.contiguous_format)
    parts = as_groups(weight, layer.groups)
    for source, target, ratio in merged:
        group, place = divmod(source, parts.shape[2])
        other_group, other = divmod(target, parts.shape[2])
        assert group == other_group
        total = parts[group, :, other].double() + ratio * parts[group, :, place].double()
        parts[group, :, other] = total.to(weight.dtype)
        parts[group, :, place] = 0
    return weight


@torch.no_grad()
def slice_layer_(layer: Layer, kept: Kept, more: Contribution | None = None) -> None:
    """Gives the nodes of a layer the rows and columns of some channels only.

    Args:
        more: what the removed inputs still contribute.
    """
    old, groups = layer.weight, layer.groups
    left = kept.groups(groups)
    weight = layer.turn(kept.of(_carrying(layer, more.merged if more else ()), groups))
    same = weight.shape == old.shape and torch.equal(weight, old)
    weight = old if same else _like(weight.contiguous(), old)
    count = len(layer.outputs)
    added = torch.zeros(count, dtype=torch.float64) if more is None else more.added
    index = torch.tensor(kept.outputs)

    def biased(bias: Tensor) -> Tensor:
        changed = (bias.detach().double() + added.to(bias.device)).to(bias.dtype)
        changed.masked_fill_(kept.removed_outputs.to(bias.device), 0)
        changed = changed[index.to(bias.device)]
        return bias if torch.equal(changed, bias.detach()) else _like(changed, bias)

    change = _each_once(biased)
    new: dict[str, Tensor] = {}
    for node in layer.nodes:
        if "bias" in node.parameters:
            node.parameters["bias"] = change(node.parameters["bias"])
        elif bool(added.any()):
            rows = added[index].to(old.device, old.dtype)
            node.parameters["bias"] = new.setdefault(name_of(node), _like(rows, old))
    for node in layer.nodes:
        node.parameters["weight"] = weight
        node.attributes["shape"] = tuple(weight.shape)
        if "groups" in node.attributes:
            node.attributes["groups"] = left


@torch.no_grad()
def slice_rows_(rows: Rows, kept: Sequence[int]) -> None:
    """Gives norms, constants and tensors of the model's own the numbers of some channels only."""
    if is_everything(kept, len(rows.ids)):
        return
    index = torch.tensor(kept)

    def cut_(old: Tensor) -> Tensor:
        return _like(old.detach().index_select(rows.axis, index.to(old.device)), old)

    change = _each_once(cut_)
    for node in rows.nodes:
        if is_attribute(node):
            node.attributes[SLICED] = True
        node.parameters = {name: change(old) for name, old in node.parameters.items()}
        if node.op == "constant":
            node.attributes["shape"] = (len(kept), *node.attributes["shape"][1:])


def empty_(node: Node, bias: Tensor) -> None:
    """Makes a layer without weights a constant: its bias, wherever it gave a number."""
    about = node.attributes
    geometry = None
    if node.op == "conv2d":
        left, right, top, bottom = about["outer"] or (0, 0, 0, 0)
        high, wide = about["padding"]
        kernel = zip(about["dilation"], about["shape"][2:], strict=True)
        reach = [d * (k - 1) + 1 for d, k in kernel]
        padded = top + bottom + 2 * high, left + right + 2 * wide
        geometry = padded, (reach[0], reach[1]), tuple(about["stride"])
    node.op = "constant"
    node.attributes = {
        "shape": about["shape"],
        "geometry": geometry,
        "groups": about.get("groups", 1),
    }
    node.parameters = {"bias": bias}
    node.call = None
