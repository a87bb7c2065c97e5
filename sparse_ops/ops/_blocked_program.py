"""What `blocked_conv2d` is given of a packed weight: filters in groups that read the same columns.

Filters of equal support are computed together, up to as many as a kernel's registers hold; what is
left over alone, or, where it keeps so much that a shared load is worth more than the zeros that
come in, with its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_ops.formats import PackedWeight
from sparse_ops.ops.blocked import LANES

# Offsets that follow the last group's, for kernels look ahead.
SPARE = 8
# The filters that kernels take at once.
MOST_ROWS = {"avx512": 8, "avx2": 4, "neon": 8, "scalar": 4}
# What a weight costs in a group, as a part of what it costs alone (ResNet-18's layers, Zen 5: 105
# and 45 GMAC/s).
SHARED_COST = 0.45


@dataclass(frozen=True, eq=False)
class Program:
    """A weight for the kernels, for images of any size.

    Attributes:
        starts: (groups + 1), int32: where each group's columns begin.
        rows: (groups), int32: how many filters it has.
        filters: (O), int32, group by group.
        columns: (columns), int32: (i * kH + y) * kW + x of each, i among all input channels.
        kernel: (kH, kW).
        values: for each group (columns, rows), float32.
    """

    starts: Tensor
    rows: Tensor
    filters: Tensor
    columns: Tensor
    kernel: tuple[int, int]
    values: Tensor

    def offsets(
        self, height: int, width: int, shift: Sequence[int], dilation: Sequence[int]
    ) -> Tensor:
        """(columns + SPARE), int32: where columns are in blocked planes of height × width.

        Args:
            height, width: with halo.
            shift: by how many pixels the halo is larger than the padding.
        """
        kH, kW = self.kernel
        columns = self.columns.long()
        lines = columns // kW % kH * dilation[0] + shift[0]
        pixels = columns % kW * dilation[1] + shift[1]
        offsets = ((columns // (kH * kW) * height + lines) * width + pixels) * LANES
        if offsets.numel() and int(offsets.max()) >= 2**31:
            raise ValueError("a block of images must be under 2^31 values")
        return torch.cat([offsets, offsets.new_zeros(SPARE)]).int()


def program(weight: PackedWeight, groups: int, most_rows: int) -> Program:
    """The program of a weight (O, I / groups, kH, kW), float32 on the CPU."""
    O, per_group, kH, kW = weight.shape
    mask = (weight.scatter(torch.ones_like(weight.values)) != 0).reshape(O, -1)
    dense = weight.to_dense().reshape(O, -1)
    filters, columns, values = [], [], []
    for of_group in torch.arange(O).chunk(groups):
        first = int(of_group[0])
        for together in _together(mask[of_group], most_rows):
            own = together + first
            kept = mask[own].any(0).nonzero()[:, 0]
            filters.append(own)
            columns.append(kept + first // (O // groups) * per_group * kH * kW)
            values.append(dense[own][:, kept].t().reshape(-1))
    counts = torch.tensor([0] + [each.numel() for each in columns])
    return Program(
        counts.cumsum(0).int(),
        torch.tensor([each.numel() for each in filters], dtype=torch.int32),
        torch.cat(filters).int(),
        torch.cat(columns).int(),
        (kH, kW),
        torch.cat(values),
    )


def _together(mask: Tensor, most: int) -> list[Tensor]:
    """Which filters of a mask (O, columns) are computed together."""
    found: list[Tensor] = []
    alone: list[Tensor] = []
    for alike in _alike(mask):
        # In as few parts as it takes, of equal size or nearly.
        for part in alike.tensor_split(-(-alike.numel() // most)):
            (found if part.numel() > 1 else alone).append(part)
    for some in torch.cat(alone).sort().values.split(most) if alone else ():
        kept = mask[some]
        shared = int(kept.any(0).sum()) * most * SHARED_COST
        if some.numel() == most and shared < int(kept.sum()):
            found.append(some)
        else:
            found += list(some.split(1))
    return found


def _alike(mask: Tensor) -> list[Tensor]:
    """The rows of a mask, those that are equal together."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(-(2**62), 2**62, (mask.shape[1],), generator=generator)
    by_sum: dict[int, list[int]] = {}
    for row, number in enumerate((mask * numbers).sum(1).tolist()):
        by_sum.setdefault(number, []).append(row)
    found = []
    for rows in by_sum.values():
        left = torch.tensor(rows)
        # Equal sums are equal rows, all but surely.
        while left.numel():
            same = (mask[left] == mask[left[0]]).all(1)
            found.append(left[same])
            left = left[~same]
    return found
