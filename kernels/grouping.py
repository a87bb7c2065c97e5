"""Which filters are put together into a set (`sets.py`): by class, by sameness, or by likeness."""

import itertools
import math

import torch
from torch import Tensor

from .sets import LEAST_WIDTH, padded

# Reading one column of x costs a set as much as the products of so many filters. Arithmetic for an
# H200: 150 if all of x comes from L2, 0 if it stays in L1. Between the two; `tune` finds out.
READING = 32
# The filters of one program (`configs.set_config`): a wider set reads x more than once.
WIDEST = 64
# Filters are sets of those that keep the very same columns if so many do on average: fewer would
# leave most of a matrix instruction empty.
ALIKE = 4
# More sets than this are not compared two by two.
MOST_MERGED = 32


def _cost(filters: int) -> int:
    """Of one column of a set of that many filters."""
    width = padded(filters)
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


def by_sameness(table: Tensor, groups: int) -> list[Tensor] | None:
    """Filters that keep the very same columns, as those of a periodic weight with sorted channels.

    Sets are put together where that is less work, as classes are. None if too few are the same.
    """
    kept, in_group = table >= 0, table.shape[0] // groups
    found: dict[tuple[int, bytes], list[int]] = {}
    for o in kept.any(1).nonzero()[:, 0].tolist():
        found.setdefault((o // in_group, kept[o].numpy().tobytes()), []).append(o)
    if len(found) * ALIKE > len(table):
        return None
    parts: dict[int, list[Tensor]] = {group: [] for group in range(groups)}
    for (group, _), members in found.items():
        parts[group].append(torch.tensor(members))
    return [o for own in parts.values() for o in _merged(kept, own)]


def _merged(kept: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """The sets, two at a time put together, the best two first: the least work on that way."""
    if not 1 < len(parts) <= MOST_MERGED:
        return parts
    best, least = parts, math.inf
    while True:
        columns = torch.stack([kept[o].any(0) for o in parts]).float()
        each = [int(n) for n in columns.sum(1)]
        own = [n * _cost(o.numel()) for n, o in zip(each, parts, strict=True)]
        if sum(own) < least:
            best, least = parts, sum(own)
        if len(parts) == 1:
            return best
        both = (columns @ columns.T).int().tolist()
        saved, pair = -math.inf, (0, 1)
        for a, b in itertools.combinations(range(len(parts)), 2):
            cost = _cost(parts[a].numel() + parts[b].numel())
            found = own[a] + own[b] - (each[a] + each[b] - both[a][b]) * cost
            if found > saved:
                saved, pair = found, (a, b)
        joined = torch.cat([parts[place] for place in pair]).sort().values
        parts = [o for place, o in enumerate(parts) if place not in pair] + [joined]
