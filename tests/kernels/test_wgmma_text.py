"""The text for the kernel by wgmma, piece by piece, and how the kernel is cut."""

import itertools

import pytest
import torch

from sparse_ops.ops import _kernels
from sparse_ops.patterns import NAMED
from tests.kernels.on_host import choice, configs, cuda, structure, wgmma_choice, wgmma_tables

text = _kernels.kernels("wgmma_text")
CARD = (9, 0)


def step(*taps):
    return [(tap, [0]) for tap in taps]


def maps_of(batch, channels, size, kernel=(3, 3), stride=1, padding=1, dilation=1):
    x = torch.empty(batch, channels, *size, device="meta")
    sides = ((n, n) for n in (stride, padding, dilation))
    return choice.Maps.of(x, cuda.Geometry(kernel, *sides))


def sorted_(pattern, filters, channels):
    return structure(NAMED[pattern], (filters, channels, 3, 3), True)[2]


@pytest.mark.parametrize(("taps", "at_once"), [*itertools.product(range(2, 26), (1, 2, 3))])
def test_a_step_is_cut_in_units_of_about_the_same_length(taps, at_once):
    whole = step(*range(taps))
    for even in (False, True):
        units = text.cut(whole, at_once, even)
        lengths = [len(unit) for unit in units]
        assert list(itertools.chain(*units)) == whole and max(lengths) <= at_once
        assert max(lengths) - min(lengths) <= 1
        assert not even or len(units) % 2 == 0
    # No more of them than there must be.
    assert len(text.cut(whole, at_once, False)) == -(-taps // at_once)


def test_neighbouring_steps_that_keep_the_same_are_a_loop():
    steps = [step(0, 4), step(0, 4), step(), step(0, 4), step(1), step(1), step(2, 3), step(2, 3)]
    parts = text.parts_of(steps, 4, 2, True)
    assert [part[:3] for part in parts] == [(0, 0, 2), (0, 3, 1), (1, 0, 1), (1, 1, 1), (1, 2, 2)]
    # What is repeated is two units, one tap each; else both taps are one. One tap cannot be two.
    assert [len(part.units) for part in parts] == [2, 1, 1, 1, 2]
    assert all(part.count == 1 for part in text.parts_of(steps, 4, 2, False))
    # A loop ends with its chunk.
    halves = text.parts_of([step(0, 4)] * 4, 2, 2, True)
    assert [part[:3] for part in halves] == [(0, 0, 2), (1, 0, 2)]


def test_the_text_of_a_slice_is_what_it_is():
    steps = [[(0, [0, 1]), (4, [1])], [], [(8, [0])]]
    assert list(text.lines(steps, 1, 2, True)) == [
        *("NEXT_CHUNK", "LOAD(0, 0, 0)", "LOAD(0, 1, 4)"),
        *("NEXT_STAGE", "FENCE", "ADD(0, 0, 0, 0)", "ADD(0, 0, 1, 1)", "ADD(0, 1, 1, 2)"),
        *("COMMIT WAIT(1)", "FREE_CHUNK", "NEXT_CHUNK FREE_CHUNK", "NEXT_CHUNK", "LOAD(1, 0, 8)"),
        *("NEXT_STAGE", "FENCE", "ADD(1, 0, 0, 0)", "COMMIT WAIT(1)", "FREE_STAGE", "FREE_CHUNK"),
        "WAIT(0) FREE_STAGE",
    ]
    assert list(text.lines([[], [], []], 2, 2, True)) == ["NEXT_CHUNK FREE_CHUNK"] * 2


def test_slices_of_the_same_text_share_it():
    assert text.by_slice(["a", "a"]) == "a\n"
    assert text.by_slice(["a", "b", "a", "c"]) == (
        "if (slice == 0 || slice == 2) {\na\n} else if (slice == 1) {\nb\n} else {\nc\n}\n"
    )


def test_weights_are_copied_step_by_step():
    kept = torch.zeros(3, 5, 9, 2, dtype=torch.bool)
    kept[0, [0, 1], 4], kept[0, 3, :3, 0], kept[2, 4, 0] = True, True, True
    assert text.weights(kept) == (
        "if (slice == 0) {\nCOPY(2, 0, 2)\nCOPY(1, 4, 3)\n} else "
        "if (slice == 1) {\n\n} else {\nCOPY(1, 7, 2)\n}\n"
    )


def test_a_product_names_each_of_its_registers():
    for eights in (1, 2, 4, 8):
        found = text.head(eights, 25)
        assert "TAPS = 25;" in found
        for kind in ("f16", "bf16"):
            assert f"m64n{8 * eights}k16.f32.{kind}.{kind} " in found
        last = 4 * eights + 5
        assert f"%{last}}};" in found and f"%{last + 1}" not in found
        assert found.count('"+f"') == 2 * 4 * eights


def test_registers_that_change_hands_are_no_more_than_there_are():
    for groups, (more, fewer) in configs.REGISTERS.items():
        threads = configs.WgmmaConfig(1, 4, groups, 16, 2, 2, 1, 0).threads
        begin = 65536 // threads // 8 * 8
        assert 128 * (groups * more + fewer) <= begin * threads <= 65536
        # Those that multiply get more, those that copy give some; in eights, 24 to 256.
        assert (more, fewer) == (0, 0) or (24 <= fewer < begin < more <= 256)
        assert more % 8 == fewer % 8 == 0
        # Sums of the most filters that a block may have, and something beside them.
        most = wgmma_choice.MOST_EIGHTS // (2 if groups == 3 else 1)
        assert 4 * most + 16 < (more or min(begin, 255))


LAYERS = [
    ("PSD2_P8", 64, 56, 1, 1),
    ("PSD4_P16", 256, 14, 32, 1),
    ("PS4_P4", 128, 1, 64, 1),
    ("PSD2_P8", 512, 7, 256, 2),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda own: "-".join(map(str, own)))
def test_what_is_chosen_fits_the_card(layer):
    pattern, channels, side, batch, stride = layer
    found, maps = (
        sorted_(pattern, channels, channels),
        maps_of(batch, channels, (side,) * 2, stride=stride),
    )
    ranked = wgmma_choice.ranked(found, maps, channels, CARD, 132)
    assert ranked and len(set(ranked)) == len(ranked) and len(ranked) <= 2 * wgmma_choice.MOST_TRIED
    assert wgmma_choice.choose(found, maps, channels, CARD, 132) == ranked[0]
    for config in ranked:
        assert wgmma_choice.resident(config, maps, CARD) == 1
        positions = wgmma_choice.rows(maps, config.tile)
        assert choice.shared_bytes(config, positions, CARD) <= choice.SHARED[CARD]
        assert config.slice % 32 == 0 and config.slice * config.slices >= channels
        # What measurements are kept as is all that there is to say.
        assert wgmma_choice.made(config[:8], found) == config
        ordered = wgmma_tables.in_order(found)
        said = text.schedule(wgmma_tables.arranged(ordered, config).kept, config)
        assert said.count("ADD(") <= wgmma_choice.LONGEST
        # Without its loop it is tried later, if the compiler has too few registers.
        twin = config._replace(loops=0)
        assert twin == config or ranked.index(twin) > ranked.index(config)


def test_what_does_not_fit_is_not_chosen():
    found, maps = sorted_("PSD2_P8", 64, 64), maps_of(32, 64, (56, 56))
    for capability in ((8, 0), (8, 9), (10, 0), (12, 0)):
        assert "wgmma is of 9.0 alone" in wgmma_choice.refuses_card(capability)
        assert wgmma_choice.choose(found, maps, 64, capability, 8) is None
    assert wgmma_choice.refuses_card(CARD) is None
    fits = wgmma_choice.choose(found, maps, 64, CARD, 132)
    for other in (
        {"stage": 0},
        {"warpgroups": 4},
        {"chunk": 48},
        {"places": 1},
        {"stages": 1},
        {"at_once": 0},
        {"eights": 1, "groups": 3},
        {"eights": 8, "groups": 5},
        {"places": 99},
        {"stages": 999},
    ):
        assert wgmma_choice.resident(fits._replace(**other), maps, CARD) == 0, other


def test_shared_memory_is_what_the_kernel_lays_out():
    config = configs.WgmmaConfig(2, 4, 2, 32, 3, 4, 2, 1, 7, 5)
    place = (24 + 8) * 80
    rings = 3 * place + 4 * 7 * 512 + 16 * (3 + 4)
    # A float for each filter, and an int for eight of them.
    assert choice.shared_bytes(config, 17, CARD) == rings + 5 * 64 * 4 + 5 * 8 * 4


def test_filters_and_channels_that_lie_otherwise_are_refused():
    assert wgmma_choice.refuses_alike(sorted_("PSD2_P8", 64, 64)) is None
    _, _, unsorted = structure(NAMED["PSD2_P8"], (64, 64, 3, 3), False)
    assert "eight neighbouring filters" in wgmma_choice.refuses_alike(unsorted)
    # Eight channels of each kind: steps are of two kinds that are no neighbours.
    assert "in sixteens" in wgmma_choice.refuses_alike(sorted_("PSD1_P16", 256, 128))


def test_maps_that_it_cannot_read_are_refused():
    assert wgmma_choice.refuses_maps(maps_of(2, 64, (9, 9))) is None
    assert wgmma_choice.refuses_maps(maps_of(2, 64, (9, 9), padding=2, dilation=2)) is None
    assert "a padding of 2" in wgmma_choice.refuses_maps(maps_of(2, 64, (9, 9), padding=2))
    assert wgmma_choice.refuses_maps(maps_of(2, 64, (9, 9), kernel=(5, 5))) is None
    assert "30 taps" in wgmma_choice.refuses_maps(maps_of(2, 64, (9, 9), kernel=(5, 6)))
    assert "shared memory" in wgmma_choice.refuses_maps(maps_of(1, 64, (9, 9999)))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (5, 4), (7, 8)])
def test_rows_are_the_most_that_a_tile_reads(size):
    for stride, padding, dilation, tile in itertools.product((1, 2, 3), (0, 1), (1, 2), (64, 128)):
        if min(size) + 2 * padding <= 2 * dilation:
            continue
        maps = maps_of(30, 64, size, stride=stride, padding=padding, dilation=dilation)
        (height, width), (out_h, out_w) = size, maps.out
        m = torch.arange(maps.pixels)
        rest = m % (out_h * out_w)
        y, x = rest // out_w * stride - padding, rest % out_w * stride - padding
        first = (m // (out_h * out_w) * height + y) * width + x
        reach = 2 * dilation * (width + 1)
        spans = [own.max() - own[0] + reach + 1 for own in first.split(tile)]
        assert all(own.min() == own[0] for own in first.split(tile))
        assert max(spans) <= wgmma_choice.rows(maps, tile)
