"""What gpu_run.py packs weights as, for the stages that build, check and time."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sparse_ops import patterns
from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.functional import channel_pruned_conv2d, csr_conv2d, periodic_conv2d

SPARSITIES = (0.9, 0.95, 0.99)


def side_by_side(mask: Tensor, period: int) -> Tensor:
    """A periodic mask with the channels of each class side by side, as in a sorted model."""
    orders = ((torch.arange(n) % period).argsort(stable=True) for n in mask.shape[:2])
    rows, columns = orders
    return mask[rows][:, columns]


def packed_convs(weight: Tensor, some: bool = False) -> Iterator[tuple[str, Callable, Any]]:
    """(what is removed, the operator, the packed weight); only one of each kind if `some`."""
    shape, device = tuple(weight.shape), weight.device
    for name in ("PSD2_P8",) if some else ("PSD2_P8", "PSD4_P16", "PSD1_P16", "PS2_P6"):
        pattern = patterns.NAMED[name]
        mask = pattern.mask(shape)
        beside = side_by_side(mask, pattern.period)
        yield f"{name} sorted", csr_conv2d, CSRWeight.pack(weight, beside.to(device))
        yield name, periodic_conv2d, PeriodicWeight.pack(weight, mask.to(device), pattern)
    for sparsity in SPARSITIES[:1] if some else SPARSITIES:
        mask = torch.rand(shape, device=device) >= sparsity
        yield f"{sparsity:.0%} of weights", csr_conv2d, CSRWeight.pack(weight, mask)
    for part in (2,) if some else (2, 4):
        kept = (range(0, shape[0], part), range(0, shape[1], part))
        mask = patterns.Channels(*(tuple(k) for k in kept)).mask(shape).to(device)
        packed = ChannelPrunedWeight.pack(weight, mask)
        yield f"all but 1/{part} of channels", channel_pruned_conv2d, packed
