"""Shrinking: channels that nothing needs are taken out of a model, through its whole graph.

A filter without weights still gives a constant: its bias, moved by BatchNorm and bent by the
activation. The shrunk graph gives what the masked one gives, these constants included. Where that
cannot be had exactly, and where channels cannot be followed, they stay.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sparse_ops.graph.channel_layers import Layer, name_of
from sparse_ops.graph.channels import Analysis, Unanalysed, analyse
from sparse_ops.graph.ir import Graph
from sparse_ops.passes._removal import Removal, contribution, find_removal, places
from sparse_ops.passes._resizing import resize_values_
from sparse_ops.passes._slicing import Kept, empty_, slice_layer_, slice_rows_
from sparse_ops.passes._widths import choose_removed

# The layers that have masks, and of which a constant can take the place.
PRUNED = ("conv2d", "linear")


@dataclass(frozen=True)
class Cut:
    """What shrinking did to one layer.

    Attributes:
        before, shape: of the weight as it was, and of what is left.
        outputs, inputs: the channels that are kept, in order.
        kept: how many outputs are always the same number and had to stay.
        why: why they had to, in words.
        constant: whether no weight is left, so that the layer was replaced by its bias.
    """

    before: tuple[int, ...]
    shape: tuple[int, ...]
    outputs: tuple[int, ...] = field(repr=False)
    inputs: tuple[int, ...] = field(repr=False)
    kept: int
    why: str
    constant: bool


@dataclass(frozen=True, eq=False)
class Shrinking:
    """What shrinking did to a graph.

    Attributes:
        cuts: layer -> what was done to it; of those that changed, or could not.
        masks: those of the shrunk model.
        note: why nothing could be done at all, or None.
        multiple: what widths were rounded up to.
        untouched: layers that were left as they are because the caller wanted that.
    """

    cuts: Mapping[str, Cut] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    note: str | None = None
    multiple: int = 1
    untouched: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether any layer is another now."""
        return any(c.constant or c.shape != c.before for c in self.cuts.values())

    def same_as(self, other: "Shrinking") -> bool:
        """Whether the same channels are kept and the same layers are constants."""
        return {n: (c.outputs, c.inputs, c.constant) for n, c in self.cuts.items()} == {
            n: (c.outputs, c.inputs, c.constant) for n, c in other.cuts.items()
        }


def shrink(
    graph: Graph,
    masks: Mapping[str, Tensor],
    *,
    multiple: int = 1,
    untouched: Iterable[str] = (),
) -> Shrinking:
    """Takes the channels that nothing needs out of a graph, in place; its model stays as it is.

    Args:
        graph: of a masked, plain model in eval mode.
        masks: the model's.
        multiple: what widths that change are rounded up to, with channels of zeros.
        untouched: names of layers whose inputs and outputs all stay.

    Returns:
        What was done. If that is nothing, `note` may say why.
    """
    untouched = tuple(untouched)
    try:
        analysis = analyse(graph)
    except Unanalysed as error:
        return Shrinking(masks=masks, note=f"no channel was removed: {error}")
    removal = find_removal(analysis, _kept_patterns(analysis, untouched))
    out = choose_removed(analysis, removal.removed, multiple)
    new_masks, cuts = dict(masks), {}
    for layer in analysis.layers.values():
        cut, mask = _shrink_layer_(analysis, layer, masks, removal, out)
        for name in layer.names:
            cuts[name] = cut
            new_masks.pop(weight_name(name), None)
            if mask is not None:
                new_masks[weight_name(name)] = mask
    for rows in analysis.rows.values():
        slice_rows_(rows, places_left(analysis, rows.ids, out))
    resize_values_(analysis, out)
    for layer in analysis.layers.values():
        if not bool(layer.weight.any()) and _can_be_empty(layer):
            _empty_(layer)
            for name in layer.names:
                cuts[name] = replace(cuts[name], constant=True)
                new_masks.pop(weight_name(name), None)
    return Shrinking(cuts, new_masks, None, multiple, untouched)


def weight_name(layer: str) -> str:
    """The name of a layer's weight among masks."""
    return f"{layer}.weight" if layer else "weight"


def places_left(analysis: Analysis, ids: tuple[int, ...], out: set[int]) -> tuple[int, ...]:
    """Which of some channels are kept."""
    return tuple(place for place, id_ in enumerate(ids) if analysis.classes.of(id_) not in out)


def _kept_patterns(analysis: Analysis, untouched: tuple[str, ...]) -> dict[int, str]:
    stay: dict[int, str] = {}
    for layer in analysis.layers.values():
        if not set(layer.names).isdisjoint(untouched):
            reason = f"{layer.name} has to stay as it is: for its pattern, or who asks for its size"
            stay |= dict.fromkeys((*layer.outputs, *(layer.inputs or ())), reason)
    return stay


def _shrink_layer_(
    analysis: Analysis,
    layer: Layer,
    masks: Mapping[str, Tensor],
    removal: Removal,
    out: set[int],
) -> tuple[Cut, Tensor | None]:
    """What was done, and the layer's mask; None if it keeps all of its weights."""
    outputs = places_left(analysis, layer.outputs, out)
    inputs = tuple(range(layer.in_channels))
    removed_inputs = torch.zeros(layer.in_channels, dtype=torch.bool)
    if layer.inputs is not None:
        inputs = places_left(analysis, layer.inputs, out)
        removed_inputs = places(analysis, layer.inputs, removal.removed)
    removed_outputs = places(analysis, layer.outputs, removal.removed)
    kept = Kept(outputs, inputs, removed_outputs, removed_inputs)
    dead = _dead(analysis, layer, removal, out)
    before, groups = tuple(layer.weight.shape), layer.groups
    slice_layer_(layer, kept, contribution(analysis, layer, removal))
    why = "; ".join(f"{count} as {reason}" for reason, count in dead.items())
    shape = tuple(layer.weight.shape)
    done = Cut(before, shape, outputs, inputs, sum(dead.values()), why, False)
    return done, _mask(layer, masks, kept, before, groups)


def _mask(
    layer: Layer, masks: Mapping[str, Tensor], kept: Kept, before: tuple[int, ...], groups: int
) -> Tensor | None:
    """The mask of a layer that was sliced; None if all of its weights are kept."""
    names = [weight_name(name) for name in layer.names]
    given = [masks[name] for name in names if name in masks]
    weight = layer.weight.detach()
    if layer.nodes[0].op not in (*PRUNED, "conv1d", "conv_transpose2d"):
        return None
    if given:
        turned = layer.turn(given[0])
        mask = kept.of(turned, groups)
        return given[0] if mask is turned else layer.turn(mask).to(weight.device) | (weight != 0)
    # What was put back is masked; what was not, is not.
    every = torch.ones(before, dtype=torch.bool, device=weight.device)
    mask = layer.turn(kept.of(layer.turn(every), groups)) | (weight != 0)
    return None if bool(mask.all()) else mask


def _dead(analysis: Analysis, layer: Layer, removal: Removal, out: set[int]) -> dict[str, int]:
    """Why -> how many, of the outputs that are constant or unread, and stay."""
    reasons: dict[str, int] = {}
    for place, id_ in enumerate(layer.outputs):
        class_ = analysis.classes.of(id_)
        if class_ in out or (bool(layer.gives[place].isnan()) and class_ not in removal.removed):
            continue
        reason = removal.reasons.get(class_, "widths were made even, with zeros")
        reasons[reason] = reasons.get(reason, 0) + 1
    return reasons


def _can_be_empty(layer: Layer) -> bool:
    """Whether constants can stand for the nodes of a layer without weights."""
    return all(n.op in PRUNED and n.attributes["activation"] is None for n in layer.nodes)


def _empty_(layer: Layer) -> None:
    weight = layer.weight
    none: dict[str, Tensor] = {}
    for node in layer.nodes:
        bias = node.parameters.get("bias")
        if bias is None:
            zeros = nn.Parameter(weight.detach().new_zeros(len(weight)), weight.requires_grad)
            bias = none.setdefault(name_of(node), zeros)
        empty_(node, bias)
