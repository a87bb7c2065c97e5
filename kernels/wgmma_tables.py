"""What cuda/periodic_conv2d_wgmma.cuh is told of a weight: as `tap_tables`, but for a block whose
warps all do the same, cut into stages whose weights are in shared memory together.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from .configs import WgmmaConfig
from .tap_tables import DEPTH, Alike, Tables, by_warp, groups_of, sources, stands_of

# The kernel holds the pixels of three entries: so many of them are a turn of its loop.
TURN = 3
# (step in its chunk, tap, set of groups), and what the kernel is told of a stage.
Entry = tuple[int, int, int]
Record = tuple[int, int, int, int]
NOTHING: Entry = (-1, 0, 0)


def block_order(eights: int) -> Tensor:
    """(128 · eights): which weight, as filter · 16 + channel, stands where in a block.

    Eight filters by eight channels are 128 bytes without gaps; two such along the channels come
    first, then those of the next eight filters.
    """
    return torch.arange(128 * eights).reshape(eights, 8, 2, 8).transpose(1, 2).flatten()


def cut(products: list[int], most: int) -> Iterator[tuple[int, int]]:
    """(first, end): entries of one chunk in stages of at most `most` products, in whole turns
    where there is more to come.
    """
    first = 0
    while first < len(products):
        end, held = first, 0
        while end < len(products) and held + products[end] <= most:
            held += products[end]
            end += 1
        if end < len(products) and end - first >= TURN:
            end -= (end - first) % TURN
        yield first, end
        first = end


def listed(sets: Tensor, config: WgmmaConfig) -> tuple[list[Entry], list[Record], int]:
    """(entries, stages, blocks of weights) of a slice, both counted from its own first.

    Args:
        sets: (steps, taps): the set of groups that keep weights there.
    """
    entries: list[Entry] = []
    stages: list[Record] = []
    block, per_chunk = 0, config.chunk // DEPTH
    for chunk, own in enumerate(sets.split(per_chunk)):
        at = own.nonzero(as_tuple=True)
        mine = list(zip(*(t.tolist() for t in (*at, own[at])), strict=True))
        counts = [kept.bit_count() for _, _, kept in mine]
        # A chunk of no entries has a stage, too: the kernel copies one chunk ahead. And each stage
        # has a turn: in it the products of the stage before come to their end.
        for first, end in list(cut(counts, config.stage)) or [(0, 0)]:
            blocks, length = sum(counts[first:end]), max(1, -(-(end - first) // TURN)) * TURN
            stages.append((len(entries), length, block, blocks << 16 | chunk))
            block += blocks
            # To whole turns, two that are loaded and not used, and to 16 bytes.
            missing = length - (end - first) + 2 + -(length + 2) % 4
            entries += [*mine[first:end], *[NOTHING] * missing]
    return entries, stages, block


def tables(table: Tensor, found: Alike, config: WgmmaConfig, capability: tuple[int, int]) -> Tables:
    """Of the values' places (`sets.positions`) and what is alike. `blocks` is not used.

    `starts` is (slices, stages + 2, 4), int32: the first entry, how many of them, the first block,
    and 2^16 times how many of those, plus the chunk. Slices of fewer stages end with some of
    nothing, as all do with two more.
    """
    members, eights, columns = groups_of(found, config)
    kept = by_warp(found, members, config)[:, 0]  # (slices, steps, taps, groups)
    sets = (kept * 2 ** torch.arange(config.groups)).sum(3)
    entries: list[Entry] = []
    stages: list[list[Record]] = []
    before = 0
    for own in sets:
        more, its, blocks = listed(own, config)
        stages.append([(e + len(entries), n, b + before, last) for e, n, b, last in its])
        entries += more
        before += blocks
    most, last = max(map(len, stages)), stages[0][-1][3] & 0xFFFF
    for its in stages:
        its += [(len(entries), TURN, 0, last)] * (most + 2 - len(its))
    # What stages of nothing point at: as of any other, to 16 bytes.
    entries += [NOTHING] * 8

    at = kept.nonzero()  # (blocks, 4), in order of use
    source = sources(table, found, members[at[:, 0], at[:, 3]], at[:, 1], at[:, 2])
    source = pad(source[:, block_order(config.eights)], (0, 0, 0, 1), value=-1)
    return Tables(
        found.order,
        *torch.tensor(entries, dtype=torch.int32).T.contiguous(),
        torch.tensor(stages, dtype=torch.int32),
        torch.zeros(1, dtype=torch.int32),
        stands_of(found, config.chunk),
        columns.to(torch.int16),
        eights.int(),
        source.int(),
    )
