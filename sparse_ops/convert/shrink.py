"""Shrinking: channels that nothing needs are taken out of a model, through its whole graph.

A filter without weights still gives a constant: its bias, moved by BatchNorm and bent by the
activation. The shrunk model gives what the masked one gives, these constants included. Where that
cannot be had exactly, and where torch.fx cannot follow the channels, they stay.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.convert import tracing
from sparse_ops.convert.flow import Flow
from sparse_ops.convert.followed import followed
from sparse_ops.convert.prepare import keeps_dense, replaced
from sparse_ops.convert.removal import Removal, detach_, find
from sparse_ops.convert.units import Unit, cut, shrink_norm_, shrink_unit_
from sparse_ops.convert.widths import settle
from sparse_ops.nn._constant import Constant

# On modules that were shrunk: the size of what they were, (O, I / groups, ...) or (channels).
MARK = "shrunk_from"


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
    """What shrinking did to a model.

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


def shrink_(
    model: nn.Module,
    example: tuple[Any, ...],
    masks: Mapping[str, Tensor],
    *,
    multiple: int = 1,
    untouched: Iterable[str] = (),
) -> Shrinking:
    """Takes the channels that nothing needs out of a model, in place.

    Args:
        model: masked, plain, in eval mode.
        example: its input.
        masks: the model's.
        multiple: what widths that change are rounded up to, with channels of zeros.
        untouched: names of layers whose inputs and outputs all stay.

    Returns:
        What was done. If that is nothing, `note` may say why.
    """
    untouched = tuple(untouched)
    known = followed(model, example)
    if isinstance(known, str):
        return Shrinking(masks=masks, note=f"no channel was removed: {known}")
    graph, flow = known.graph, known.flow
    removal = find(flow, _kept_patterns(flow, untouched))
    biased = {n for unit in flow.units.values() for n, m in unit.layers.items() if _biased(m)}
    detach_(flow, removal)
    out = settle(flow, removal.removed, multiple)
    new_masks, cuts = dict(masks), {}
    for unit in flow.units.values():
        outputs, inputs = _kept_of(flow, unit, out)
        mask = _mask(unit, masks, flow, removal.removed)
        _mark(unit, outputs, inputs, biased)
        dead = _dead(flow, unit, removal, out)
        groups, before = unit.groups, tuple(unit.weight.shape)
        shrink_unit_(unit, outputs, inputs)
        why = "; ".join(f"{count} as {reason}" for reason, count in dead.items())
        shape = tuple(unit.weight.shape)
        for name in unit.layers:
            cuts[name] = Cut(before, shape, outputs, inputs, sum(dead.values()), why, False)
            new_masks.pop(_weight(name), None)
            if mask is not None:
                new_masks[_weight(name)] = cut(mask, groups, outputs, inputs)
    for norm, ids in flow.norms.values():
        kept = _places_left(flow, ids, out)
        if len(kept) < len(ids):
            setattr(norm, MARK, (len(ids),))
            shrink_norm_(norm, kept)
    again, _ = tracing.trace(model)
    if again is None or tracing.text(again) != tracing.text(graph):
        raise CodeReadsWidths("the model's code works with the widths of its layers")
    for unit in flow.units.values():
        name = unit.name
        if name and not bool(unit.weight.any()) and keeps_dense(model, name) is None:
            replaced(model, name, emptied(unit.layer))
            cuts[name] = replace(cuts[name], constant=True)
            new_masks.pop(_weight(name), None)
    return Shrinking(cuts, new_masks, None, multiple, untouched)


class CodeReadsWidths(RuntimeError):
    """A model's own code depends on how many channels its layers have."""


def emptied(layer: Any) -> Constant:
    """What takes the place of a layer without weights; marked as it was."""
    constant = Constant(layer)
    setattr(constant, MARK, getattr(layer, MARK, tuple(layer.weight.shape)))
    return constant.train(layer.training)


def _weight(name: str) -> str:
    return f"{name}.weight" if name else "weight"


def _biased(layer: Any) -> bool:
    return layer.bias is not None


def _kept_patterns(flow: Flow, untouched: tuple[str, ...]) -> dict[int, str]:
    stay: dict[int, str] = {}
    for unit in flow.units.values():
        if not unit.layers.keys().isdisjoint(untouched):
            reason = f"the pattern of {unit.name} would be lost"
            stay |= dict.fromkeys((*unit.outputs, *(unit.inputs or ())), reason)
    return stay


def _places_left(flow: Flow, ids: tuple[int, ...], out: set[int]) -> tuple[int, ...]:
    return tuple(place for place, id_ in enumerate(ids) if flow.classes.of(id_) not in out)


def _kept_of(flow: Flow, unit: Unit, out: set[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The outputs and inputs that a unit keeps."""
    inputs = tuple(range(unit.weight.shape[1] * unit.groups))
    if unit.inputs is not None:
        inputs = _places_left(flow, unit.inputs, out)
    return _places_left(flow, unit.outputs, out), inputs


def _mark(unit: Unit, outputs: tuple[int, ...], inputs: tuple[int, ...], biased: set[str]) -> None:
    """Marks the layers that will have another shape, or have got a bias."""
    whole = len(unit.outputs), unit.weight.shape[1] * unit.groups
    for name, layer in unit.layers.items():
        if (len(outputs), len(inputs)) != whole or _biased(layer) != (name in biased):
            setattr(layer, MARK, tuple(layer.weight.shape))


def _mask(unit: Unit, masks: Mapping[str, Tensor], flow: Flow, removed: set[int]) -> Tensor | None:
    """The mask of a unit whose removed channels were cleared; None if all of it is kept."""
    weight = unit.weight.detach()
    given = [masks[_weight(name)] for name in unit.layers if _weight(name) in masks]
    mask = (
        given[0].to(weight.device).clone() if given else torch.ones_like(weight, dtype=torch.bool)
    )
    parts = mask.reshape(unit.groups, -1, weight.shape[1], weight[0, 0].numel())
    rows = torch.tensor([flow.classes.of(i) not in removed for i in unit.outputs])
    parts &= rows.reshape(unit.groups, -1, 1, 1).to(weight.device)
    if unit.inputs is not None:
        columns = torch.tensor([flow.classes.of(i) not in removed for i in unit.inputs])
        parts &= columns.reshape(unit.groups, 1, -1, 1).to(weight.device)
    mask = parts.reshape(weight.shape) | (weight != 0)
    return mask if given or not bool(mask.all()) else None


def _dead(flow: Flow, unit: Unit, removal: Removal, out: set[int]) -> dict[str, int]:
    """Why -> how many, of the outputs that are constant or unread, and stay."""
    reasons: dict[str, int] = {}
    for place, id_ in enumerate(unit.outputs):
        class_ = flow.classes.of(id_)
        if class_ in out or (bool(unit.gives[place].isnan()) and class_ not in removal.removed):
            continue
        reason = removal.reasons.get(class_, "widths were made even, with zeros")
        reasons[reason] = reasons.get(reason, 0) + 1
    return reasons
