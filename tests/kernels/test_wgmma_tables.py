"""What the kernel by wgmma is told of a weight: each weight is in one block, in order of use."""

import itertools

import pytest
import torch

from sparse_ops.patterns import NAMED
from tests.kernels.on_host import structure, tap_tables, wgmma_choice, wgmma_tables

CARD = (9, 0)


def test_a_block_is_eights_of_filters_by_eights_of_channels():
    order = wgmma_tables.block_order(2)
    # Filter 9, channel 11: the second eight of either, row 1, column 3.
    assert order[(1 * 2 + 1) * 64 + 8 + 3] == 9 * 16 + 11
    assert sorted(order.tolist()) == list(range(256))


@pytest.mark.parametrize("pattern", ["PSD2_P8", "PSD4_P16", "PS4_P4"])
def test_each_weight_is_in_one_block(pattern):
    shape = (128, 256, 3, 3)
    _, table, found = structure(NAMED[pattern], shape, True)
    for eights, groups, chunk in ((2, 2, 32), (1, 16, 64), (8, 1, 16)):
        config = wgmma_choice.made((eights, groups, 1, chunk, 2, 2, 2, 1), found)
        made = wgmma_tables.tables(table, found, config, CARD)
        kept = made.source[made.source >= 0]
        assert sorted(kept.tolist()) == list(range(int(table.max()) + 1))
        # The last block is empty, and no other is.
        assert (made.source >= 0).any(1).tolist() == [True] * (len(made.source) - 1) + [False]
        filters = made.eights[made.eights >= 0]
        assert sorted(filters.tolist()) == list(range(0, 128, 8))
        assert made.texts.keys() == {"head.cuh", "schedule.cuh", "turns.cuh", "weights.cuh"}


def test_steps_come_in_the_order_of_their_channels():
    _, _, found = structure(NAMED["PSD2_P8"], (64, 128, 3, 3), True)
    ordered = wgmma_tables.in_order(found)
    assert ordered.channels.flatten().tolist() == list(range(128))
    for step, channels in enumerate(ordered.channels.tolist()):
        was = found.channels.tolist().index(channels)
        assert torch.equal(ordered.kept[:, step], found.kept[:, was])
    # Sorted by the operator, they are so already.
    sorted_ = found._replace(order=torch.arange(128))
    assert wgmma_tables.in_order(sorted_) is sorted_


def test_slices_of_a_periodic_pattern_do_as_the_first_does():
    _, _, found = structure(NAMED["PSD2_P8"], (128, 256, 3, 3), True)
    found = wgmma_tables.in_order(found)
    config = wgmma_choice.made((4, 1, 1, 32, 2, 2, 2, 1), found)
    own = wgmma_tables.arranged(found, config)
    kept = wgmma_tables.kept_by(found, config)
    assert len(set(own.turns)) == len(own.turns) == 4 and own.turns[0] == 0
    for slice_, (turn, order) in enumerate(zip(own.turns, own.order, strict=True)):
        assert torch.equal(own.kept[slice_], own.kept[0])
        assert torch.equal(own.kept[slice_], kept[slice_][order])
        assert order.tolist() == [(turn * 2 + step) % 16 for step in range(16)]


def test_slices_that_differ_begin_with_the_first_chunk():
    kept = torch.zeros(4, 6, 9, 1, dtype=torch.bool)
    kept[0, 1], kept[1, 5], kept[2, 2], kept[3, :2] = True, True, True, True
    # By whole chunks; and not at all, if the last is not whole.
    assert wgmma_tables.turned(kept, 1) == [0, 4, 1, 0]
    assert wgmma_tables.turned(kept, 2) == [0, 2, 0, 0]
    assert wgmma_tables.turned(kept, 4) == [0, 0, 0, 0]


def test_a_stage_has_room_for_what_a_step_keeps():
    for pattern, groups in itertools.product(("PSD2_P8", "PS4_P4"), (1, 2, 4)):
        _, _, found = structure(NAMED[pattern], (64, 64, 3, 3), True)
        config = wgmma_choice.made((4 // groups, groups, 1, 32, 2, 2, 2, 1), found)
        kept = wgmma_tables.kept_by(found, config)
        assert kept.shape == (config.slices, 4, 9, groups)
        assert config.stage == max(int(step.sum()) for own in kept for step in own)
    assert wgmma_tables.stage_of(kept & False) == 1


@pytest.mark.parametrize("pattern", ["PS2_P6", "PS1_P9", "PSD4_P16"])
def test_narrow_classes_are_refused(pattern):
    _, _, narrow = structure(NAMED[pattern], (32, 32, 3, 3), False)
    assert tap_tables.refuses_alike(narrow) is not None
    assert "to be sorted" in wgmma_choice.refuses_alike(narrow)
