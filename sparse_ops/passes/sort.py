"""Sorting: channels that are treated alike are put side by side, through a model's whole graph.

The filters of a periodic mask come in classes, o mod period, and so do the channels that they read.
A GPU's kernel that finds a class side by side in memory reads 8 or more channels at once and is
told of one index instead of all. Nothing has to be moved for that when the model runs: sorted are
the weights, rows and columns, of everything that makes or reads a channel. What a model is given
and gives keeps its order.

A layer of the sorted model adds up the same products in another order; nothing else changes.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_ops.graph.channel_classes import Channels
from sparse_ops.graph.channel_layers import Layer, as_groups
from sparse_ops.graph.channels import Analysis, Unanalysed, analyse
from sparse_ops.graph.ir import Graph
from sparse_ops.passes._slicing import Kept, slice_layer_, slice_rows_
from sparse_ops.passes.shrink import weight_name

# 8 channels in half precision are 16 bytes, the most that a GPU's thread reads at once: classes
# that have fewer on average are not worth it.
LEAST_ALIKE = 8


@dataclass(frozen=True, eq=False)
class Alike:
    """The channels of one kind among some, and the bits of the mask that make them so.

    Attributes:
        labels: (channels): which class each is in, counted in the order of first appearance.
        bits: (classes, ...), bool: what a channel of each class is masked with.
        weight: how many weights say so.
    """

    labels: tuple[int, ...]
    bits: Tensor
    weight: int


@dataclass(frozen=True, eq=False)
class Side:
    """The outputs or the inputs of a masked layer.

    Attributes:
        places: class -> where it is among them, first.
        bits: (groups, channels a group, ...), bool: what of the mask belongs to each; a view.
        weight: how many weights are kept.
    """

    places: Mapping[int, int]
    bits: Tensor
    weight: int


def sort(graph: Graph, masks: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Sorts the channels of a graph, in place; its model stays as it is.

    Args:
        graph: of a masked, plain model in eval mode.
        masks: the model's.

    Returns:
        The new masks; None if no channel was moved.
    """
    try:
        analysis = analyse(graph)
    except Unanalysed:
        return None
    _tie_depthwise(analysis)
    sides = [side for layer in analysis.layers.values() for side in _sides(analysis, layer, masks)]
    moved: dict[int, int] = {}
    for cell in _cells(analysis):
        best = _chosen(cell, sides)
        if best is not None:
            moved |= dict(zip(cell, _arranged(cell, best), strict=True))
    if all(class_ == other for class_, other in moved.items()):
        return None
    # All of it first: nothing has changed yet if a channel is where it was not thought to be.
    layers = [
        (layer, _order(analysis, layer.outputs, moved), _inputs_order(analysis, layer, moved))
        for layer in analysis.layers.values()
    ]
    all_rows = [(rows, _order(analysis, rows.ids, moved)) for rows in analysis.rows.values()]
    new_masks = dict(masks)
    for layer, outputs, inputs in layers:
        if (outputs, inputs) == (sorted(outputs), sorted(inputs)):
            continue
        kept = Kept(
            outputs, inputs, torch.zeros(len(outputs)).bool(), torch.zeros(len(inputs)).bool()
        )
        for name in _weights(layer, masks):
            new_masks[name] = layer.turn(kept.of(layer.turn(masks[name]), layer.groups))
        slice_layer_(layer, kept)
    for rows, order in all_rows:
        slice_rows_(rows, order)
    return new_masks


def _tie_depthwise(analysis: Analysis) -> None:
    """Says that what reads one channel each can only move with that channel."""
    for layer in analysis.layers.values():
        if not layer.is_depthwise:
            continue
        if layer.inputs is None:
            analysis.classes.keep(layer.outputs, f"what {layer.name} reads is not known")
        else:
            analysis.classes.join(layer.outputs, layer.inputs)


def _cells(analysis: Analysis) -> list[list[int]]:
    """Classes of channels that may change places with each other, each list in their order.

    Those that are in the same values, the same groups of the same layers, and the same other
    parameters, each as often, and that need not stay where they are.
    """
    of = analysis.classes.of
    where: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    for number, layer in enumerate(analysis.layers.values()):
        for side, ids in (("out", layer.outputs), ("in", layer.inputs or ())):
            size = max(1, len(ids) // (1 if layer.is_depthwise else layer.groups))
            for place, id_ in enumerate(ids):
                where[of(id_)].append((side, number, place // size))
    values = [k.ids for k in analysis.known.values() if isinstance(k, Channels)]
    for kind, tensors in (
        ("rows", [rows.ids for rows in analysis.rows.values()]),
        ("value", list(dict.fromkeys(values))),
    ):
        for number, ids in enumerate(tensors):
            for id_ in ids:
                where[of(id_)].append((kind, number, 0))
    cells: dict[tuple[tuple[str, int, int], ...], list[int]] = defaultdict(list)
    for class_, found in where.items():
        if analysis.classes.stays(class_) is None:
            cells[tuple(found)].append(class_)
    return list(cells.values())


def _weights(layer: Layer, masks: Mapping[str, Tensor]) -> list[str]:
    return [name for name in map(weight_name, layer.names) if name in masks]


def _sides(analysis: Analysis, layer: Layer, masks: Mapping[str, Tensor]) -> list[Side]:
    names = _weights(layer, masks)
    if not names:
        return []
    mask = masks[names[0]].cpu()
    parts = as_groups(layer.turn(mask), layer.groups)
    weight, of = int(mask.sum()), analysis.classes.of
    both = (layer.outputs, parts), (layer.inputs or (), parts.transpose(1, 2))
    return [
        Side({of(i): place for place, i in reversed([*enumerate(ids)])}, bits, weight)
        for ids, bits in both
    ]


def _chosen(cell: list[int], sides: list[Side]) -> Alike | None:
    """How most weights of the layers around would have the channels of a cell arranged."""
    votes: dict[tuple[int, ...], list[Alike]] = defaultdict(list)
    for side in sides:
        if (found := _alike(cell, side)) is not None:
            votes[found.labels].append(found)
    if not votes:
        return None
    best = max(votes.values(), key=lambda same: sum(one.weight for one in same))
    return max(best, key=lambda one: one.weight)


def _alike(cell: list[int], side: Side) -> Alike | None:
    """What a side says of a cell; None if that is nothing: all, or too few, are alike."""
    if not all(class_ in side.places for class_ in cell):
        return None
    places = [side.places[class_] for class_ in cell]
    size = side.bits.shape[1]
    own = side.bits[[p // size for p in places], [p % size for p in places]].flatten(1)
    first: dict[bytes, int] = {}
    labels = tuple(first.setdefault(row.numpy().tobytes(), len(first)) for row in own)
    if len(first) < 2 or len(first) * LEAST_ALIKE > len(cell):
        return None
    return Alike(labels, own[[labels.index(label) for label in range(len(first))]], side.weight)


def _arranged(cell: Sequence[int], alike: Alike) -> list[int]:
    """The classes of a cell, kind by kind, each kind beside the one that is most like it."""
    bits = alike.bits.float()
    common = bits @ bits.T
    chain = [0]
    while len(chain) < len(bits):
        left = [label for label in range(len(bits)) if label not in chain]
        chain.append(max(left, key=lambda label: float(common[chain[-1], label])))
    rank = {label: place for place, label in enumerate(chain)}
    order = sorted(range(len(cell)), key=lambda place: rank[alike.labels[place]])
    return [cell[place] for place in order]


def _order(analysis: Analysis, ids: tuple[int, ...], moved: Mapping[int, int]) -> list[int]:
    """Which place of a tensor's channels each is taken from.

    A class that a tensor has several times, as flattened ones do, is taken in its own order.
    """
    classes = [analysis.classes.of(id_) for id_ in ids]
    places: dict[int, list[int]] = defaultdict(list)
    for place, class_ in enumerate(classes):
        places[class_].append(place)
    left = {class_: iter(own) for class_, own in places.items()}
    return [next(left[moved.get(class_, class_)]) for class_ in classes]


def _inputs_order(analysis: Analysis, layer: Layer, moved: Mapping[int, int]) -> list[int]:
    if layer.inputs is None:
        return list(range(layer.in_channels))
    return _order(analysis, layer.inputs, moved)
