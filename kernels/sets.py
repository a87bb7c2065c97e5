"""Sets of filters that share a list of columns, so that each set is one dense product.

    y[pixel, o] = Σ_k x[pixel, column k of the set] · w[k, o]        for the filters o of a set

Where a filter does not keep a column of its set, its weight there is zero. Filters of a periodic
pattern's class keep the same columns; narrow classes are merged, so that a matrix instruction has
filters enough; rows of an unstructured weight are put together by what they have in common.

A set is made on the CPU, once for each structure; of a packed weight's values it only knows where
they are to be put.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# What tl.dot wants of a half-precision product's sides in all versions of Triton.
LEAST_WIDTH = 16
# Reading one column of x costs a set as much as the products of so many filters. Arithmetic for an
# H200: 150 if all of x comes from L2, 0 if it stays in L1. Between the two; `tune` finds out.
READING = 32
# The filters of one program (`configs.set_config`): a wider set reads x more than once.
WIDEST = 64


class Sets(NamedTuple):
    """Filters put together, and the columns of each set.

    Attributes:
        filters: (sets, width), int32: the filters of each set, then -1.
        starts: (sets + 1), int32: where each set's columns start.
        columns: (listed), int32: channel * taps + tap.
        source: (listed, width), int32: which value stands there, or -1 for a zero.
        place: (nnz), int64: where in (listed, width) each value stands.
        longest: the most columns of a set.
        run: see `_device.gathered`.
        order: (channels), int64: which channel of x stands where, if x is to be sorted first.
            With runs, sorted or not, x is to have its channels last.
        others: the filters that are in no set, int32.
    """

    filters: Tensor
    starts: Tensor
    columns: Tensor
    source: Tensor
    place: Tensor
    longest: int
    run: int
    order: Tensor | None
    others: Tensor

    def to(self, device: torch.device) -> "Sets":
        moved = (t.to(device) if isinstance(t, Tensor) else t for t in self)
        return Sets(*moved)


def positions(
    crow_indices: Tensor, col_indices: Tensor, filters: int, columns: int, nnz: int
) -> Tensor:
    """(filters, columns), int32: which value each weight is, or -1.

    Filter o keeps the columns of class o mod classes; its values follow those of filter o - 1.
    What an index that is out of range would name is not there.
    """
    crow, col = crow_indices.cpu().long(), col_indices.cpu().long()
    classes = crow.numel() - 1
    if classes < 1:
        return torch.full((filters, columns), -1, dtype=torch.int32)
    table = torch.full((classes, columns), -1, dtype=torch.int64)
    for own in range(classes):
        start = max(0, int(crow[own]))
        stop = min(col.numel(), int(crow[own + 1]))
        at = torch.arange(start, max(start, stop))
        good = (col[at] >= 0) & (col[at] < columns)
        table[own, col[at][good]] = at[good]
    o = torch.arange(filters)
    found = table[o % classes]
    moved = found + (o // classes * int(crow[-1]))[:, None]
    there = (found >= 0) & (moved >= 0) & (moved < nnz)
    return torch.where(there, moved, -1).to(torch.int32)


def transposed(table: Tensor, groups: int, taps: int) -> Tensor:
    """(channels, filters / groups · taps): of the weight that carries the gradient back."""
    per_group = table.shape[1] // taps
    split = table.reshape(groups, -1, per_group, taps)
    return split.transpose(1, 2).flip(3).reshape(groups * per_group, -1)


def _padded(n: int) -> int:
    return max(LEAST_WIDTH, -(-n // LEAST_WIDTH) * LEAST_WIDTH)


def _cost(filters: int) -> int:
    """Of one column of a set of that many filters."""
    width = _padded(filters)
    return width + READING * -(-width // WIDEST)


def by_class(
    table: Tensor, groups: int, classes: int, merged: int | None = None
) -> tuple[int, list[Tensor]]:
    """(merged, filters by o mod `merged`): a divisor of the classes; by default of least work.

    Work is columns times filters, of which a matrix instruction takes 16 at a time, and reading x
    for each program: merging classes costs zeros, leaving them apart costs padding and reading.
    """
    kept, in_group = table >= 0, table.shape[0] // groups
    best: tuple[int, int, list[Tensor]] | None = None
    for count in (merged,) if merged else range(classes, 0, -1):
        if classes % count:
            continue
        parts = [
            o + group * in_group
            for group in range(groups)
            for own in range(count)
            if (
                o := ((torch.arange(in_group) + group * in_group) % count == own).nonzero()[:, 0]
            ).numel()
        ]
        work = sum(int(kept[o].any(0).sum()) * _cost(o.numel()) for o in parts)
        if best is None or work < best[0]:
            best = (work, count, parts)
    return best[1:] if best else (1, [])


def by_likeness(table: Tensor, groups: int) -> list[Tensor]:
    """Filters in sets of 16: the longest one left, and those that share most columns with it."""
    kept = (table >= 0).float()
    parts, in_group = [], table.shape[0] // groups
    for group in range(groups):
        own = kept[group * in_group : (group + 1) * in_group]
        length = own.sum(1)
        left = length > 0
        shared = own @ own.T
        while bool(left.any()):
            seed = int(torch.where(left, length, -1.0).argmax())
            chosen, likeness = [seed], shared[seed].clone()
            left[seed] = False
            while len(chosen) < LEAST_WIDTH and bool(left.any()):
                score = torch.where(left, likeness / length.clamp(min=1), -1.0)
                chosen.append(int(score.argmax()))
                left[chosen[-1]] = False
                likeness += shared[chosen[-1]]
            parts.append(torch.tensor(sorted(chosen)) + group * in_group)
    return parts


def shared_columns(table: Tensor, parts: list[Tensor]) -> int:
    """How many columns the sets have, all together: what a program must load for each pixel."""
    return sum(int((table[o] >= 0).any(0).sum()) for o in parts)


def assemble(
    table: Tensor, parts: list[Tensor], groups: int, taps: int, nnz: int, sort_by: int = 0
) -> Sets:
    """The sets of those filters.

    Args:
        table: `positions`.
        parts: the filters of each set, all of one group of the convolution.
        nnz: how many values there are.
        sort_by: if not 0, x's channels are to be sorted by their number modulo this first, if
            that makes runs.
    """
    filters, in_group = table.shape[0], table.shape[0] // groups
    per_group = table.shape[1] // taps
    channels = groups * per_group
    order = rank = None
    if sort_by:
        order = torch.arange(channels) % sort_by * channels + torch.arange(channels)
        order = order.argsort()
        rank = order.argsort()
    width = _padded(max((o.numel() for o in parts), default=1))
    listed, members, source = [], [], []
    # The longest first: what is handed out last is short.
    for o in sorted(parts, key=lambda o: -int((table[o] >= 0).any(0).sum())):
        k = (table[o] >= 0).any(0).nonzero()[:, 0]
        channel, tap = k // taps + int(o[0]) // in_group * per_group, k % taps
        channel = channel if rank is None else rank[channel]
        # Tap by tap, so that in channels_last neighbours in the list are neighbours in memory.
        by_tap = (tap * channels + channel).argsort()
        listed.append((channel * taps + tap)[by_tap])
        padding = (0, width - o.numel())
        members.append(torch.nn.functional.pad(o, padding, value=-1))
        source.append(torch.nn.functional.pad(table[o][:, k[by_tap]].T, padding, value=-1))
    lengths = torch.tensor([0, *(c.numel() for c in listed)])
    columns = torch.cat(listed) if listed else torch.empty(0)
    where = torch.cat(source) if source else torch.empty(0, width)
    flat = where.flatten().long()
    place = torch.full((nnz,), -1)
    place[flat[flat >= 0]] = (flat >= 0).nonzero()[:, 0]
    others = torch.ones(filters, dtype=torch.bool)
    for o in parts:
        others[o] = False
    run = run_of(columns, lengths, taps) if sort_by else 1
    if sort_by and run == 1:
        return assemble(table, parts, groups, taps, nnz)
    if sort_by == 1:
        order = None
    return Sets(
        torch.stack(members).int() if members else torch.empty(0, width, dtype=torch.int32),
        lengths.cumsum(0).int(),
        columns.int(),
        where.int(),
        place,
        int(lengths.max()),
        run,
        order,
        others.nonzero()[:, 0].int(),
    )


def run_of(columns: Tensor, lengths: Tensor, taps: int) -> int:
    """The longest run of `_device.gathered` that all these columns keep; 1 if none."""
    for run in (16, 8):
        if bool((lengths % run).any()) or not columns.numel():
            continue
        channel, tap = (columns // taps).reshape(-1, run), (columns % taps).reshape(-1, run)
        steps = channel - torch.arange(run)
        if bool((steps == steps[:, :1]).all() & (tap == tap[:, :1]).all()) and not bool(
            (channel[:, 0] % run).any()
        ):
            return run
    return 1
