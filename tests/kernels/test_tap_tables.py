"""The tables that the CUDA kernel follows, followed in numpy: each address, each register's lane.

A second reading of `cuda/periodic_conv2d.cuh`, without C++: on whole numbers, where every sum is
exact, so that one wrong address shows.
"""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sparse_ops.patterns import NAMED, Periodic
from tests.kernels.on_host import choice, configs, cuda, structure, tap_tables

LANES = np.arange(32)


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


def followed(x, weight, table, found, config, capability, geometry):
    """y (N, H', W', O) of whole numbers, by the tables."""
    t = tap_tables.tables(table, found, config, capability)
    maps = choice.Maps.of(x, geometry)
    entries = cuda.entries_for(t, config, maps).numpy().astype(np.int64)
    positions, pitch = maps.positions(config.tile), config.pitch
    values = np.append(weight, 0)
    held = blocks_as_matrices(t.source.numpy(), config.eights, capability)
    assert (held >= -1).all(), "no lane has this weight"
    held = values[held]
    images = x.permute(0, 2, 3, 1)
    images = images if t.order is None else images[..., t.order]
    flat = images.reshape(-1, x.shape[1]).numpy()
    (high, wide), (H, W), (out_h, out_w) = maps.padded, maps.size, maps.out
    pad_h, pad_w = geometry.padding

    def position(m):
        n, r = np.divmod(m, out_h * out_w)
        row, column = np.divmod(r, out_w)
        return (n * high + row * geometry.stride[0]) * wide + column * geometry.stride[1]

    y = np.full((maps.pixels, table.shape[0]), np.nan)
    per_slice = config.slice
    eights, columns = t.eights.numpy(), t.columns.numpy().reshape(len(t.eights), -1)
    pixel, byte = pixels_of(capability)
    unit = 16 if capability >= (7, 5) else 32
    for tile, slice_ in itertools.product(
        range(-(-maps.pixels // config.tile)), range(len(eights))
    ):
        m0 = tile * config.tile
        q = position(m0) + np.arange(positions)
        n, rest = np.divmod(q, high * wide)
        row, column = rest // wide - pad_h, rest % wide - pad_w
        real = (row >= 0) & (column >= 0) & (n < maps.images)
        at = np.where(real, (n * H + row) * W + column, 0)
        sums = np.full((config.tile, per_slice), np.nan)
        for warp, pixels in itertools.product(
            range(config.filter_warps), range(0, config.tile, unit)
        ):
            list_ = slice_ * config.filter_warps + warp
            e, block = int(t.starts[list_, 0]), int(t.blocks[list_])
            own = np.zeros((unit, config.groups, config.width))
            m = np.minimum(m0 + pixels + pixel, maps.pixels - 1)
            lanes = (position(m) - q[0]) * pitch + byte
            assert (lanes >= 0).all()
            for chunk in range(t.starts.shape[1] - 1):
                # One chunk in shared memory: rows of `pitch` bytes, NaN between them.
                memory = np.full((positions, pitch // 2), np.nan)
                for piece, channel in enumerate(
                    t.channels[chunk * config.chunk // 8 :][: config.chunk // 8].tolist()
                ):
                    found_ = flat[at, channel : channel + 8] if channel >= 0 else 0
                    memory[:, 8 * piece : 8 * piece + 8] = np.where(real[:, None], found_, 0)
                memory = memory.reshape(-1)
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
            sums[pixels : pixels + unit, mine] = own.reshape(unit, -1)
        for k, first in enumerate(eights[slice_]):
            m = np.arange(m0, min(m0 + config.tile, maps.pixels))
            if first >= 0:
                assert np.isnan(y[m, first]).all(), "written twice"
                y[m, first : first + 8] = sums[: len(m), 8 * k : 8 * k + 8]
    return y.reshape(x.shape[0], out_h, out_w, -1)


PATTERNS = NAMED | {
    "user": Periodic(((0, 4, 8), (), (1, 2))),
    "wide": Periodic(((0, 5), (9,)), (2, 5)),
}
# pattern, O, I, size, batch, stride, padding, dilation, sorted
CASES = [
    ("PSD2_P8", 64, 64, (1, 1), 130, 1, 1, 1, False),
    ("PSD2_P8", 64, 64, (7, 7), 3, 1, 1, 1, True),
    ("PSD2_P8", 128, 128, (14, 14), 1, 1, 1, 1, True),
    ("PSD2_P8", 136, 72, (4, 3), 11, 1, 1, 1, False),
    ("PSD4_P8", 64, 128, (5, 3), 4, 2, 1, 1, True),
    ("PSD4_P16", 128, 64, (5, 4), 4, 1, 1, 1, True),
    ("PSD4_P16", 64, 64, (6, 6), 2, 2, 1, 1, False),
    ("PSD1_P16", 256, 128, (4, 4), 5, 1, 1, 1, True),
    ("PS4_P4", 64, 64, (9, 1), 4, 1, 1, 1, True),
    ("PS2_P6", 96, 96, (3, 8), 3, (2, 1), 1, 1, False),
    ("PS1_P9", 72, 144, (6, 5), 3, 1, 2, 2, True),
    ("PS1_P9", 144, 72, (6, 5), 3, 3, 2, (2, 1), False),
    ("user", 24, 40, (8, 4), 3, 1, 0, 1, False),
    ("wide", 32, 16, (4, 9), 2, 1, (1, 3), (1, 2), True),
]


@pytest.mark.parametrize("capability", [(7, 0), (9, 0)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(str(v) for v in c))
def test_followed_in_numpy_they_give_the_convolution(case, capability):
    name, O, I, size, batch, stride, padding, dilation, sort = case
    pattern = PATTERNS[name]
    shape = (O, I, *pattern.kernel_size)
    mask, table, found = structure(pattern, shape, sort)
    if sort and I % (8 * pattern.period) == 0:
        assert found.order is None, "x is sorted as it comes"
    steps = [[v, v] if isinstance(v, int) else list(v) for v in (stride, padding, dilation)]
    x = torch.randint(-8, 9, (batch, I, *size)).double()
    weight = torch.randint(1, 9, shape).double() * mask
    geometry = cuda.Geometry.of(list(shape), *steps)
    config = choice.choose(found, choice.Maps.of(x, geometry), I, capability, 8)
    y = followed(x, weight[mask].numpy(), table, found, config, capability, geometry)
    exact = F.conv2d(x, weight, None, *steps).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(y, exact.numpy())


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
