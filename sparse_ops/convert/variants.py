"""Variants: the ways to shrink a model that are worth planning, the more thorough the earlier."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from sparse_ops.convert.context import Measure
from sparse_ops.convert.fold import find as find_folding
from sparse_ops.convert.fold import fold_batch_norms_
from sparse_ops.convert.prepare import copied, prunable_layers, watch
from sparse_ops.convert.shrink import Shrinking
from sparse_ops.convert.shrunk import check_shrunk, shrunk_copy
from sparse_ops.convert.sort import sorted_copy
from sparse_ops.patterns import Periodic

# What widths are tried rounded up to: vectors of 8 or 16 numbers, and blocks of them.
MULTIPLES = (8, 16)
# The devices whose kernels gain by sorted channels.
SORTING = "cuda"


@dataclass(frozen=True, eq=False)
class Variant:
    """A masked model, shrunk in one way or not at all.

    Attributes:
        model: what came out.
        shrinking: what was done, and the masks of what came out.
        sorts: whether channels were put in another order, too (`sort.py`).
    """

    model: nn.Module
    shrinking: Shrinking
    sorts: bool = False

    @property
    def changes(self) -> bool:
        """Whether the model is another than the masked one."""
        return self.sorts or self.shrinking.changes


def with_sorted(ways: list[Variant], example: tuple[Any, ...]) -> list[Variant]:
    """Each variant, and on a GPU the same with its channels sorted, where that is of use.

    Raises:
        Mismatch: a sorted model computes something else.
    """
    if not any(isinstance(x, Tensor) and x.device.type == SORTING for x in example):
        return ways
    found = list(ways)
    for way in ways:
        done = sorted_copy(way.model, example, way.shrinking.masks)
        if done is not None:
            found.append(Variant(done[0], replace(way.shrinking, masks=done[1]), True))
    return found


def find(
    masked: nn.Module,
    example: tuple[Any, ...],
    masks: Mapping[str, Tensor],
    budget_s: float,
    measure: Measure,
    fold: bool = True,
) -> tuple[list[Variant], str | None]:
    """The variants to plan, and None or why nothing could be shrunk.

    Exact widths, or rounded up where the whole dense model is surely faster so. Where a periodic
    layer would lose its pattern there is a second one in which such layers keep their channels.

    Raises:
        Mismatch: a shrunk model computes something else.
    """
    exact = Variant(*shrunk_copy(masked, example, masks))
    if not exact.shrinking.changes:
        return [exact], exact.shrinking.note
    best = exact
    for multiple in MULTIPLES:
        other = Variant(*shrunk_copy(masked, example, masks, multiple=multiple, verify=False))
        if other.shrinking.same_as(best.shrinking):
            continue
        sides = [partial(_folded(way, example, fold), *example) for way in (best, other)]
        if measure(sides[0], sides[1], budget_s / len(MULTIPLES)).low > 1:
            best = other
    if best is not exact:
        check_shrunk(masked, best.model, example, best.shrinking)
    found = [best]
    if lost := _lost_patterns(masks, best.shrinking):
        kept = Variant(*shrunk_copy(masked, example, masks, untouched=lost))
        found.append(kept)
    return found, None


def _folded(way: Variant, example: tuple[Any, ...], fold: bool) -> nn.Module:
    if not fold:
        return way.model
    model = copied(way.model)
    calls = watch(model, prunable_layers(model), example)
    fold_batch_norms_(model, find_folding(model, calls)[0])
    return model


def _lost_patterns(masks: Mapping[str, Tensor], shrinking: Shrinking) -> list[str]:
    """The layers whose zeros are periodic, and no longer are after shrinking."""
    lost = []
    for name, cut in shrinking.cuts.items():
        weight = f"{name}.weight" if name else "weight"
        before, after = masks.get(weight), shrinking.masks.get(weight)
        if before is None or cut.constant or cut.shape == cut.before or not bool(before.any()):
            continue
        if after is None or bool(after.all()):
            continue
        if Periodic.recognise(before) and not Periodic.recognise(after):
            lost.append(name)
    return lost
