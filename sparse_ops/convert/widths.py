"""Widths: which of the channels that nothing needs are really taken out.

Every layer keeps a channel at least, groups stay equally wide or go whole, and widths may be
rounded up to a multiple. What is put back for that holds zeros.
"""

from collections.abc import Iterable, Sequence

from sparse_ops.convert.flow import Flow
from sparse_ops.convert.units import Unit


def _last_removed(classes: Sequence[int], removed: set[int], count: int) -> list[int]:
    """Some classes to put back, so that `count` more of these places are kept."""
    back: list[int] = []
    for class_ in reversed(classes):
        if count <= 0:
            break
        if class_ in removed and class_ not in back:
            back.append(class_)
            count -= list(classes).count(class_)
    return back


def _put_back(unit: Unit, flow: Flow, removed: set[int], multiple: int) -> list[int]:
    """Classes that this unit needs back."""
    outputs = [flow.classes.of(i) for i in unit.outputs]
    inputs = None if unit.inputs is None else [flow.classes.of(i) for i in unit.inputs]
    sides = [outputs] if inputs is None else [outputs, inputs]
    if unit.groups > 1:
        return _even_groups(outputs, inputs, unit, removed)
    for side in sides:
        kept = sum(class_ not in removed for class_ in side)
        if kept == 0:
            return _last_removed(side, removed, 1)
        # Flattened channels go by whole images: their number is what the layer before has.
        if kept < len(side) and kept % multiple and len(set(side)) == len(side):
            return _last_removed(side, removed, min(-kept % multiple, len(side) - kept))
    return []


def _even_groups(
    outputs: list[int], inputs: list[int] | None, unit: Unit, removed: set[int]
) -> list[int]:
    def split(side: list[int] | None) -> list[list[int]]:
        if side is None:
            return []
        size = len(side) // unit.groups
        return [side[i : i + size] for i in range(0, len(side), size)]

    both = [split(outputs), split(inputs) if inputs is not None else []]
    kept = [[sum(c not in removed for c in group) for group in side] for side in both]
    reads_all = not both[1]
    gone = [not reads_all and kept[0][g] == 0 and kept[1][g] == 0 for g in range(unit.groups)]
    if all(gone):
        return [outputs[-1]]
    for side, counts in zip(both, kept, strict=True):
        if not side:
            continue
        wanted = max(1, *counts)
        for group, count, dropped in zip(side, counts, gone, strict=True):
            if not dropped and count < wanted:
                return _last_removed(group, removed, wanted - count)
    return []


def settle(flow: Flow, removed: Iterable[int], multiple: int = 1) -> set[int]:
    """The classes to take out, of those that can be.

    Args:
        multiple: what widths that change are rounded up to.
    """
    left = set(removed)
    changed = True
    while changed:
        changed = False
        for unit in flow.units.values():
            while back := _put_back(unit, flow, left, multiple):
                left -= set(back)
                changed = True
    return left
