"""Removal: which channels nothing needs, and how what they still contribute is kept exactly.

A layer that is given a constant channel c adds sum(w) * c to each output; its bias can do that. Not
where it pads with zeros: there the border gets less. But of several constant channels that one such
layer is given, one can carry what all of them contribute, with the weight sum(c_k / c * w_k), and
the others can go. What is left of a class in no reader but layers that need none of it is removed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparse_ops.graph.channel_layers import Layer, contributed
from sparse_ops.graph.channels import Analysis

Reader = tuple[int, int]  # the place of a layer in the list, and a group of its inputs


@dataclass(eq=False)
class Removal:
    """What can be removed.

    Attributes:
        removed: the classes that nothing needs.
        carriers: class -> the constant class that carries what it contributes to readers that pad.
        reasons: class -> why it must stay, of those that are read.
    """

    removed: set[int] = field(default_factory=set)
    carriers: dict[int, int] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Contribution:
    """What the removed inputs of a layer still contribute to its outputs.

    Attributes:
        added: (out channels), float64: what a bias does for them.
        merged: (input, the one that carries it, how many times it is the carrier's constant).
    """

    added: Tensor
    merged: tuple[tuple[int, int, float], ...] = ()


def places(analysis: Analysis, ids: tuple[int, ...], classes: set[int]) -> Tensor:
    """(channels), bool: of one of these classes."""
    return torch.tensor([analysis.classes.of(i) in classes for i in ids], dtype=torch.bool)


def _is_read(layer: Layer, removed: Tensor) -> Tensor:
    """(in channels), bool: read by an output that is not removed (out channels)."""
    return (layer.kernels & ~removed.reshape(layer.groups, -1, 1)).any(1).flatten()


class _Need:
    """What the readers still need of each class, some classes being removed.

    Attributes:
        alive: class -> why it is no constant that could be kept otherwise.
        padded: class -> reader that pads with zeros -> how large a constant it is there.
    """

    def __init__(self, analysis: Analysis, removed: set[int]) -> None:
        self.alive: dict[int, str] = {}
        self.padded: dict[int, dict[Reader, float]] = {}
        for number, layer in enumerate(analysis.layers.values()):
            if layer.inputs is None:
                continue
            read = _is_read(layer, places(analysis, layer.outputs, removed))
            size = len(layer.inputs) // layer.groups
            for place in read.nonzero().flatten().tolist():
                class_ = analysis.classes.of(layer.inputs[place])
                constant = abs(float(layer.given[place]))
                if constant != constant:
                    self.alive.setdefault(class_, f"it is no constant where {layer.name} reads it")
                elif constant != 0 and layer.pads:
                    reader = number, place // size
                    readers = self.padded.setdefault(class_, {})
                    readers[reader] = max(constant, readers.get(reader, 0.0))


def find_removal(analysis: Analysis, stay: Mapping[int, str]) -> Removal:
    """What can be removed.

    Args:
        stay: id -> why its class must stay for other reasons.
    """
    layers, of = list(analysis.layers.values()), analysis.classes.of
    made = [layer.outputs for layer in layers] + [rows.ids for rows in analysis.rows.values()]
    everything = {of(id_) for ids in made for id_ in ids}
    fixed = {c: r for c in everything if (r := analysis.classes.stays(c)) is not None}
    for id_, reason in stay.items():
        fixed.setdefault(of(id_), reason)
    removal = Removal()
    while True:
        need = _Need(analysis, removal.removed)
        open_ = everything - removal.removed - fixed.keys() - need.alive.keys()
        free = open_ - need.padded.keys()
        if free:
            removal.removed |= free
            continue
        merged = _merged(open_, need.padded)
        if not merged:
            break
        for class_, carrier in merged.items():
            removal.removed.add(class_)
            removal.carriers[class_] = carrier
            fixed[carrier] = "it carries the constants of others through zero padding"
    for class_ in everything - removal.removed:
        removal.reasons[class_] = (
            fixed.get(class_)
            or need.alive.get(class_)
            or (
                "it is a constant that the zero padding of "
                f"{layers[next(iter(need.padded[class_]))[0]].name} cuts off at the border"
            )
        )
    return removal


def _merged(open_: set[int], padded: Mapping[int, dict[Reader, float]]) -> dict[int, int]:
    """Class -> carrier, for constant classes that the same readers pad with zeros."""
    alike: dict[frozenset[Reader], list[int]] = {}
    for class_ in sorted(open_):
        alike.setdefault(frozenset(padded[class_]), []).append(class_)
    merged: dict[int, int] = {}
    for group in alike.values():
        carrier = max(group, key=lambda c: min(padded[c].values()))
        merged |= {class_: carrier for class_ in group if class_ != carrier}
    return merged


def contribution(analysis: Analysis, layer: Layer, removal: Removal) -> Contribution:
    """What the removed inputs of a layer still contribute to the outputs that stay."""
    nothing = Contribution(torch.zeros(len(layer.outputs), dtype=torch.float64))
    if layer.inputs is None:
        return nothing
    outputs = places(analysis, layer.outputs, removal.removed)
    inputs = places(analysis, layer.inputs, removal.removed)
    gone = inputs & _is_read(layer, outputs) & (layer.given != 0)
    if not bool(gone.any()):
        return nothing
    if layer.pads:
        return Contribution(nothing.added, tuple(_merges(analysis, layer, removal, gone)))
    given = torch.where(gone, layer.given, 0.0).reshape(layer.groups, 1, -1)
    weight = layer.grouped()
    added = contributed(weight, given.to(weight.device)).flatten().cpu()
    return Contribution(added.masked_fill(outputs, 0))


def _merges(
    analysis: Analysis, layer: Layer, removal: Removal, gone: Tensor
) -> list[tuple[int, int, float]]:
    assert layer.inputs is not None
    classes = [analysis.classes.of(id_) for id_ in layer.inputs]
    size = len(classes) // layer.groups
    # A class may be there more than once: its largest constant carries best.
    best: dict[tuple[int, int], int] = {}
    for place, class_ in enumerate(classes):
        key = class_, place // size
        large = abs(float(layer.given[place]))
        if large == large and (key not in best or large > abs(float(layer.given[best[key]]))):
            best[key] = place
    merges = []
    for place in gone.nonzero().flatten().tolist():
        carrier = best[removal.carriers[classes[place]], place // size]
        merges.append((place, carrier, float(layer.given[place] / layer.given[carrier])))
    return merges
