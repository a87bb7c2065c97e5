"""What gpu_run.py packs weights as, for the stages that build, check and time."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparse_ops import patterns
from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.functional import channel_pruned_conv2d, csr_conv2d, periodic_conv2d

SPARSITIES = (0.9, 0.95, 0.99)
# What a card is asked first: the kinds that its kernels were made for.
FIRST = ("PSD2_P8 sorted", "PSD1_P8 sorted", "PSD4_P16 sorted", "99% of weights")
FIRST += ("all but 1/2 of channels",)
# Whose kernels run periodic ones.
OURS = ("cuda", "wgmma", "triton")
# One of each kind.
SOME = ("PSD2_P8 sorted", "PSD2_P8", "90% of weights", "all but 1/2 of channels")
ALL = (*FIRST, "PSD2_P8", "PSD1_P8", "PSD4_P16", "PS2_P6 sorted", "PS2_P6")
ALL += ("90% of weights", "95% of weights", "all but 1/4 of channels")


class Pack(NamedTuple):
    """One way to remove weights of a layer.

    Attributes:
        removed: what is removed, in words.
        run: the operator.
        weight: the packed weight.
        backends: whose kernels are to run it.
        last: whether its images are in channels_last.
    """

    removed: str
    run: Callable[..., Tensor]
    weight: Any
    backends: tuple[str, ...]
    last: bool = True


def side_by_side(mask: Tensor, period: int) -> Tensor:
    """A periodic mask with the channels of each class side by side, as in a sorted model."""
    orders = ((torch.arange(n) % period).argsort(stable=True) for n in mask.shape[:2])
    rows, columns = orders
    return mask[rows][:, columns]


def half_of(count: int, part: int = 2) -> range:
    """The channels that are left when all but one in `part` are removed."""
    return range(0, count, part)


def pack(weight: Tensor, kind: str) -> Pack:
    """A weight (O, I, kH, kW) packed as one of `ALL`."""
    shape, device, first = tuple(weight.shape), weight.device, kind.split()[0]
    if first in patterns.NAMED:
        pattern = patterns.NAMED[first]
        mask = pattern.mask(shape)
        if kind.endswith("sorted"):
            mask = side_by_side(mask, pattern.period).to(device)
            return Pack(kind, csr_conv2d, CSRWeight.pack(weight, mask), OURS)
        packed = PeriodicWeight.pack(weight, mask.to(device), pattern)
        return Pack(kind, periodic_conv2d, packed, OURS)
    if first.endswith("%"):
        # Its kernel reads neighbouring pixels of a channel.
        mask = torch.rand(shape, device=device) >= float(first[:-1]) / 100
        return Pack(kind, csr_conv2d, CSRWeight.pack(weight, mask), ("triton",), False)
    part = int(kind.split("/")[1].split()[0])
    kept = (half_of(shape[0], part), half_of(shape[1], part))
    mask = patterns.Channels(*(tuple(k) for k in kept)).mask(shape).to(device)
    return Pack(kind, channel_pruned_conv2d, ChannelPrunedWeight.pack(weight, mask), ("triton",))


def packs(weight: Tensor, kinds: Iterable[str]) -> Iterator[Pack]:
    """The weight packed as each of the kinds."""
    for kind in kinds:
        yield pack(weight, kind)
