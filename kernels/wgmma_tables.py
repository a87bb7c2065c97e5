"""What cuda/periodic_conv2d_wgmma.cuh is told of a weight: as `tap_tables`, but for blocks whose
warps all do the same, by a text (`wgmma_text`).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .configs import WgmmaConfig
from .tap_tables import DEPTH, Alike, Tables, by_warp, groups_of, sources
from .wgmma_text import texts


def in_order(found: Alike) -> Alike:
    """With steps in the order of their channels: what lies side by side is then copied together."""
    if found.order is not None:
        return found
    order = found.channels[:, 0].argsort()
    return found._replace(channels=found.channels[order], kept=found.kept[:, order])


def kept_by(found: Alike, config: WgmmaConfig) -> Tensor:
    """(slices, steps, taps, groups), bool: what is multiplied."""
    return by_warp(found, groups_of(found, config)[0], config)[:, 0]


def turned(kept: Tensor, per_chunk: int) -> list[int]:
    """With which chunk each slice begins, so that as many as can be do as the first does.

    In a periodic pattern the filters of a slice keep what those of another do of other channels.
    """
    steps = kept.shape[1]
    turns = range(0, steps, per_chunk) if steps % per_chunk == 0 else range(1)
    first = kept[0]
    found = []
    for own in kept:
        same = (t for t in turns if bool((own.roll(-t, 0) == first).all()))
        found.append(next(same, 0) // per_chunk)
    return found


def stage_of(kept: Tensor) -> int:
    """The most blocks of a stage: what a step of a slice keeps."""
    return max(1, int(kept.sum((2, 3)).max()))


def block_order(eights: int) -> Tensor:
    """(128 · eights): which weight, as filter · 16 + channel, stands where in a block.

    Eight filters by eight channels are 128 bytes without gaps; two such along the channels come
    first, then those of the next eight filters.
    """
    return torch.arange(128 * eights).reshape(eights, 8, 2, 8).transpose(1, 2).flatten()


class Arranged(NamedTuple):
    """What is multiplied, with the steps of each slice in its own order.

    Attributes:
        kept: (slices, steps, taps, groups), bool.
        order: (slices, steps): which step each is.
        turns: of each slice, with which chunk it begins.
    """

    kept: Tensor
    order: Tensor
    turns: list[int]


def arranged(found: Alike, config: WgmmaConfig) -> Arranged:
    """Of what is alike, its steps `in_order`."""
    kept, per_chunk = kept_by(found, config), config.chunk // DEPTH
    turns = turned(kept, per_chunk)
    steps = torch.arange(kept.shape[1])
    order = torch.stack([steps.roll(-turn * per_chunk) for turn in turns])
    return Arranged(kept[torch.arange(len(kept))[:, None], order], order, turns)


def tables(table: Tensor, found: Alike, config: WgmmaConfig, capability: tuple[int, int]) -> Tables:
    """Of the values' places (`sets.positions`) and what is alike."""
    found = in_order(found)
    members, eights, columns = groups_of(found, config)
    kept, order, turns = arranged(found, config)
    slice_, step, tap, group = kept.nonzero().T  # of blocks, in order of use
    source = sources(table, found, members[slice_, group], order[slice_, step], tap)
    source = pad(source[:, block_order(config.eights)], (0, 0, 0, 1), value=-1)
    none = torch.zeros(1, dtype=torch.int32)
    return Tables(
        found.order,
        none,
        none,
        none,
        none,
        none,
        none,
        columns.to(torch.int16),
        eights.int(),
        source.int(),
        texts(kept, turns, config),
    )
