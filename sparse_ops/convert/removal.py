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

from sparse_ops.convert.flow import Flow
from sparse_ops.convert.units import Unit, clear_, fold_, merge_

Reader = tuple[int, int]  # the place of a unit in the list, and a group of its inputs


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


def _is_read(unit: Unit, removed: Tensor, kernels: Tensor | None = None) -> Tensor:
    """(in channels), bool: read by an output that is not removed (out channels)."""
    kernels = _kernels(unit) if kernels is None else kernels
    return (kernels & ~removed.reshape(unit.groups, -1, 1)).any(1).flatten()


def _kernels(unit: Unit) -> Tensor:
    """(groups, outputs a group, inputs a group), bool: the kernels that are not wholly zero."""
    return (unit.grouped() != 0).any(3).cpu()


def _places(flow: Flow, ids: tuple[int, ...] | None, classes: set[int]) -> Tensor:
    """(channels), bool: of one of these classes."""
    if ids is None:
        return torch.zeros(0, dtype=torch.bool)
    return torch.tensor([flow.classes.of(i) in classes for i in ids], dtype=torch.bool)


class _Need:
    """What the readers still need of each class, some classes being removed."""

    def __init__(self, flow: Flow, kernels: Mapping[Unit, Tensor], removed: set[int]) -> None:
        self.alive: dict[int, str] = {}
        self.padded: dict[int, dict[Reader, float]] = {}
        for number, (unit, own) in enumerate(kernels.items()):
            if unit.inputs is None:
                continue
            read = _is_read(unit, _places(flow, unit.outputs, removed), own)
            size = len(unit.inputs) // unit.groups
            for place in read.nonzero().flatten().tolist():
                class_ = flow.classes.of(unit.inputs[place])
                constant = float(unit.given[place])
                if constant != constant:
                    self.alive.setdefault(class_, f"it is no constant where {unit.name} reads it")
                elif constant != 0 and unit.pads:
                    reader = number, place // size
                    readers = self.padded.setdefault(class_, {})
                    readers[reader] = min(abs(constant), readers.get(reader, abs(constant)))


def find(flow: Flow, stay: Mapping[int, str]) -> Removal:
    """What can be removed.

    Args:
        stay: id -> why its class must stay for other reasons.
    """
    units = list(flow.units.values())
    everything = {flow.classes.of(i) for unit in units for i in unit.outputs}
    fixed = {c: r for c in everything if (r := flow.classes.stays(c)) is not None}
    for id_, reason in stay.items():
        fixed.setdefault(flow.classes.of(id_), reason)
    removal = Removal()
    kernels = {unit: _kernels(unit) for unit in units}
    while True:
        need = _Need(flow, kernels, removal.removed)
        open_ = everything - removal.removed - fixed.keys() - need.alive.keys()
        free = open_ - need.padded.keys()
        if free:
            removal.removed |= free
            continue
        merged = _merge(open_, need.padded)
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
                f"{units[next(iter(need.padded[class_]))[0]].name} cuts off at the border"
            )
        )
    return removal


def _merge(open_: set[int], padded: Mapping[int, dict[Reader, float]]) -> dict[int, int]:
    """Class -> carrier, for constant classes that the same readers pad with zeros."""
    alike: dict[frozenset[Reader], list[int]] = {}
    for class_ in sorted(open_):
        alike.setdefault(frozenset(padded[class_]), []).append(class_)
    merged: dict[int, int] = {}
    for group in alike.values():
        carrier = max(group, key=lambda c: min(padded[c].values()))
        merged |= {class_: carrier for class_ in group if class_ != carrier}
    return merged


def detach_(flow: Flow, removal: Removal) -> None:
    """Makes the weights such that no removed channel is read, or made, by any layer; in place.

    Widths stay as they are.
    """
    for unit in flow.units.values():
        outputs = _places(flow, unit.outputs, removal.removed)
        inputs = torch.zeros(unit.weight.shape[1] * unit.groups, dtype=torch.bool)
        if unit.inputs is not None:
            inputs = _places(flow, unit.inputs, removal.removed)
            _fold_constants_(flow, unit, removal, outputs, inputs)
        clear_(unit, outputs, inputs)


def _fold_constants_(
    flow: Flow, unit: Unit, removal: Removal, outputs: Tensor, inputs: Tensor
) -> None:
    assert unit.inputs is not None
    gone = inputs & _is_read(unit, outputs) & (unit.given != 0)
    classes = [flow.classes.of(i) for i in unit.inputs]
    size = len(classes) // unit.groups
    first: dict[tuple[int, int], int] = {}
    for place, class_ in enumerate(classes):
        first.setdefault((class_, place // size), place)
    if unit.pads:
        for place in gone.nonzero().flatten().tolist():
            carrier = first[removal.carriers[classes[place]], place // size]
            merge_(unit, place, carrier, float(unit.given[place] / unit.given[carrier]))
        return
    fold_(unit, torch.where(gone, unit.given, 0.0))
