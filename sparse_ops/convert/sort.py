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
from typing import Any

from torch import Tensor, nn

from sparse_ops.convert.flow import Flow
from sparse_ops.convert.followed import followed
from sparse_ops.convert.prepare import copied
from sparse_ops.convert.units import Unit, cut, is_depthwise, shrink_norm_, shrink_unit_
from sparse_ops.convert.verify import check_model

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


def sorted_copy(
    masked: nn.Module, example: tuple[Any, ...], masks: Mapping[str, Tensor]
) -> tuple[nn.Module, dict[str, Tensor]] | None:
    """A copy of a masked model with sorted channels, and its masks; None if there is no use.

    Raises:
        Mismatch: the copy computes something else.
    """
    model = copied(masked)
    sorted_masks = sort_(model, example, masks)
    if sorted_masks is None:
        return None
    check_model(masked, model, example)
    return model, sorted_masks


def sort_(
    model: nn.Module, example: tuple[Any, ...], masks: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Sorts the channels of a model, in place; the new masks, or None if none was moved.

    Args:
        model: masked, plain, in eval mode.
        example: its input.
        masks: the model's.
    """
    known = followed(model, example)
    if isinstance(known, str):
        return None
    flow = known.flow
    _tie_depthwise(flow)
    sides = [side for unit in flow.units.values() for side in _sides(flow, unit, masks)]
    moved: dict[int, int] = {}
    for cell in _cells(flow):
        best = _decided(cell, sides)
        if best is not None:
            moved |= dict(zip(cell, _arranged(cell, best), strict=True))
    if all(class_ == other for class_, other in moved.items()):
        return None
    # All of it first: nothing has changed yet if a channel is where it was not thought to be.
    units = [
        (unit, _order(flow, unit.outputs, moved), _inputs_order(flow, unit, moved))
        for unit in flow.units.values()
    ]
    norms = [(norm, _order(flow, ids, moved)) for norm, ids in flow.norms.values()]
    new_masks = dict(masks)
    for unit, outputs, inputs in units:
        for name in _weights(unit, masks):
            new_masks[name] = cut(masks[name], unit.groups, outputs, inputs)
        shrink_unit_(unit, outputs, inputs)
    for norm, order in norms:
        shrink_norm_(norm, order)
    return new_masks


def _tie_depthwise(flow: Flow) -> None:
    """Says that what reads one channel each can only move with that channel."""
    for unit in flow.units.values():
        if not is_depthwise(unit):
            continue
        if unit.inputs is None:
            flow.classes.keep(unit.outputs, f"what {unit.name} reads is not known")
        else:
            flow.classes.join(unit.outputs, unit.inputs)


def _cells(flow: Flow) -> list[list[int]]:
    """Classes of channels that may change places with each other, each list in their order.

    Those that are in the same tensors of the same layers, in the same group of each, and that need
    not stay where they are.
    """
    where: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    for number, unit in enumerate(flow.units.values()):
        for side, ids in (("out", unit.outputs), ("in", unit.inputs or ())):
            size = max(1, len(ids) // (1 if is_depthwise(unit) else unit.groups))
            for place, id_ in enumerate(ids):
                where[flow.classes.of(id_)].append((side, number, place // size))
    for number, (_, ids) in enumerate(flow.norms.values()):
        for id_ in ids:
            where[flow.classes.of(id_)].append(("norm", number, 0))
    cells: dict[tuple[tuple[str, int, int], ...], list[int]] = defaultdict(list)
    for class_, found in where.items():
        if flow.classes.stays(class_) is None:
            cells[tuple(found)].append(class_)
    return list(cells.values())


def _weights(unit: Unit, masks: Mapping[str, Tensor]) -> list[str]:
    names = [f"{name}.weight" if name else "weight" for name in unit.layers]
    return [name for name in names if name in masks]


def _sides(flow: Flow, unit: Unit, masks: Mapping[str, Tensor]) -> list[Side]:
    names = _weights(unit, masks)
    if not names:
        return []
    mask = masks[names[0]].cpu()
    parts = mask.reshape(unit.groups, -1, mask.shape[1], mask[0, 0].numel())
    weight = int(mask.sum())
    both = (unit.outputs, parts), (unit.inputs or (), parts.transpose(1, 2))
    return [
        Side({flow.classes.of(i): place for place, i in reversed([*enumerate(ids)])}, bits, weight)
        for ids, bits in both
    ]


def _decided(cell: list[int], sides: list[Side]) -> Alike | None:
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


def _order(flow: Flow, ids: tuple[int, ...], moved: Mapping[int, int]) -> list[int]:
    """Which place of a tensor's channels each is taken from.

    A class that a tensor has several times, as flattened ones do, is taken in its own order.
    """
    classes = [flow.classes.of(id_) for id_ in ids]
    places: dict[int, list[int]] = defaultdict(list)
    for place, class_ in enumerate(classes):
        places[class_].append(place)
    left = {class_: iter(own) for class_, own in places.items()}
    return [next(left[moved.get(class_, class_)]) for class_ in classes]


def _inputs_order(flow: Flow, unit: Unit, moved: Mapping[int, int]) -> list[int]:
    if unit.inputs is None:
        return list(range(unit.weight.shape[1] * unit.groups))
    return _order(flow, unit.inputs, moved)
