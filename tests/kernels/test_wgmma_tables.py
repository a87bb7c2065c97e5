"""What the kernel by wgmma is told: stages that fit their places, whatever the weight is."""

import itertools

import pytest
import torch

from sparse_ops.patterns import NAMED
from tests.kernels.on_host import (
    choice,
    configs,
    cuda,
    structure,
    tap_tables,
    wgmma_choice,
    wgmma_tables,
)

CARD = (9, 0)


def test_stages_are_of_whole_turns_and_hold_no_more_than_they_can():
    for counts, most in itertools.product(
        ([1], [3, 1], [1] * 10, [2, 1, 3, 1, 2, 2, 1, 3, 1], [8] * 7), (8, 9, 24)
    ):
        found = list(wgmma_tables.cut(counts, most))
        assert [e for first, end in found for e in range(first, end)] == list(range(len(counts)))
        for first, end in found:
            assert sum(counts[first:end]) <= most
            whole = end == len(counts) or (end - first) % 3 == 0
            assert whole or end - first < 3


def test_a_block_is_eights_of_filters_by_eights_of_channels():
    order = wgmma_tables.block_order(2)
    # Filter 9, channel 11: the second eight of either, row 1, column 3.
    assert order[(1 * 2 + 1) * 64 + 8 + 3] == 9 * 16 + 11
    assert sorted(order.tolist()) == list(range(256))


@pytest.mark.parametrize("pattern", ["PSD2_P8", "PSD4_P16", "PS1_P9"])
def test_lists_say_everything_once(pattern):
    """Each weight is in one block, each block in one stage, each stage in its place."""
    config = configs.WgmmaConfig(2, 4, 2, 32, 7, 1)
    _, table, found = structure(NAMED[pattern], (144, 144, 3, 3), False)
    made = wgmma_tables.tables(table, found, config, CARD)
    kept = made.source[made.source >= 0]
    assert sorted(kept.tolist()) == list(range(int(table.max()) + 1))
    block, sets = 0, made.sets.tolist()
    for own in made.starts.tolist():
        chunk = 0
        for first, entries, begin, last in own[:-2]:
            blocks, its = last >> 16, last & 0xFFFF
            assert first % 4 == 0 and entries % 3 == 0 and entries > 0 and blocks <= config.stage
            assert its in (chunk, chunk + 1)
            chunk = its
            multiplied = sum(sets[e].bit_count() for e in range(first, first + entries))
            assert multiplied == blocks and (not blocks or begin == block)
            block += blocks
            # What is loaded ahead is nothing, and all of it is there to be copied.
            assert sets[first + entries : first + entries + 2] == [0, 0]
            assert first + -(-(entries + 2) // 4) * 4 <= len(sets)
            assert 4 * -(-(entries + 2) // 4) * 4 <= config.stage_bytes - blocks * 512
        assert chunk == 144 // 32
    assert block == len(made.source) - 1


def test_what_is_chosen_fits_the_card():
    for pattern, channels, side, batch in itertools.product(
        ("PSD2_P8", "PSD4_P16"), (72, 144), (1, 56), (1, 64)
    ):
        _, _, found = structure(NAMED[pattern], (channels, channels, 3, 3), False)
        geometry = cuda.Geometry((3, 3), (1, 1), (1, 1), (1, 1))
        maps = choice.Maps.of(torch.empty(batch, channels, side, side, device="meta"), geometry)
        config = wgmma_choice.choose(found, maps, channels, CARD, 132)
        assert config is not None
        shared = choice.shared_bytes(config, maps.positions(config.tile), CARD)
        assert config.blocks * (shared + 1024) <= choice.SHARED[CARD] + 1024
        assert config.blocks * config.threads * wgmma_choice.registers(config) <= 65536
        assert config.groups <= 8 and config.stage >= config.groups
        assert config.threads % (config.chunk // 8) == 0
        # An offset and a set of groups fit 32 bits; what is told of a stage, 16 and 16.
        assert maps.positions(config.tile) * config.pitch < 1 << 23
        assert config.stage < 1 << 15
        assert not wgmma_choice.resident(config, maps, (8, 0))


def test_the_sums_of_a_tile_fit_where_the_pixels_were():
    config = configs.WgmmaConfig(8, 4, 2, 16, 4, 1)
    rows = 16 * config.warpgroups
    assert choice.shared_bytes(config, 1, CARD) >= 4 * rows * (config.slice + 4)
    assert tap_tables.DEPTH == 16 and config.slice == 256
