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


class Sets(NamedTuple):
    """Filters put together, and the columns of each set.

    Attributes:
        filters: (sets, width), int32: the filters of each set, then -1.
        starts: (sets + 1), int32: where each set's columns start.
        columns: (listed), int32: channel * taps + tap.
        source: (listed, width), int32: which value stands there, or -1 for a zero.
        place: (nnz), int64: where in (listed, width) each value stands.
        longest: the most columns of a set.
        run: see `_device.taps_of`.
        abreast: so many filters at a time are neighbours, from a multiple of that, or are none.
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
    abreast: int
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


def padded(n: int) -> int:
    """The width of a set of n filters."""
    return max(LEAST_WIDTH, -(-n // LEAST_WIDTH) * LEAST_WIDTH)


def assemble(
    table: Tensor, parts: list[Tensor], groups: int, taps: int, nnz: int, sort_by: int = 0
) -> Sets:
    """The sets of those filters.

    Args:
        table: `positions`.
        parts: the filters of each set, all of one group of the convolution.
        nnz: how many values there are.
        sort_by: if not 0, x's channels are to be sorted by their number modulo this first, if
            that makes runs; 1 finds the runs that are there as it is.
    """
    filters, in_group = table.shape[0], table.shape[0] // groups
    per_group = table.shape[1] // taps
    channels = groups * per_group
    order = rank = None
    if sort_by > 1:
        order = torch.arange(channels) % sort_by * channels + torch.arange(channels)
        order = order.argsort()
        rank = order.argsort()
    width = padded(max((o.numel() for o in parts), default=1))
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
    if order is not None and run == 1:
        return assemble(table, parts, groups, taps, nnz)
    stacked = torch.stack(members).int() if members else torch.empty(0, width, dtype=torch.int32)
    return Sets(
        stacked,
        lengths.cumsum(0).int(),
        columns.int(),
        where.int(),
        place,
        int(lengths.max()),
        run,
        abreast_of(stacked),
        order,
        others.nonzero()[:, 0].int(),
    )


def run_of(columns: Tensor, lengths: Tensor, taps: int) -> int:
    """The longest run of `_device.taps_of` that all these columns keep; 1 if none."""
    for run in (64, 32, 16, 8):
        if bool((lengths % run).any()) or not columns.numel():
            continue
        channel, tap = (columns // taps).reshape(-1, run), (columns % taps).reshape(-1, run)
        steps = channel - torch.arange(run)
        if bool((steps == steps[:, :1]).all() & (tap == tap[:, :1]).all()) and not bool(
            (channel[:, 0] % run).any()
        ):
            return run
    return 1


def abreast_of(filters: Tensor) -> int:
    """`Sets.abreast`: 8, which a store of 16 bytes wants, or 1."""
    eights = filters.reshape(-1, 8)
    neighbours = eights == eights[:, :1] + torch.arange(8)
    whole = neighbours.all(1) & (eights[:, 0] % 8 == 0)
    return 8 if bool((whole | (eights < 0).all(1)).all()) else 1
