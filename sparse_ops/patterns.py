"""Patterns: the regularity of one mask, and how it is recognised.

A periodic pattern is a list of supports. The kernel from input channel i to output channel o has

    support[(o + i) mod period]

so that each filter starts one support later than the filter before it. A support is the set of kept
taps of one kernel, counted row by row: tap = y * kW + x.

Source of the named patterns: Kundu et al., "Pre-defined Sparsity for Low-Complexity Convolutional
Neural Networks", arXiv:2001.10710. PSn_Pm has n taps in every kernel; PSDn_Pm has n taps in m - 1
kernels of a period and all of them in the last.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

# A longer period would be found in almost no mask by anything but chance.
MAX_PERIOD = 64


class Pattern(Protocol):
    """The regularity of one mask."""

    name: ClassVar[str]

    def mask(self, shape: tuple[int, ...]) -> Tensor:
        """The mask of that shape, bool, True = kept."""


@dataclass(frozen=True)
class Periodic:
    """Kernels whose supports repeat along input and output channels.

    Attributes:
        supports: the kept taps of each slot, sorted; slot = (o + i) mod period.
        kernel_size: (kH, kW).

    Raises:
        ValueError: no support at all, or a tap outside of the kernel.
    """

    supports: tuple[tuple[int, ...], ...]
    kernel_size: tuple[int, int] = (3, 3)
    name: ClassVar[str] = "periodic"

    def __post_init__(self) -> None:
        supports = tuple(tuple(sorted({int(t) for t in support})) for support in self.supports)
        object.__setattr__(self, "supports", supports)
        object.__setattr__(self, "kernel_size", tuple(int(k) for k in self.kernel_size))
        if len(self.kernel_size) != 2 or min(self.kernel_size) < 1:
            raise ValueError(f"kernel_size must be two numbers above 0, got {self.kernel_size}")
        if not supports:
            raise ValueError("supports must name at least one support, got none")
        taps = self.kernel_size[0] * self.kernel_size[1]
        for support in supports:
            if support and (support[0] < 0 or support[-1] >= taps):
                raise ValueError(f"taps must be in [0, {taps}), got {support}")

    @classmethod
    def cycle(
        cls,
        variants: Iterable[Iterable[int]],
        period: int | None = None,
        *,
        dense: bool = False,
        kernel_size: tuple[int, int] = (3, 3),
    ) -> "Periodic":
        """Repeats `variants` to fill a period, whose last kernel is whole if `dense`.

        Args:
            variants: supports, in the order in which they follow each other.
            period: default: one of each, and the whole kernel.
            dense: whether the last slot of a period keeps all taps.
            kernel_size: (kH, kW).

        Raises:
            ValueError: the period is too short, or some tap is kept by no kernel.
        """
        listed = [tuple(v) for v in variants]
        length = len(listed) + dense if period is None else period
        if length - dense < 1 or not listed:
            raise ValueError(f"period {length} leaves no room for a variant")
        supports = [listed[slot % len(listed)] for slot in range(length - dense)]
        taps = kernel_size[0] * kernel_size[1]
        if dense:
            supports.append(tuple(range(taps)))
        if unused := set(range(taps)) - {tap for support in supports for tap in support}:
            raise ValueError(f"taps {sorted(unused)} are kept by no kernel of the period")
        return cls(tuple(supports), kernel_size)

    @property
    def period(self) -> int:
        return len(self.supports)

    def table(self) -> Tensor:
        """(period, kH*kW), bool: the supports as rows."""
        table = torch.zeros(self.period, self.kernel_size[0] * self.kernel_size[1]).bool()
        for slot, support in enumerate(self.supports):
            table[slot, list(support)] = True
        return table

    def mask(self, shape: tuple[int, ...]) -> Tensor:
        """(O, I, kH, kW), bool.

        Raises:
            ValueError: shape is not four numbers that end in this pattern's kernel size.
        """
        if len(shape) != 4 or tuple(shape[2:]) != self.kernel_size:
            raise ValueError(
                f"shape must be (O, I, {self.kernel_size[0]}, {self.kernel_size[1]}), "
                f"got {tuple(shape)}"
            )
        slots = torch.arange(shape[0])[:, None] + torch.arange(shape[1])  # (O, I)
        return self.table()[slots % self.period].reshape(shape)

    @classmethod
    def recognise(cls, mask: Tensor) -> "Periodic | None":
        """The pattern of the shortest period that gives exactly this mask; None if there is none.

        `mask` is (O, I, kH, kW). A period has to repeat to be one: it is at most max(O, I).
        """
        if mask.dim() != 4 or mask.numel() == 0:
            return None
        O, I, kH, kW = mask.shape
        # The same kernel all along each anti-diagonal: most masks end here.
        if not torch.equal(mask[1:, :-1], mask[:-1, 1:]):
            return None
        slots = torch.cat([mask[0], mask[1:, -1]]).flatten(1)  # (O + I - 1): those kernels
        for period in range(1, min(MAX_PERIOD, max(O, I), len(slots)) + 1):
            if torch.equal(slots[period:], slots[:-period]):
                rows = slots[:period]
                supports = tuple(tuple(row.nonzero().flatten().tolist()) for row in rows)
                return cls(supports, (kH, kW))
        return None


@dataclass(frozen=True)
class Channels:
    """Whole output channels (filters) and whole input channels removed, nothing else.

    Attributes:
        out_channels: the output channels that are kept, ascending.
        in_channels: the input channels that are kept, ascending.
    """

    out_channels: tuple[int, ...]
    in_channels: tuple[int, ...]
    name: ClassVar[str] = "channels"

    def __post_init__(self) -> None:
        for field in ("out_channels", "in_channels"):
            kept = tuple(int(c) for c in getattr(self, field))
            if list(kept) != sorted(set(kept)) or (kept and kept[0] < 0):
                raise ValueError(f"{field} must be ascending and not negative, got {kept}")
            object.__setattr__(self, field, kept)

    def mask(self, shape: tuple[int, ...]) -> Tensor:
        """(O, I, ...), bool.

        Raises:
            ValueError: a kept channel is not in the shape.
        """
        for kept, size in ((self.out_channels, shape[0]), (self.in_channels, shape[1])):
            if kept and kept[-1] >= size:
                raise ValueError(f"channel {kept[-1]} is kept, but shape {tuple(shape)} has {size}")
        mask = torch.zeros(shape, dtype=torch.bool)
        rows = torch.tensor(self.out_channels, dtype=torch.long)
        mask[rows[:, None], torch.tensor(self.in_channels, dtype=torch.long)] = True
        return mask

    @classmethod
    def recognise(cls, mask: Tensor) -> "Channels | None":
        """The kept channels of a mask (O, I, ...) that removes only whole ones, or None.

        A mask that removes nothing is not a pattern.
        """
        if mask.dim() < 2 or mask.numel() == 0:
            return None
        per_kernel = mask.flatten(2) if mask.dim() > 2 else mask[..., None]
        alive = per_kernel.any(2)
        out, inp = alive.any(1), alive.any(0)
        if not torch.equal(per_kernel, (out[:, None] & inp)[..., None].expand_as(per_kernel)):
            return None
        if bool(out.all()) and bool(inp.all()):
            return None
        kept = tuple(out.nonzero().flatten().tolist())
        return cls(kept, tuple(inp.nonzero().flatten().tolist()))


CORNERS = ((0, 1, 3, 4), (1, 2, 4, 5), (3, 4, 6, 7), (4, 5, 7, 8))
PAIRS = ((0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8))
SINGLES = tuple((tap,) for tap in range(9))

PS4_P4 = Periodic.cycle(CORNERS)
PS2_P6 = Periodic.cycle(PAIRS)
PS1_P9 = Periodic.cycle(SINGLES)
PSD4_P8 = Periodic.cycle(CORNERS, 8, dense=True)
PSD4_P16 = Periodic.cycle(CORNERS, 16, dense=True)
PSD2_P8 = Periodic.cycle(PAIRS, 8, dense=True)
PSD2_P16 = Periodic.cycle(PAIRS, 16, dense=True)
PSD1_P8 = Periodic.cycle(SINGLES, 8, dense=True)
PSD1_P16 = Periodic.cycle(SINGLES, 16, dense=True)

# By name, for command lines and files.
NAMED: dict[str, Periodic] = {
    "PS4_P4": PS4_P4,
    "PS2_P6": PS2_P6,
    "PS1_P9": PS1_P9,
    "PSD4_P8": PSD4_P8,
    "PSD4_P16": PSD4_P16,
    "PSD2_P8": PSD2_P8,
    "PSD2_P16": PSD2_P16,
    "PSD1_P8": PSD1_P8,
    "PSD1_P16": PSD1_P16,
}


def default_pattern(kernel_size: tuple[int, int]) -> Periodic:
    """The pattern of layers that name none: PSD2_P8 for 3×3, and its rule for other kernels.

    Two neighbouring taps of a row in every kernel, all such pairs in turn, and the whole kernel at
    the end of a period, which is the least multiple of 8 that has room for all of them. It keeps
    32 % of 3×3, 12 % of 5×5, 6 % of 7×7. Kernels of one column pair taps of neighbouring rows.

    Raises:
        ValueError: the kernel has one tap, so that nothing of it could be left out.
    """
    kH, kW = kernel_size
    if kH * kW < 2:
        raise ValueError(
            f"there is no default pattern for kernels of {kH}×{kW}: they have no taps to leave "
            "out; there is one for every larger size, and `pattern=` takes any Periodic"
        )
    starts = [y * kW + x for y in range(kH) for x in range(kW - 1)] or list(range(kH - 1))
    period = 8 * (len(starts) // 8 + 1)
    return Periodic.cycle([(s, s + 1) for s in starts], period, dense=True, kernel_size=(kH, kW))
