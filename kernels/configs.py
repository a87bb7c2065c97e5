"""How kernels are cut into programs: a shipped default for every kernel, type and architecture.

Nothing has to be tuned to run. The numbers come from arithmetic (registers, shared memory, the
shapes of matrix instructions), checked by compiling; none has been measured on a card.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class SetConfig(NamedTuple):
    """For set_conv2d: periodic, channel-pruned, and unstructured weights of rows that are alike."""

    block_pixels: int
    block_filters: int
    block_columns: int
    num_warps: int
    num_stages: int


class RowConfig(NamedTuple):
    """For csr_conv2d: rows that share too little."""

    block_pixels: int
    block_columns: int
    num_warps: int
    num_stages: int


class LinearConfig(NamedTuple):
    """For csr_linear; `splits` is into how many parts a row is cut."""

    block_batch: int
    block_columns: int
    splits: int
    num_warps: int
    num_stages: int


class TapConfig(NamedTuple):
    """For periodic_conv2d in CUDA; `cuda/periodic_conv2d.cuh` says what the numbers are.

    Attributes:
        eights: filters of a group, in eights: 1, 2, 4 or 8.
        groups: groups of a warp, at most 8.
        pixel_warps: warps of a block over pixels, 64 each.
        filter_warps: warps of a block over filters.
        chunk: channels that are in shared memory at once, times two.
        blocks: blocks that a multiprocessor is to hold.
    """

    eights: int
    groups: int
    pixel_warps: int
    filter_warps: int
    chunk: int
    blocks: int

    @property
    def kernel(self) -> str:
        """Its file and its name."""
        return "periodic_conv2d"

    @property
    def feature(self) -> str:
        """What the names of architectures end with for it."""
        return ""

    @property
    def width(self) -> int:
        """Filters of a group."""
        return 8 * self.eights

    @property
    def slice(self) -> int:
        """Filters of a block."""
        return self.width * self.groups * self.filter_warps

    @property
    def tile(self) -> int:
        """Pixels of a block."""
        return 64 * self.pixel_warps

    @property
    def threads(self) -> int:
        return 32 * self.pixel_warps * self.filter_warps

    @property
    def pitch(self) -> int:
        """Bytes of a position in shared memory."""
        return 2 * self.chunk + 16


# Warpgroups that multiply -> registers of their threads, and of those that copy: together, no more
# than threads begin with. None change hands where all may have as many as there can be.
REGISTERS = {1: (0, 0), 2: (232, 40), 3: (152, 56)}


class WgmmaConfig(NamedTuple):
    """For periodic_conv2d by wgmma; `cuda/periodic_conv2d_wgmma.cuh` says what the numbers are.

    Attributes:
        eights: filters of a group, in eights: 1, 2, 4 or 8.
        groups: groups of a block, of at most 256 filters.
        warpgroups: four warps each that multiply, 64 pixels for each four: 1, 2 or 3.
        chunk: channels of the pixels that are copied together.
        places: for as many chunks there is room.
        stages: so many times there is room for the weights of 16 channels.
        at_once: taps whose pixels are loaded together.
        loops: 1: neighbouring steps of 16 channels that keep the same are a loop; or 0.
        stage: the most groups by taps that keep weights of 16 channels. This and the next follow
            from the weight.
        slices: of so many filters as a block has.
    """

    eights: int
    groups: int
    warpgroups: int
    chunk: int
    places: int
    stages: int
    at_once: int
    loops: int
    stage: int = 0
    slices: int = 0

    @property
    def kernel(self) -> str:
        """Its file and its name."""
        return "periodic_conv2d_wgmma"

    @property
    def feature(self) -> str:
        """What the names of architectures end with for it."""
        return "a"

    @property
    def filter_warps(self) -> int:
        """All warps of a block have the same filters."""
        return 1

    @property
    def blocks(self) -> int:
        """Of a multiprocessor."""
        return 1

    @property
    def registers(self) -> tuple[int, int]:
        """Of a thread that multiplies, and of one that copies."""
        return REGISTERS[self.warpgroups]

    @property
    def width(self) -> int:
        """Filters of a group."""
        return 8 * self.eights

    @property
    def slice(self) -> int:
        """Filters of a block."""
        return self.width * self.groups

    @property
    def tile(self) -> int:
        """Pixels of a block."""
        return 64 * self.warpgroups

    @property
    def threads(self) -> int:
        """With the four warps that copy."""
        return 128 * (self.warpgroups + 1)

    @property
    def pitch(self) -> int:
        """Bytes of a position in shared memory."""
        return 2 * self.chunk + 16

    @property
    def stage_bytes(self) -> int:
        """The weights of a stage in shared memory."""
        return self.stage * 256 * self.eights


# What is compiled ahead of time where it is asked for: what `tap_choice.choose` takes most often
# for ResNet-18 and VGG-16 in the named patterns, on cards like an H100 and an A100.
AHEAD = tuple(
    TapConfig(*numbers)
    for numbers in (
        (2, 4, 4, 2, 128, 1),
        (4, 2, 2, 4, 128, 1),
        (4, 2, 4, 1, 128, 1),
        (1, 8, 4, 1, 64, 1),
        (1, 8, 4, 1, 64, 2),
        (2, 1, 1, 4, 128, 2),
        (2, 1, 1, 4, 128, 3),
        (2, 4, 2, 1, 128, 2),
        (4, 2, 1, 1, 128, 4),
        (2, 4, 4, 1, 64, 1),
        (2, 4, 2, 2, 128, 1),
        (8, 1, 4, 2, 64, 1),
        (4, 2, 2, 1, 128, 1),
        (4, 2, 4, 2, 64, 1),
    )
)


def capability(device: torch.device) -> tuple[int, int]:
    """Of a card; (8, 0) where there is none, as in the interpreter."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (8, 0)


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _power_of_two(n: int, least: int, most: int) -> int:
    """The least power of two that is not under n, within bounds that are powers of two."""
    return min(max(least, 1 << max(0, n - 1).bit_length()), most)


def set_config(x: Tensor, filters: int, run: int = 1) -> SetConfig:
    """A default for sets of that many filters, whose columns come in runs (`sets.Sets`)."""
    # 16: what tl.dot wants of a half-precision product's sides in all versions of Triton.
    width = _power_of_two(filters, 16, 128)
    halves = x.element_size() == 2
    major = capability(x.device)[0]
    if major < 8:
        # No tensor cores from Triton here: the product is multiply-adds in registers.
        return SetConfig(64, min(width, 32), 16, 4, 1)
    if major >= 9 and halves:
        # wgmma is 64 pixels high for each group of 4 warps. 64 columns or 128 filters, or 4 warps,
        # spill: the gathered tile has an address in two registers for each of its elements.
        if run >= 64 and width >= 64:
            # A run has one address: 40 % fewer instructions than with 32 columns.
            return SetConfig(128, 64, 64, 8, 3)
        if run >= 32 and width == 32:
            return SetConfig(256, 32, 32, 8, 3)
        return SetConfig(128, min(width, 64), 32, 8, 3)
    if halves:
        # 8 warps: with 4, 64 filters take all 255 registers.
        return SetConfig(64, min(width, 64), 32, 8 if width >= 64 else 4, 3)
    # 64 filters of float32 spill, be it in 4 warps (ieee) or in 8 (tf32).
    return SetConfig(64, min(width, 32), 16, 4, 2)


def weight_config(x: Tensor, filters: int) -> SetConfig:
    """A default for the gradient in the weights of sets of that many filters."""
    width = _power_of_two(filters, 16, 64)
    halves, major = x.element_size() == 2, capability(x.device)[0]
    if major >= 9 and halves:
        # Here columns are the rows of the product, and wgmma wants 64 of them.
        return SetConfig(32, width, 64, 4, 2)
    if major >= 8 and halves:
        return SetConfig(32, width, 32, 4, 2)
    return SetConfig(32, min(width, 32), 16, 4, 1)


def row_config(x: Tensor) -> RowConfig:
    """A default for filters that share nothing."""
    return RowConfig(128, 8, 4, 1)


# Images of a program of csr_linear, which has code for each.
MOST_IMAGES = 8


def linear_config(x: Tensor, rows: int, nnz: int) -> LinearConfig:
    """A default for a product of that many rows and weights."""
    batch = x.shape[0]
    block_batch = _power_of_two(batch, 1, MOST_IMAGES)
    per_row = max(1, nnz // max(1, rows))
    # A lane reads 8 weights at once, or what a row has for it; 8 of 4 images spill. One warp:
    # nothing is exchanged but the sums, at the end and without a barrier.
    block_columns = _power_of_two(per_row, 32, 256 if block_batch < 4 else 128)
    programs = rows * -(-batch // block_batch)
    # 16 warps for each multiprocessor hide memory's latency; less than a block hides none.
    wanted = -(-16 * _multiprocessors(x.device) // programs)
    splits = max(1, min(wanted, per_row // block_columns))
    return LinearConfig(block_batch, block_columns, splits, 1, 2)
