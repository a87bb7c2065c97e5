"""Slicing: layers, BatchNorms and constants get the rows and columns of some channels only."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sparse_ops.graph.channel_layers import Layer, Rows, as_groups, name_of
from sparse_ops.graph.ir import Node
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


@torch.no_grad()
def detached(layer: Layer, outputs: Tensor, inputs: Tensor, merged: Contribution) -> Tensor:
    """The weight such that what is removed is not made, nor read; itself if it is so.

    Args:
        outputs, inputs: bool, one a channel: what is removed.
        merged: what is read by others in its place.
    """
    old = layer.weight.detach()
    gone = outputs.reshape(layer.groups, -1, 1, 1) | inputs.reshape(layer.groups, 1, -1, 1)
    gone = gone.to(old.device)
    if not merged.merged and not bool(((layer.grouped() != 0) & gone).any()):
        return layer.weight
    weight = old.clone(memory_format=torch.contiguous_format)
    parts = as_groups(weight, layer.groups)
    for source, target, ratio in merged.merged:
        group, place = divmod(source, parts.shape[2])
        other_group, other = divmod(target, parts.shape[2])
        assert group == other_group
        total = parts[group, :, other].double() + ratio * parts[group, :, place].double()
        parts[group, :, other] = total.to(weight.dtype)
        parts[group, :, place] = 0
    parts.masked_fill_(gone, 0)
    return weight


@torch.no_grad()
def slice_layer_(
    layer: Layer,
    weight: Tensor,
    added: Tensor,
    removed: Tensor,
    outputs: Sequence[int],
    inputs: Sequence[int],
) -> None:
    """Gives the nodes of a layer the rows and columns of some channels only, and other biases.

    Args:
        weight: of all channels.
        added: (out channels), float64: to the biases.
        removed: (out channels), bool: whose biases are zero.
        outputs, inputs: those that are kept.
    """
    old, groups = layer.weight, layer.groups
    every = is_everything(outputs, len(old))
    if not (every and is_everything(inputs, layer.in_channels)):
        weight = cut(weight.detach(), groups, outputs, inputs)
    weight = old if weight is old else _like(weight, old)
    left = len({o // (len(old) // groups) for o in outputs})
    index = torch.tensor(outputs)

    def biased(bias: Tensor) -> Tensor:
        changed = (bias.detach().double() + added.to(bias.device)).to(bias.dtype)
        changed.masked_fill_(removed.to(bias.device), 0)
        if every and torch.equal(changed, bias.detach()):
            return bias
        return _like(changed[index.to(bias.device)], bias)

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
    """Gives BatchNorms or constants the numbers of some channels only."""
    if is_everything(kept, len(rows.ids)):
        return
    index = torch.tensor(kept)
    change = _each_once(lambda old: _like(old.detach()[index.to(old.device)], old))
    for node in rows.nodes:
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
