"""How cuda/periodic_conv2d_wgmma.cuh is cut for a problem: by arithmetic, as in `tap_choice`.

Nothing of it has been measured. The kernel is for compute capability 9.0 alone.
"""

import itertools

from ._geometry import INT32_MAX
from .configs import WgmmaConfig
from .tap_choice import CHUNKS, SHARED, Maps, shared_bytes
from .tap_tables import Alike, by_warp, groups_of

Config = WgmmaConfig
CAPABILITY = (9, 0)
WARPGROUPS = (4, 2, 1)
# About so many bytes of weights are multiplied between two barriers.
STAGES = (24 << 10, 16 << 10, 12 << 10, 8 << 10)
# Sums of a thread are 4 to each eight filters; of 256 filters they leave room for the rest.
MOST_EIGHTS = 32
# What a thread takes beside its sums (by NVRTC 12.9 and 13.5), and all threads of a
# multiprocessor.
OTHER_REGISTERS, REGISTERS = 64, 65536


def refuses_card(capability: tuple[int, int]) -> str | None:
    """Why there is no wgmma, or None if there is."""
    if capability == CAPABILITY:
        return None
    major, minor = capability
    return f"the card is of compute capability {major}.{minor}: wgmma is of 9.0 alone"


def registers(config: WgmmaConfig) -> int:
    """The most that a thread takes, as they are given out."""
    return min(255, 4 * config.eights * config.groups + OTHER_REGISTERS)


def resident(config: WgmmaConfig, maps: Maps, capability: tuple[int, int]) -> int:
    """How many blocks a multiprocessor can hold; 0 if a block does not fit, or is none."""
    together, most = config.eights * config.groups, SHARED[CAPABILITY]
    if refuses_card(capability) is not None or config.groups > min(8, config.stage):
        return 0
    if together > MOST_EIGHTS or config.cluster not in (1, 2):
        return 0
    # So many are what the kernel is told of a stage's blocks, and of the chunks.
    if config.stage >= 1 << 15 or config.threads % (config.chunk // 8):
        return 0
    shared = shared_bytes(config, maps.positions(config.tile), CAPABILITY)
    by_registers = REGISTERS // (config.threads * registers(config))
    # A block takes 1 KiB more than it asks for.
    return min(by_registers, (most + 1024) // (shared + 1024), 2048 // config.threads)


def shapes(filters: int) -> list[WgmmaConfig]:
    """How filters can be cut; chunks, stages and warpgroups are chosen for each problem."""
    whole = -(-filters // 8)
    found = []
    for eights, groups in itertools.product((8, 4, 2, 1), (8, 4, 2, 1)):
        together = eights * groups
        if together > MOST_EIGHTS or (together > whole and together > 1):
            continue
        # Narrow blocks read x once for each: only where there are no more filters.
        if together >= min(8, whole // 2):
            found.append(WgmmaConfig(eights, groups, 1, 64, groups, 1))
    return found


def estimate(
    config: WgmmaConfig, loads: float, products: float, blocks: int, span: int, processors: int
) -> float:
    """Cycles, about: for choosing, not for telling.

    Args:
        loads, products: entries of a slice, and groups in them.
        blocks: how many there are.
        span: positions of a tile times channels of x.
        processors: multiprocessors of the card.
    """
    # 4096 operations a cycle; 8 and 16 filters are taken for no faster than their square roots.
    tensor = 4 * config.eights * max(1.0, (4 / config.eights) ** 0.5)
    # Shared memory 128 bytes a cycle: pixels by ldmatrix, weights by each product; all copied once.
    shared = 16 * loads + 2 * config.eights * products
    copied = span / 64 + 2 * config.eights * products
    each = max(config.warpgroups * tensor * products, config.warpgroups * shared + copied)
    # L2 26 bytes a cycle; a cluster reads its weights once.
    memory = (2 * span + 256 * config.eights * products / config.cluster) / 26
    barrier = 120 if config.cluster == 1 else 200
    turns = -(-products // config.stage)
    block = max(each, memory) + barrier * turns / config.blocks + 2000 / config.blocks
    rounds, rest = divmod(blocks, config.blocks * processors)
    return (rounds * config.blocks + -(-rest // processors)) * block


def choose(
    found: Alike,
    maps: Maps,
    channels: int,
    capability: tuple[int, int],
    processors: int,
    cluster: int = 1,
) -> WgmmaConfig | None:
    """The configuration of the least estimate; None if x is too wide for shared memory."""
    filters = len(found.classes)
    best: tuple[float, WgmmaConfig] | None = None
    for shape in shapes(filters):
        kept = by_warp(found, groups_of(found, shape)[0], shape)
        loads = float(kept.any(4).sum()) / len(kept)
        products = float(kept.sum()) / len(kept)
        for chunk, warpgroups, stage in itertools.product(CHUNKS, WARPGROUPS, STAGES):
            if chunk > 16 and chunk >= 2 * channels:
                continue
            most = max(shape.groups, stage // (256 * shape.eights))
            config = shape._replace(chunk=chunk, warpgroups=warpgroups, stage=most, cluster=cluster)
            blocks = resident(config, maps, capability)
            # An offset in a chunk and a set of groups are 32 bits.
            if not blocks or maps.positions(config.tile) * config.pitch > INT32_MAX >> 8:
                continue
            config = config._replace(blocks=blocks)
            count = (
                -(-filters // config.slice) * cluster * -(-maps.pixels // config.tile // cluster)
            )
            span = maps.positions(config.tile) * channels
            cycles = estimate(config, loads, products, count, span, processors)
            if best is None or cycles < best[0]:
                best = cycles, config
    return best and best[1]
