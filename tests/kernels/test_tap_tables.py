"""The tables that the CUDA kernel follows, followed in numpy: each address, each register's lane.

A second reading of `cuda/periodic_conv2d.cuh`, without C++: on whole numbers, where every sum is
exact, so that one wrong address shows.
"""

import itertools

import numpy as np
import pytest
import torch

from sparse_ops.patterns import NAMED
from tests.kernels.followed import CASES, LANES, Layer, Pixels, name_of, write
from tests.kernels.on_host import choice, configs, cuda, structure, tap_tables


def pixels_of(capability):
    """(pixel, byte) of a warp's lane in a unit of pixels."""
    if capability >= (7, 5):
        return LANES & 15, (LANES >> 4) * 16
    return LANES, 0 * LANES


def blocks_as_matrices(source, eights, capability):
    """(blocks, width, 16): what lanes hold of each block, put where the product has it."""
    made = np.full((len(source), 8 * eights, 16), -2)
    for e, lane in itertools.product(range(eights), range(32)):
        if capability < (7, 5):
            # Lanes of all quad pairs read the same: 16 channels of a filter.
            filter_ = (lane & 3) + (lane >> 4) * 4
            at = e * 128 + filter_ * 16
            made[:, e * 8 + filter_] = source[:, at : at + 16]
            continue
        # Register r of lane l is channels 2 (l % 4) + 8 r, +1 of filter l / 4.
        at = lane * 4 if eights == 1 else e // 2 * 256 + lane * 8 + e % 2 * 4
        for r, h in itertools.product(range(2), range(2)):
            channel = lane % 4 * 2 + 8 * r + h
            made[:, e * 8 + lane // 4, channel] = source[:, at + 2 * r + h]
    return made


def followed(layer, config, capability):
    """y (N, H', W', O) of whole numbers, by the tables."""
    t = tap_tables.tables(layer.table, layer.found, config, capability)
    pixels, maps = Pixels(layer, t, config), layer.maps
    entries = cuda.entries_for(t, config, maps).numpy().astype(np.int64)
    held = blocks_as_matrices(t.source.numpy(), config.eights, capability)
    assert (held >= -1).all(), "no lane has this weight"
    held = np.append(layer.weight, 0)[held]
    y = np.full((maps.pixels, len(layer.table)), np.nan)
    per_slice = config.slice
    eights, columns = t.eights.numpy(), t.columns.numpy().reshape(len(t.eights), -1)
    pixel, byte = pixels_of(capability)
    unit = 16 if capability >= (7, 5) else 32
    for tile, slice_ in itertools.product(
        range(-(-maps.pixels // config.tile)), range(len(eights))
    ):
        m0 = tile * config.tile
        q0 = pixels.position(m0)
        # Of each chunk, what is in shared memory.
        chunks = [pixels.rows(q0, chunk).reshape(-1) for chunk in range(len(pixels.channels))]
        sums = np.full((config.tile, per_slice), np.nan)
        for warp, first in itertools.product(
            range(config.filter_warps), range(0, config.tile, unit)
        ):
            list_ = slice_ * config.filter_warps + warp
            e, block = int(t.starts[list_, 0]), int(t.blocks[list_])
            own = np.zeros((unit, config.groups, config.width))
            m = np.minimum(m0 + first + pixel, maps.pixels - 1)
            lanes = (pixels.position(m) - q0) * config.pitch + byte
            assert (lanes >= 0).all()
            for chunk, memory in enumerate(chunks):
                for _ in range(int(t.starts[list_, chunk + 1] - t.starts[list_, chunk])):
                    offset, kept = entries[e] >> 8, entries[e] & 255
                    e += 1
                    half = (lanes + offset) // 2
                    a = np.full((unit, 16), np.nan)
                    if unit == 16:
                        # ldmatrix: lane l names row l % 8 of matrix l / 8.
                        a[:, :8] = memory[half[:16, None] + np.arange(8)]
                        a[:, 8:] = memory[half[16:, None] + np.arange(8)]
                    else:
                        a[:] = memory[half[:, None] + np.arange(16)]
                    assert kept
                    for g in range(config.groups):
                        if kept >> g & 1:
                            own[:, g] += a @ held[block].T
                            block += 1
            assert entries[e] == entries[e + 1] == 0, "the list goes on"
            mine = columns[slice_].reshape(config.filter_warps, -1)[warp]
            sums[first : first + unit, mine] = own.reshape(unit, -1)
        m = np.arange(m0, min(m0 + config.tile, maps.pixels))
        for k, first in enumerate(eights[slice_]):
            write(y, m, first, sums[: len(m), 8 * k : 8 * k + 8])
    return y.reshape(layer.exact.shape)


@pytest.mark.parametrize("capability", [(7, 0), (9, 0)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_followed_in_numpy_they_give_the_convolution(case, capability):
    layer = Layer(case)
    if layer.runs:
        assert layer.found.order is None, "x is sorted as it comes"
    config = choice.choose(layer.found, layer.maps, layer.channels, capability, 8)
    np.testing.assert_array_equal(followed(layer, config, capability), layer.exact)


def test_a_tile_stays_within_its_positions_whatever_the_maps_are():
    for size, stride, padding, dilation, tile in itertools.product(
        [(1, 1), (3, 7), (7, 3), (14, 14), (2, 29)], [1, 2, 3], [0, 1, 2], [1, 2], [64, 128, 256]
    ):
        geometry = cuda.Geometry((3, 3), (stride,) * 2, (padding,) * 2, (dilation,) * 2)
        maps = choice.Maps(9, size, geometry.out(torch.empty(9, 1, *size)), geometry)
        if min(maps.out) < 1:
            continue
        high, wide = maps.padded
        m = torch.arange(maps.pixels)
        n, rest = m // (maps.out[0] * maps.out[1]), m % (maps.out[0] * maps.out[1])
        at = (n * high + rest // maps.out[1] * stride) * wide + rest % maps.out[1] * stride
        assert bool((at.diff() > 0).all())
        last = (m + tile - 1).clamp(max=maps.pixels - 1)
        spans = (at[last] - at)[::tile]
        assert int(spans.max()) + maps.reach + 1 <= maps.positions(tile)


def test_like_classes_are_neighbours():
    # Filters o and o + 4 of PSD4_P16 differ by one kernel of a period.
    _, _, found = structure(NAMED["PSD4_P16"], (64, 64, 3, 3), True)
    rank = found.classes.reshape(16, 4)[:, 0]
    assert sorted(rank.tolist()) == list(range(16))
    for corner in range(4):
        own = sorted(rank[corner::4].tolist())
        assert own == list(range(own[0], own[0] + 4))


def test_a_weight_that_is_not_alike_is_refused_in_words():
    table = torch.arange(64 * 64 * 9).reshape(64, -1).int()
    table[torch.rand(table.shape) < 0.9] = -1
    found = tap_tables.alike(table, 9)
    assert "the 64 filters are of 64 kinds" in tap_tables.refuses_alike(found)
    _, _, narrow = structure(NAMED["PSD4_P16"], (32, 32, 3, 3), False)
    assert tap_tables.refuses_alike(narrow) is not None


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (8, 0), (8, 6), (9, 0)], ids=str)
def test_what_is_chosen_fits_the_card(capability):
    for pattern, channels, side in itertools.product(
        ("PSD2_P8", "PSD4_P16", "PS1_P9"), (72, 144, 288), (1, 7, 56)
    ):
        _, _, found = structure(NAMED[pattern], (channels, channels, 3, 3), False)
        for batch, stride in ((1, 1), (64, 2)):
            geometry = cuda.Geometry((3, 3), (stride,) * 2, (1, 1), (1, 1))
            x = torch.empty(batch, channels, side, side, device="meta")
            maps = choice.Maps.of(x, geometry)
            config = choice.choose(found, maps, channels, capability, 80)
            assert config is not None and choice.refuses_maps(maps, capability) is None
            shared = choice.shared_bytes(config, maps.positions(config.tile), capability)
            assert shared <= choice.SHARED.get(capability, choice.OTHER_SHARED)
            assert config.eights * config.groups <= (8 if capability >= (8, 0) else 4)
            assert config.threads % (config.chunk // 8) == 0 and config.groups <= 8
            # An offset and a set of groups fit 32 bits.
            assert maps.positions(config.tile) * config.pitch < 1 << 23


def test_configurations_are_not_made_of_what_does_not_fit():
    wide = cuda.Geometry((3, 3), (1, 1), (1, 1), (400, 1))
    x = torch.empty(1, 16, 1000, 300, device="meta")
    assert "a tile of the output reads" in choice.refuses_maps(choice.Maps.of(x, wide), (7, 5))
    around = cuda.Geometry((1, 1), (1, 1), (2, 2), (1, 1))
    words = choice.refuses_maps(choice.Maps.of(x, around), (9, 0))
    assert words == "a padding of 2 is more than the 0 that the kernel reaches"
    huge = torch.empty(40_000, 8, 300, 200, device="meta")
    plain = cuda.Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    assert "over 2^31" in choice.refuses_maps(choice.Maps.of(huge, plain), (9, 0))
    assert configs.TapConfig(2, 3, 2, 4, 64, 1).slice == 192
