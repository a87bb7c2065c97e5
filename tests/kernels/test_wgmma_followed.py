"""The tables that the kernel by wgmma follows, followed in numpy: each address of shared memory.

A second reading of `cuda/periodic_conv2d_wgmma.cuh`, without C++: stages and their places, the
rows that ldmatrix names, the blocks that a descriptor finds, and the way of the sums to y.
"""

import sys
from functools import partial

import numpy as np
import pytest
import torch

from sparse_ops.patterns import NAMED
from tests.kernels.followed import CASES, LANES, Layer, Pixels, name_of, write
from tests.kernels.on_host import (
    choice,
    cuda,
    structure,
    tap_tables,
    wgmma_choice,
    wgmma_tables,
)

CARD = (9, 0)
# Where a block's own shared memory begins on such a card: what CUDA takes is before it.
BASE = 1024


class Shared:
    """A block's shared memory: what is in its halves and words; NaN where no such thing is."""

    def __init__(self, size):
        self.halves, self.words = np.full(size // 2, np.nan), np.full(size // 4, np.nan)

    def _at(self, address, width, aligned):
        at = np.asarray(address) - BASE
        assert (at % aligned == 0).all() and (at >= 0).all(), "not aligned"
        return at // width

    def put_halves(self, address, numbers):
        at = int(self._at(address, 2, 16))
        assert at + len(numbers) <= len(self.halves), "shared memory is left"
        self.halves[at : at + len(numbers)] = numbers
        self.words[at // 2 : (at + len(numbers)) // 2] = np.nan

    def put_words(self, address, numbers):
        at = self._at(address, 4, 4)
        self.words[at] = numbers
        self.halves[2 * at] = self.halves[2 * at + 1] = np.nan

    def halves_at(self, address, aligned=2):
        return self.halves[self._at(address, 2, aligned)]

    def word_at(self, address):
        found = self.words[self._at(address, 4, 4)]
        assert not np.isnan(found), "no entry is there"
        return int(found)


def loaded(shared, row):
    """(warps, 32, 4, 2): what ldmatrix gives each lane for (warps, 32) addresses of rows."""
    lane, register, half = np.ix_(LANES, np.arange(4), np.arange(2))
    named = row[:, 8 * register + lane // 4]
    shared.halves_at(row, aligned=16)
    return shared.halves_at(named + lane % 4 * 4 + 2 * half)


def as_matrix(a):
    """(16 warps, 16): a product's left side, of what lanes hold."""
    made = np.full((len(a), 16, 16), np.nan)
    lane, register, half = np.ix_(LANES, np.arange(4), np.arange(2))
    made[:, lane // 4 + 8 * (register % 2), 2 * (lane % 4) + 8 * (register // 2) + half] = a
    return made.reshape(-1, 16)


def descriptor(at):
    return 256 >> 4 << 32 | 128 >> 4 << 16 | (at & 0x3FFFF) >> 4


def found_by(shared, described, width):
    """(width, 16): a product's right side, of a layout that is not swizzled, K innermost."""
    start, along_k, along_n = ((described >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
    n, k = np.ix_(np.arange(width), np.arange(16))
    return shared.halves_at(start + n // 8 * along_n + k // 8 * along_k + n % 8 * 16 + k % 8 * 2)


class Block:
    """One block of the kernel; those of a cluster copy to each other."""

    def __init__(self, kernel, number):
        self.kernel, config = kernel, kernel.config
        self.rank, pair = number % config.cluster, number // config.cluster
        self.slice = pair % kernel.slices
        self.m0 = (pair // kernel.slices * config.cluster + self.rank) * config.tile
        pixels, last = kernel.pixels, kernel.maps.pixels - 1
        self.q0 = pixels.position(min(self.m0, last))
        self.shared = Shared(kernel.shared_bytes)
        m = self.m0 + np.arange(4 * config.warpgroups)[:, None] * 16 + (LANES & 15)
        at = pixels.position(np.minimum(m, last)) - self.q0
        self.own = BASE + at * config.pitch + (LANES >> 4) * 16
        self.sums = np.zeros((config.groups, config.tile, config.width))
        self.chunk, self.place, self.expected, self.arrived = -1, 0, [0] * 3, [0] * 3

    def stage(self, s):
        first, entries, block, last = self.kernel.starts[self.slice, s].tolist()
        assert first % 4 == 0 and entries % 3 == 0 and entries > 0
        return first, entries, block, last >> 16, last & 0xFFFF

    def copy_pixels(self, chunk):
        to = BASE + (chunk & 1) * self.kernel.half
        for r, row in enumerate(self.kernel.pixels.rows(self.q0, chunk)):
            self.shared.put_halves(to + r * self.kernel.config.pitch, row[:-8])

    def copy_stage(self, s, place, cluster):
        """To all blocks of the cluster: of each, its part."""
        kernel, (first, entries, block, blocks, _) = self.kernel, self.stage(s)
        to = kernel.ring + place * kernel.place
        listed, middle = (entries + 5) // 4 * 4, (blocks + 1) // 2
        assert first + listed <= len(kernel.entries), "entries are left"
        self.expected[place] += 4 * listed + blocks * kernel.block
        begin, end = 0, blocks
        if len(cluster) > 1:
            begin, end = (0, middle) if self.rank == 0 else (middle, blocks)
        weights = kernel.weight[block + begin : block + end].reshape(-1)
        assert len(weights) == (end - begin) * kernel.block // 2, "weights are left"
        for each in cluster:
            if self.rank == 0:
                words = to + 4 * np.arange(listed)
                each.shared.put_words(words, kernel.entries[first : first + listed])
                each.arrived[place] += 4 * listed
            each.shared.put_halves(to + kernel.header + begin * kernel.block, weights)
            each.arrived[place] += 2 * len(weights)

    def turn(self, s, cluster):
        """What a block does between two barriers."""
        kernel, shared = self.kernel, self.shared
        _, entries, _, blocks, chunk = self.stage(s)
        list_, place = kernel.ring + self.place * kernel.place, self.place
        weights = descriptor(list_ + kernel.header)
        self.place = (place + 1) % 3
        if s + 1 < kernel.stages:
            self.copy_stage(s + 1, self.place, cluster)
        if chunk != self.chunk:
            self.chunk = chunk
            if chunk + 1 < kernel.chunks:
                self.copy_pixels(chunk + 1)
        assert self.arrived[place] == self.expected[place], "a phase that does not end"
        own, multiplied = self.own + (chunk & 1) * kernel.half, 0
        entry, a = [0] * 3, [None] * 3
        for h in range(2):
            entry[h] = shared.word_at(list_ + 4 * h)
            a[h] = loaded(shared, own + (entry[h] >> 8))
        for _ in range(0, entries, 3):
            for h in range(3):
                for g in range(kernel.config.groups):
                    if entry[h] >> g & 1:
                        b = found_by(shared, weights, kernel.config.width)
                        self.sums[g] += as_matrix(a[h]) @ b.T
                        weights += kernel.block >> 4
                        multiplied += 1
                older = (h + 2) % 3
                entry[older] = shared.word_at(list_ + 4 * (h + 2))
                a[older] = loaded(shared, own + (entry[older] >> 8))
            list_ += 12
        assert multiplied == blocks and entry[:2] == [0, 0], "the stage goes on"

    def write(self, y):
        """By way of a tile in shared memory: sixteen pixels of each 64 at a time."""
        config, kernel = self.kernel.config, self.kernel
        step, last = config.slice + 4, kernel.maps.pixels
        columns = kernel.columns[self.slice].reshape(config.groups, config.width)
        count = config.width // 2
        lane, i = np.ix_(LANES, np.arange(count))
        row, column = lane // 4 + 8 * (i // 2 % 2), i // 4 * 8 + lane % 4 * 2 + i % 2
        for u in range(4):
            for group in range(config.warpgroups):
                warp = group * 4 + u
                for g in range(config.groups):
                    at = (group * 16 + (lane >> 2) + (i & 2) * 4) * step + columns[g][column]
                    self.shared.put_words(BASE + 4 * at, self.sums[g][warp * 16 + row, column])
            for k in range(config.warpgroups * 16):
                m = self.m0 + k // 16 * 64 + u * 16 + k % 16
                for eight, first in enumerate(kernel.eights[self.slice]):
                    if m < last:
                        at = k * step + eight * 8
                        write(y, [m], first, self.shared.words[at : at + 8])


class Kernel:
    """What all blocks are told, and where things are in their shared memory."""

    def __init__(self, layer, config):
        t = wgmma_tables.tables(layer.table, layer.found, config, CARD)
        self.config, self.maps, self.pixels = config, layer.maps, Pixels(layer, t, config)
        self.entries = cuda.entries_for(t, config, layer.maps).numpy().view(np.uint32)
        self.weight = np.append(layer.weight, 0)[t.source.numpy()]
        self.starts, self.eights = t.starts.numpy(), t.eights.numpy()
        self.columns = t.columns.numpy().reshape(len(self.eights), -1)
        self.slices, self.stages = len(self.eights), self.starts.shape[1] - 2
        self.chunks, positions = len(self.pixels.channels), self.pixels.positions
        self.block = config.eights * 256
        self.header = -(-(config.stage * 4 + 32) // 128) * 128
        self.place = self.header + config.stage * self.block
        self.half = positions * config.pitch
        self.ring = BASE + -(-(2 * self.half + positions * 4) // 128) * 128
        self.shared_bytes = choice.shared_bytes(config, positions, CARD)
        barriers = self.ring + 3 * self.place
        assert config.cluster == 1 or barriers + 3 * 8 <= BASE + self.shared_bytes

    def run(self, filters):
        y = np.full((self.maps.pixels, filters), np.nan)
        size = self.config.cluster
        tiles = -(-self.maps.pixels // self.config.tile)
        for first in range(0, self.slices * -(-tiles // size) * size, size):
            cluster = [Block(self, first + rank) for rank in range(size)]
            for block in cluster:
                block.copy_pixels(0)
                block.copy_stage(0, 0, cluster)
            for s in range(self.stages):
                for block in cluster:
                    block.turn(s, cluster)
            for block in cluster:
                block.write(y)
        return y


def followed_wgmma(layer, config):
    """y (N, H', W', O) of whole numbers, by the tables."""
    return Kernel(layer, config).run(len(layer.table)).reshape(layer.exact.shape)


def chosen(layer, cluster=1):
    return wgmma_choice.choose(layer.found, layer.maps, layer.channels, CARD, 8, cluster)


@pytest.mark.parametrize("cluster", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_followed_in_numpy_they_give_the_convolution(case, cluster):
    layer = Layer(case)
    config = chosen(layer, cluster)
    refused = choice.refuses_maps(layer.maps, CARD), tap_tables.refuses_alike(layer.found)
    assert refused == (None, None) and config.cluster == cluster
    # As many stages and chunks as there can be; several groups of warps, stages that are not full.
    small = config._replace(stage=config.groups, chunk=16, warpgroups=1)
    high = config._replace(stage=config.groups + 3, chunk=32, warpgroups=2)
    for each in (config, small, high):
        assert wgmma_choice.resident(each, layer.maps, CARD) > 0
        np.testing.assert_array_equal(followed_wgmma(layer, each), layer.exact)


@pytest.mark.parametrize("pattern", ["PS2_P6", "PS1_P9", "PSD4_P16"])
def test_what_is_refused_is_refused_here_too(pattern):
    _, _, narrow = structure(NAMED[pattern], (32, 32, 3, 3), False)
    assert tap_tables.refuses_alike(narrow) is not None
    layer = Layer(CASES[0])
    for capability in ((8, 0), (8, 9), (10, 0), (12, 0)):
        assert "wgmma is of 9.0 alone" in wgmma_choice.refuses_card(capability)
        assert wgmma_choice.choose(layer.found, layer.maps, 64, capability, 8) is None


PLANTED = {
    "blocks in the order of rows": (wgmma_tables, "block_order", lambda e: torch.arange(128 * e)),
    "a descriptor's strides change places": (
        sys.modules[__name__],
        "descriptor",
        lambda at: 128 >> 4 << 32 | 256 >> 4 << 16 | (at & 0x3FFFF) >> 4,
    ),
    "ldmatrix's matrices in another order": (
        sys.modules[__name__],
        "as_matrix",
        partial(lambda whole, a: whole(a[:, :, [0, 2, 1, 3]]), as_matrix),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_shows(monkeypatch, name):
    layer = Layer(CASES[3])
    config = chosen(layer)
    module, what, instead = PLANTED[name]
    assert config.eights > 1
    np.testing.assert_array_equal(followed_wgmma(layer, config), layer.exact)
    monkeypatch.setattr(module, what, instead)
    assert not np.array_equal(followed_wgmma(layer, config), layer.exact)
