"""Widths: which of the channels that nothing needs are really taken out.

Every tensor keeps a channel at least, groups stay equally wide or go altogether, and widths may be
rounded up to a multiple. What is put back for that holds zeros.
"""

from collections.abc import Iterable, Sequence

from sparse_ops.graph.channel_classes import Channels
from sparse_ops.graph.channel_layers import Layer
from sparse_ops.graph.channels import Analysis


def choose_removed(analysis: Analysis, removed: Iterable[int], multiple: int = 1) -> set[int]:
    """The classes to take out, of those that can be.

    Args:
        multiple: what widths that change are rounded up to.
    """
    left = set(removed)
    of = analysis.classes.of
    known = {c.ids for c in analysis.known.values() if isinstance(c, Channels)}
    known |= {rows.ids for rows in analysis.rows.values()}
    # In a definite order, whatever the ids are.
    tensors = [[of(id_) for id_ in ids] for ids in sorted(known)]
    changed = True
    while changed:
        changed = False
        for layer in analysis.layers.values():
            while back := _put_back(layer, analysis, left, multiple):
                left -= set(back)
                changed = True
        for parts in analysis.even:
            classes = [of(id_) for part in parts for id_ in part]
            while back := _even_groups(classes, None, len(parts), left):
                left -= set(back)
                changed = True
        for classes in tensors:
            if left.issuperset(classes) and classes:
                left.discard(classes[-1])
                changed = True
    return left


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


def _put_back(layer: Layer, analysis: Analysis, removed: set[int], multiple: int) -> list[int]:
    """Classes that this layer needs back."""
    outputs = [analysis.classes.of(i) for i in layer.outputs]
    inputs = None if layer.inputs is None else [analysis.classes.of(i) for i in layer.inputs]
    sides = [outputs] if inputs is None else [outputs, inputs]
    if layer.groups > 1:
        return _even_groups(outputs, inputs, layer.groups, removed)
    for side in sides:
        kept = sum(class_ not in removed for class_ in side)
        if kept == 0:
            return _last_removed(side, removed, 1)
        # Flattened channels go by whole images: their number is what the layer before has.
        if kept < len(side) and kept % multiple and len(set(side)) == len(side):
            return _last_removed(side, removed, min(-kept % multiple, len(side) - kept))
    return []


def _even_groups(
    outputs: list[int], inputs: list[int] | None, groups: int, removed: set[int]
) -> list[int]:
    def split(side: list[int] | None) -> list[list[int]]:
        if side is None:
            return []
        size = len(side) // groups
        return [side[i : i + size] for i in range(0, len(side), size)]

    both = [split(outputs), split(inputs)]
    kept = [[sum(c not in removed for c in group) for group in side] for side in both]
    reads_all = not both[1]
    gone = [not reads_all and kept[0][g] == 0 and kept[1][g] == 0 for g in range(groups)]
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
