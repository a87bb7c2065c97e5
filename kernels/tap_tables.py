"""What cuda/periodic_conv2d.cuh is told of a weight: which channels and filters are alike, and what
each warp multiplies in which order.

Channels that all filters treat alike are put together in steps of 16, the depth of a product;
filters that keep the same weights in groups of 8 to 64, its width. Where classes are narrower,
those that are most alike share a step or a group, with zeros where one of them keeps nothing. All
of this is made on the CPU, once for each structure.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .configs import TapConfig, WgmmaConfig

# Channels of a product.
DEPTH = 16
# The most of all weights that may be left: beyond, a dense convolution has less to read.
MOST_KEPT = 0.75


class Alike(NamedTuple):
    """How the channels of a weight are put together, and which of its filters are alike.

    Attributes:
        order: (I), int64: which channel of x stands where once x is sorted; None: x as it is.
        channels: (steps, 16): the channels of each step, those of x unsorted, or -1.
        channel_classes: how many classes of channels there are.
        classes: (O): the class of each filter; like classes have near numbers.
        runs: (O / 8): the class of each eight neighbouring filters; None: they are of several.
        kept: (O + 1, steps, taps), bool: whether a filter keeps any weight there; the last is none.
    """

    order: Tensor | None
    channels: Tensor
    channel_classes: int
    classes: Tensor
    runs: Tensor | None
    kept: Tensor


class Tables(NamedTuple):
    """The kernel's tables; `periodic_conv2d.cuh` says what each is.

    Attributes:
        order: see `Alike`.
        steps: (entries), int32: an entry's step within its chunk; -1 where a list ends.
        taps, sets: (entries), int32: its tap, and the set of groups that keep it.
        source: (blocks, 128 · eights), int32: which value stands in each place of the weight's
            blocks, or -1 for a zero; the last one is empty, for weights that keep nothing.
        texts: file name -> text that the kernel includes.
    """

    order: Tensor | None
    steps: Tensor
    taps: Tensor
    sets: Tensor
    starts: Tensor
    blocks: Tensor
    channels: Tensor
    columns: Tensor
    eights: Tensor
    source: Tensor
    texts: dict[str, str] | None = None

    def to(self, device: torch.device) -> "Tables":
        return Tables(*(t.to(device) if isinstance(t, Tensor) else t for t in self))


def classes_of(rows: Tensor) -> Tensor:
    """(rows): numbers of the classes of rows, bool, that are the same.

    The classes are numbered so that each is followed by the one most like it of those left.
    """
    rows = rows.flatten(1)
    found: dict[bytes, int] = {}
    of = torch.tensor([found.setdefault(row.tobytes(), len(found)) for row in rows.numpy()])
    kept = torch.zeros(len(found), rows.shape[1]).index_copy_(0, of, rows.float())
    shared = kept @ kept.T
    apart = shared.diagonal()[:, None] + shared.diagonal() - 2 * shared
    rank, at = torch.full((len(found),), -1), 0
    for place in range(len(found)):
        rank[at] = place
        at = int(torch.where(rank < 0, apart[at], torch.inf).argmin())
    return rank[of]


def _runs(classes: Tensor) -> Tensor | None:
    """(eights): the class of each eight neighbours, or None if they are not all of one class."""
    eights = classes.reshape(-1, 8)
    return eights[:, 0] if bool((eights == eights[:, :1]).all()) else None


def alike(table: Tensor, taps: int) -> Alike:
    """Of the values' places (`sets.positions`), (O, I · taps); O and I are multiples of 8."""
    kept = (table >= 0).reshape(table.shape[0], -1, taps)
    own = classes_of(kept.transpose(0, 1))
    runs = _runs(own)
    if runs is None:
        line = own.argsort(stable=True)
    else:
        line = (runs.argsort(stable=True)[:, None] * 8 + torch.arange(8)).flatten()
    channels = pad(line, (0, -len(line) % DEPTH), value=-1).reshape(-1, DEPTH)
    # Chunks hold steps of many classes, so that warps, whose groups keep more of some of them, have
    # about the same to do between two barriers: the first step of each class, then the second.
    first = own[channels[:, 0]]
    turn = torch.tril(first[:, None] == first, -1).sum(1)
    channels = channels[(turn * len(own) + first).argsort(stable=True)]
    order = None
    if runs is None:
        order = channels.flatten()
        order = order[order >= 0]
    # A filter and a channel of nothing, for -1.
    union = pad(kept, (0, 0, 0, 1, 0, 1))[:, channels].any(2)
    classes = classes_of(kept)
    return Alike(order, channels, int(own.max()) + 1, classes, _runs(classes), union)


def refuses_alike(found: Alike) -> str | None:
    """Why a weight is not for products of 8 filters by 16 channels, or None if it is."""
    filters, channels = len(found.classes), int((found.channels >= 0).sum())
    for what, count, classes in (
        ("filters", filters, int(found.classes.max()) + 1),
        ("input channels", channels, found.channel_classes),
    ):
        if classes * 4 > count:
            return f"the {count} {what} are of {classes} kinds: at least 4 must be alike"
    # (O / 8, steps, taps): what would be multiplied, if by the least of groups.
    eights = found.kept[found.classes.argsort(stable=True)].unflatten(0, (-1, 8)).any(1)
    if (part := float(eights.float().mean())) > MOST_KEPT:
        return f"its classes are too narrow: together they keep {part:.0%} of all weights"
    return None


def groups_of(found: Alike, config: TapConfig | WgmmaConfig) -> tuple[Tensor, Tensor, Tensor]:
    """How filters are put together.

    Returns:
        filters: (slices, groups, width): those of each group, or -1.
        eights: (slices, filters of a slice / 8): the first of eight neighbouring filters, or -1.
        columns: (slices, groups, width): where among the slice's eights each filter stands.
    """
    count, width = len(found.classes), config.slice
    # Without runs, a slice is neighbouring filters, which change places within it.
    first = torch.arange(0, count, 8)
    if found.runs is not None:
        first = found.runs.argsort(stable=True) * 8
    eights = pad(first, (0, -len(first) % (width // 8)), value=-1).reshape(-1, width // 8)
    filters = torch.where(eights[..., None] >= 0, eights[..., None] + torch.arange(8), -1)
    filters = filters.flatten(1)
    if found.runs is None:
        ranked = torch.where(filters >= 0, found.classes[filters], count)
        columns = ranked.argsort(dim=1, stable=True)
    else:
        columns = torch.arange(width).repeat(len(filters), 1)
    shape = (len(filters), -1, config.width)
    return filters.gather(1, columns).reshape(shape), eights, columns.reshape(shape)


def by_warp(found: Alike, filters: Tensor, config: TapConfig | WgmmaConfig) -> Tensor:
    """(slices, warps, steps, taps, groups of a warp), bool: what is kept, in order of use."""
    kept = found.kept[filters].any(2)  # (slices, groups, steps, taps)
    split = kept.reshape(len(kept), config.filter_warps, config.groups, *kept.shape[2:])
    return split.permute(0, 1, 3, 4, 2)


def lane_order(capability: tuple[int, int], eights: int) -> Tensor:
    """(128 · eights): which weight, as filter · 16 + channel, stands where in a block."""
    if capability < (7, 5):
        return torch.arange(128 * eights)
    # Lane l has, of filter l / 4 of each eight, channels 2 (l % 4), +1, and those 8 further; of
    # two eights side by side, so that it reads 16 bytes.
    lane, half = torch.arange(32), torch.arange(2)
    channel = (lane % 4 * 2)[:, None, None] + half[:, None] * 8 + half  # (32, 2, 2)
    one = (lane // 4 * DEPTH)[:, None, None] + channel
    together = min(eights, 2)
    pairs = one[None, :, None] + (torch.arange(eights) * 128).reshape(-1, 1, together, 1, 1)
    return pairs.flatten()


def sources(table: Tensor, found: Alike, filters: Tensor, steps: Tensor, taps: Tensor) -> Tensor:
    """(blocks, width · 16): which value is each weight of some blocks, or -1 for a zero.

    Args:
        filters: (blocks, width): those of each, or -1.
        steps, taps: (blocks).
    """
    channels = found.channels[steps]  # (blocks, 16)
    there = (filters >= 0)[:, :, None] & (channels >= 0)[:, None]
    column = (channels * found.kept.shape[2] + taps[:, None]).clamp(min=0)
    source = table[filters.clamp(min=0)[:, :, None], column[:, None]]
    return torch.where(there, source, -1).flatten(1)


def stands_of(found: Alike, chunk: int) -> Tensor:
    """int32: where in x, as the kernel gets it, each eight channels begin; -1: none, to its end."""
    stands = found.channels.flatten()
    if found.order is not None:
        stands = torch.where(stands >= 0, (stands >= 0).cumsum(0) - 1, -1)
    stands = stands[::8]
    return pad(stands, (0, -len(stands) % (chunk // 8)), value=-1).int()


def tables(table: Tensor, found: Alike, config: TapConfig, capability: tuple[int, int]) -> Tables:
    """Of the values' places (`sets.positions`) and what is alike, for cards of a capability."""
    members, eights, columns = groups_of(found, config)
    kept = by_warp(found, members, config)
    slices, warps, steps = kept.shape[:3]
    per_chunk, lists = config.chunk // DEPTH, slices * warps
    chunks = -(-steps // per_chunk)
    sets = (kept * 2 ** torch.arange(config.groups)).sum(4)
    slice_, warp, step, tap = sets.nonzero(as_tuple=True)
    list_ = slice_ * warps + warp
    # Two entries of nothing end each list: entry e of list l stands at e + 2 l.
    entries = torch.zeros(3, len(list_) + 2 * lists, dtype=torch.int32)
    entries[0] = -1
    of = (step % per_chunk, tap, sets[slice_, warp, step, tap])
    entries[:, torch.arange(len(list_)) + 2 * list_] = torch.stack(of).int()
    in_chunk = torch.zeros(lists, chunks, dtype=torch.int64)
    in_chunk.index_put_((list_, step // per_chunk), torch.ones_like(list_), accumulate=True)
    ends = pad(in_chunk.cumsum(1), (1, 0))
    before = pad(in_chunk.sum(1).cumsum(0), (1, 0))[:-1]
    starts = ends + (before + 2 * torch.arange(lists))[:, None]

    at = kept.nonzero()  # (blocks, 5), in order of use
    own = torch.bincount(at[:, 0] * warps + at[:, 1], minlength=lists)
    blocks = pad(own.cumsum(0), (1, 0))[:-1]
    filters = members[at[:, 0], at[:, 1] * config.groups + at[:, 4]]  # (blocks, width)
    source = sources(table, found, filters, at[:, 2], at[:, 3])
    source = source[:, lane_order(capability, config.eights)]
    source = pad(source, (0, 0, 0, 1), value=-1)
    return Tables(
        found.order,
        *entries,
        starts.int(),
        blocks.int(),
        stands_of(found, config.chunk),
        columns.to(torch.int16),
        eights.int(),
        source.int(),
    )
