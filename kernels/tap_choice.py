"""How cuda/periodic_conv2d.cuh is cut for a problem and a card.

Nothing has to be tuned to run, and nothing has been measured: what a configuration is chosen by is
arithmetic, what a block asks of tensor cores, shared memory and L2 by the figures of an H100.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import pad

from ._geometry import INT32_MAX, Geometry
from .configs import TapConfig, WgmmaConfig
from .tap_tables import Alike, by_warp, groups_of

Config = TapConfig
# Bytes of shared memory that a block may have; 99 KiB on those that are not named, as 8.6 and 8.9.
SHARED = {(7, 0): 96 << 10, (7, 2): 96 << 10, (7, 5): 64 << 10}
SHARED |= {(8, 0): 163 << 10, (8, 7): 163 << 10, (9, 0): 227 << 10, (10, 0): 227 << 10}
OTHER_SHARED = 99 << 10
CHUNKS, PIXEL_WARPS = (128, 64, 32, 16), (4, 2, 1)


class Maps(NamedTuple):
    """The sizes that a tile of pixels depends on."""

    images: int
    size: tuple[int, int]
    out: tuple[int, int]
    geometry: Geometry
    unpadded: bool = False

    @classmethod
    def of(cls, x: Tensor, geometry: Geometry) -> "Maps":
        return cls(x.shape[0], (x.shape[2], x.shape[3]), geometry.out(x), geometry)

    @property
    def padded(self) -> tuple[int, int]:
        """(Hp, Wp): what an image and a row are apart, in positions."""
        if self.unpadded:
            return self.size
        (height, width), (down, right) = self.size, self.geometry.padding
        return height + down, width + right

    @property
    def pixels(self) -> int:
        return self.images * self.out[0] * self.out[1]

    def shift(self, taps: Tensor) -> Tensor:
        """How many positions a tap is away from the first one."""
        (_, kernel_w), (down, right) = self.geometry.kernel, self.geometry.dilation
        return taps // kernel_w * down * self.padded[1] + taps % kernel_w * right

    def positions(self, tile: int) -> int:
        """The most positions that a tile of so many pixels reads, first to last."""
        (out_h, out_w), (stride_h, stride_w) = self.out, self.geometry.stride
        high, wide = self.padded
        steps = min(tile, self.pixels) - 1
        # From a pixel to the next it is stride_w, and at the end of a row or an image that much
        # more (less, in a row whose last window begins in the padding).
        row = stride_h * wide - out_w * stride_w
        image = (high - (out_h - 1) * stride_h) * wide - out_w * stride_w
        rows, images = -(-steps // out_w), -(-steps // (out_h * out_w))
        more = max(0, row) * rows + max(0, image - max(0, row)) * images
        return steps * stride_w + more + self.reach + 1

    @property
    def reach(self) -> int:
        """How many positions the last tap is away from the first one."""
        (kernel_h, kernel_w), (down, right) = self.geometry.kernel, self.geometry.dilation
        return (kernel_h - 1) * down * self.padded[1] + (kernel_w - 1) * right


def refuses_maps(maps: Maps, capability: tuple[int, int]) -> str | None:
    """Why there is no configuration for maps of such sizes, or None if there is one.

    Without the sizes themselves: torch.compile may have them as symbols, which have no words.
    """
    geometry = maps.geometry
    sides = (geometry.kernel, geometry.padding, geometry.dilation)
    for kernel, padding, dilation in zip(*sides, strict=True):
        if padding > (reach := dilation * (kernel - 1)):
            return f"a padding of {padding} is more than the {reach} that the kernel reaches"
    high, wide = maps.padded
    most = max((maps.images + 1) * high * wide, maps.pixels + 256)
    if most > INT32_MAX:
        return "there are over 2^31 pixels, padding included"
    least = TapConfig(1, 1, 1, 1, CHUNKS[-1], 1)
    have = SHARED.get(capability, OTHER_SHARED)
    if shared_bytes(least, maps.positions(least.tile), capability) > have:
        return f"a tile of the output reads more of x than the {have} bytes that a block has"
    return None


def shared_bytes(
    config: TapConfig | WgmmaConfig, positions: int, capability: tuple[int, int]
) -> int:
    """What a block takes: the chunks and where they come from; later, the sums of some rows."""
    if isinstance(config, WgmmaConfig):
        place = -(-(-(-positions // 8) * 8 + 8) * config.pitch // 128) * 128
        rings = config.places * place + config.stages * config.stage_bytes
        listed = config.slices * config.slice
        return rings + 16 * (config.places + config.stages) + 4 * listed + listed // 2
    unit = 16 if capability >= (7, 5) else 32
    sums = 4 * config.pixel_warps * unit * (config.slice + 4)
    return max(positions * (2 * config.pitch + 4), sums)


def shapes(filters: int, capability: tuple[int, int]) -> list[TapConfig]:
    """How filters can be cut; chunks and warps over pixels are chosen for each problem."""
    # 64 filters of 64 pixels are 128 sums a thread; before 8.0 the rest would not fit beside them.
    most = 8 if capability >= (8, 0) else 4
    whole = -(-filters // 8)
    found = []
    for warps in (4, 2, 1):
        for together in (8, 4, 2, 1):
            if together > most or (together * warps > whole and together * warps > 1):
                continue
            # Narrow blocks read x once for each: only where there are no more filters.
            if together * warps < min(8, whole // 2):
                continue
            for eights in (8, 4, 2, 1):
                if together % eights == 0:
                    found.append(TapConfig(eights, together // eights, 2, warps, 64, 1))
    return found


class Work(NamedTuple):
    """What a slice of filters takes for each 64 pixels, on average of the slices.

    Attributes:
        loads: entries: 16 channels of 64 pixels from shared memory.
        products: of 8 filters with one entry.
        uneven: chunk -> how much longer warps wait for each other than if all had as much to do.
    """

    loads: float
    products: float
    uneven: dict[int, float]


def work_of(found: Alike, shape: TapConfig) -> Work:
    kept = by_warp(found, groups_of(found, shape)[0], shape)
    slices, warps, steps = kept.shape[:3]
    loads, products = kept.any(4).sum(3), kept.sum((3, 4)) * shape.eights  # (slices, warps, steps)
    own = 16.0 * loads + 5.2 * products
    uneven, whole = {}, max(1.0, float(own.sum()))
    for chunk in CHUNKS:
        parts = pad(own, (0, -steps % (chunk // 16))).unflatten(2, (-1, chunk // 16)).sum(3)
        uneven[chunk] = float(parts.amax(1).sum()) * warps / whole
    return Work(float(loads.sum()) / slices, float(products.sum()) / slices, uneven)


def estimate(config: TapConfig, work: Work, blocks: int, span: int, processors: int) -> float:
    """Cycles, about: for choosing, not for telling.

    Args:
        blocks: how many there are.
        span: positions of a tile times channels of x.
        processors: multiprocessors of the card.
    """
    # mma.sync m16n8k16 in 0.8 cycles; shared memory 128 bytes a cycle; L2 26 bytes a cycle.
    tensor = 3.2 * work.products * config.pixel_warps
    shared = (16 * work.loads + 2 * work.products) * config.pixel_warps + span / 32
    memory = (2 * span + 256 * work.products) / 26
    block = max(tensor, shared, memory) * work.uneven[config.chunk] + 2000
    rounds, rest = divmod(blocks, config.blocks * processors)
    return (rounds * config.blocks + -(-rest // processors)) * block


def resident(config: TapConfig, maps: Maps, capability: tuple[int, int]) -> int:
    """How many blocks a multiprocessor can hold; 0 if a block does not fit, or is none."""
    together, most = config.eights * config.groups, SHARED.get(capability, OTHER_SHARED)
    if together > (8 if capability >= (8, 0) else 4) or config.threads % (config.chunk // 8):
        return 0
    # 128 registers a thread for 32 filters a warp, all of 255 for 64 (or on Volta).
    threads = 512 if together <= 4 and capability >= (7, 5) else 256
    shared = shared_bytes(config, maps.positions(config.tile), capability)
    if config.threads > threads or shared > most:
        return 0
    # A block takes 1 KiB more than it asks for.
    return max(1, min(threads // config.threads, (most + 1024) // (shared + 1024)))


def made(numbers: Sequence[int], found: Alike) -> TapConfig:
    """The configuration of these numbers for a weight."""
    return TapConfig(*numbers)


def choose(
    found: Alike, maps: Maps, channels: int, capability: tuple[int, int], processors: int
) -> TapConfig | None:
    """The configuration of the least estimate; None if x is too wide for shared memory."""
    filters = len(found.classes)
    best: tuple[float, TapConfig] | None = None
    for shape in shapes(filters, capability):
        work = work_of(found, shape)
        for chunk, warps in itertools.product(CHUNKS, PIXEL_WARPS):
            if chunk > 16 and chunk >= 2 * channels:
                continue
            config = shape._replace(chunk=chunk, pixel_warps=warps)
            blocks = resident(config, maps, capability)
            if not blocks:
                continue
            config = config._replace(blocks=blocks)
            count = -(-filters // config.slice) * -(-maps.pixels // config.tile)
            span = maps.positions(config.tile) * channels
            cycles = estimate(config, work, count, span, processors)
            if best is None or cycles < best[0]:
                best = cycles, config
    return best and best[1]


def ranked(
    found: Alike, maps: Maps, channels: int, capability: tuple[int, int], processors: int
) -> list[TapConfig]:
    """What `choose` takes, if anything."""
    best = choose(found, maps, channels, capability, processors)
    return [] if best is None else [best]
