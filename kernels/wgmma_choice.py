"""How cuda/periodic_conv2d_wgmma.cuh is cut for a problem: by arithmetic, as in `tap_choice`, with
what an H100 was measured to take. The kernel is for compute capability 9.0 alone.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._geometry import INT32_MAX
from .configs import REGISTERS, WgmmaConfig
from .tap_choice import SHARED, Maps, shared_bytes
from .tap_tables import DEPTH, Alike
from .wgmma_tables import arranged, in_order, kept_by, stage_of
from .wgmma_text import schedule

Config = WgmmaConfig
CAPABILITY = (9, 0)
CHUNKS = (64, 32, 16)
# Of a kernel; as in tile.cuh.
MOST_TAPS = 25
# (places, stages): the first that fits is taken.
RINGS = ((3, 6), (4, 4), (3, 5), (3, 4), (2, 5), (3, 3), (2, 4), (2, 3), (2, 2))
# Eights of filters of a block: 128 sums a thread; with three warpgroups, 64.
MOST_EIGHTS = 32
# The most filters of a block for whose sums there may be loops, else registers run out.
MOST_IN_LOOPS = 128
# Measured on an H100: cycles of a product of 64 pixels by 16 channels, half as many as it has
# filters but not under these; bytes of a cycle from shared memory, and from L2.
LEAST_PRODUCT, SHARED_BYTES, L2_BYTES = 13.1, 128.0, 30.0
# Fitted to what 20 layers took: what of the time for L2 shows beside the rest, what a tile takes
# besides, and what each slice adds that reads x anew.
SHOWN, TILE_CYCLES, ANEW = 0.35, 500.0, 0.5
# Warpgroups -> how much longer all takes: one alone does not hide what it waits for.
SLOWER = {1: 2.0, 2: 1.0, 3: 1.05}
# Of so many of the best, those of the shortest texts come first, and very long ones, in products,
# not at all; so many are tried, if the compiler has too few registers for one.
LOOKED_AT, PER_TEXT, LONGEST, MOST_TRIED = 12, 1 / 5000, 1300, 4


def refuses_card(capability: tuple[int, int]) -> str | None:
    """Why there is no wgmma, or None if there is."""
    if capability == CAPABILITY:
        return None
    major, minor = capability
    return f"the card is of compute capability {major}.{minor}: wgmma is of 9.0 alone"


def refuses_alike(found: Alike) -> str | None:
    """Why the kernel has no use for filters and channels in their order, or None if it has."""
    if found.runs is None:
        return "eight neighbouring filters are not alike: its channels are to be sorted"
    channels = in_order(found).channels.flatten()
    # Sorted as x will be, their order is this one.
    places = (channels >= 0).cumsum(0) - 1 if found.order is not None else channels
    if not bool((places == torch.arange(len(places)))[: int((channels >= 0).sum())].all()):
        return "its kinds of input channels do not come in sixteens"
    return None


def refuses_maps(maps: Maps) -> str | None:
    """Why there is no configuration for maps of such sizes, or None if there is one."""
    geometry = maps.geometry
    if (taps := geometry.kernel[0] * geometry.kernel[1]) > MOST_TAPS:
        return f"its kernel has {taps} taps, more than {MOST_TAPS}"
    sides = (geometry.kernel, geometry.padding, geometry.dilation)
    for kernel, padding, dilation in zip(*sides, strict=True):
        if 2 * padding > (reach := dilation * (kernel - 1)):
            return (
                f"a padding of {padding} is more than half of the {reach} that the kernel reaches"
            )
    # The narrowest groups, at worst all kept under all taps.
    least = WgmmaConfig(1, 4, 1, CHUNKS[-1], 2, 2, 1, 0, 4 * taps, 1)
    if not resident(least, maps, CAPABILITY):
        return "a tile of the output reads more of x than a block has shared memory for"
    return None


def resident(config: WgmmaConfig, maps: Maps, capability: tuple[int, int]) -> int:
    """How many blocks a multiprocessor can hold; 0 if a block does not fit, or is none."""
    if refuses_card(capability) is not None:
        return 0
    if config.warpgroups not in REGISTERS:
        return 0
    if config.stage < 1:
        return 0
    if not 32 <= config.slice <= 8 * MOST_EIGHTS or config.slice % 32 or config.at_once < 1:
        return 0
    # As many as copy a row of a chunk, of those 96 threads; bulk copies count 2^20 bytes.
    if config.chunk not in (*CHUNKS, 128) or min(config.places, config.stages) < 2:
        return 0
    shared = shared_bytes(config, rows(maps, config.tile), CAPABILITY)
    return int(shared <= SHARED[CAPABILITY] and config.stage_bytes < 1 << 20)


def made(numbers: Sequence[int], found: Alike) -> WgmmaConfig:
    """The configuration of these numbers for a weight."""
    config = WgmmaConfig(*numbers)
    kept = kept_by(in_order(found), config)
    return config._replace(stage=stage_of(kept), slices=len(kept))


def rows(maps: Maps, tile: int) -> int:
    """The most pixels of x that a tile of so many pixels of y reads, first to last."""
    return maps._replace(unpadded=True).positions(tile)


class Work(NamedTuple):
    """What a slice of filters takes for 64 pixels, on average of the slices.

    Attributes:
        tensor: cycles of tensor cores.
        loads: of 64 pixels by 16 channels from shared memory.
        bytes: of weights.
    """

    tensor: float
    loads: float
    bytes: float


def work_of(kept: Tensor, eights: int) -> Work:
    """Of what is kept, (slices, steps, taps, groups)."""
    blocks, count = float(kept.sum()), len(kept)
    tensor = blocks * max(LEAST_PRODUCT, 4.0 * eights)
    loads = float(kept.any(3).sum())
    return Work(tensor / count, loads / count, blocks * 16 * eights * DEPTH / count)


def shapes(found: Alike) -> list[WgmmaConfig]:
    """How filters can be cut; the rest is chosen for each problem."""
    whole = -(-len(found.classes) // 8)
    made = []
    for eights, groups in itertools.product((8, 4, 2, 1), (32, 16, 8, 4, 2, 1)):
        together = eights * groups
        if together % 4 or together > MOST_EIGHTS or (together > whole and together > 4):
            continue
        loops = int(8 * together <= MOST_IN_LOOPS)
        made.append(WgmmaConfig(eights, groups, 2, 64, 2, 2, 3, loops))
    return made


def estimate(config: WgmmaConfig, work: Work, maps: Maps, channels: int) -> float:
    """Cycles of a tile, about: for choosing, not for telling."""
    pixels = rows(maps, config.tile) * channels * 2
    written = config.tile * config.slice * 2
    l2 = (pixels + work.bytes + written) / L2_BYTES
    own = config.warpgroups * (work.tensor + 2048 * work.loads / SHARED_BYTES)
    return max(l2, own + written / L2_BYTES + SHOWN * l2 + TILE_CYCLES)


def ranked(
    found: Alike,
    maps: Maps,
    channels: int,
    capability: tuple[int, int],
    processors: int,
) -> list[WgmmaConfig]:
    """The best configurations by their estimates, best first; none if x is too wide for shared
    memory.
    """
    found = in_order(found)
    scored: list[tuple[float, WgmmaConfig]] = []
    for shape in shapes(found):
        kept = kept_by(found, shape)
        work, slices = work_of(kept, shape.eights), len(kept)
        shape = shape._replace(stage=stage_of(kept), slices=slices)
        for warpgroups, chunk in itertools.product(REGISTERS, CHUNKS):
            if chunk > 16 and chunk >= 2 * channels:
                continue
            if warpgroups == 3 and 2 * shape.slice > 8 * MOST_EIGHTS:
                continue
            loops = shape.loops if warpgroups < 3 else 0
            config = shape._replace(warpgroups=warpgroups, chunk=chunk, loops=loops)
            rings = (config._replace(places=p, stages=s) for p, s in RINGS)
            fits = next((c for c in rings if resident(c, maps, capability)), None)
            if fits is None or rows(maps, fits.tile) * fits.pitch > INT32_MAX >> 8:
                continue
            items = slices * -(-maps.pixels // fits.tile)
            cycles = -(-items // processors) * estimate(fits, work, maps, channels)
            cycles *= (1 + ANEW * (slices - 1)) * SLOWER[warpgroups]
            # Of about equals, copies of more at once, and more of them on their way.
            scored.append((cycles * (1 + 0.05 * CHUNKS.index(chunk)), fits))
    scored.sort(key=lambda own: own[0])
    short: list[tuple[float, WgmmaConfig]] = []
    for cycles, config in scored[:LOOKED_AT]:
        for loops in range(config.loops, -1, -1):
            own = config._replace(loops=loops)
            products = schedule(arranged(found, own).kept, own).count("ADD(")
            if products <= LONGEST:
                short.append((cycles * (1 + PER_TEXT * products), own))
    short.sort(key=lambda own: own[0])
    best = [config for _, config in short[:MOST_TRIED]]
    # Without its loop, a configuration takes fewer registers.
    more = [c._replace(loops=0) for c in best if c.loops]
    return best + [c for _, c in short if c in more and c not in best]


def choose(
    found: Alike,
    maps: Maps,
    channels: int,
    capability: tuple[int, int],
    processors: int,
) -> WgmmaConfig | None:
    """The configuration of the least estimate; None if x is too wide for shared memory."""
    best = ranked(found, maps, channels, capability, processors)
    return best[0] if best else None
