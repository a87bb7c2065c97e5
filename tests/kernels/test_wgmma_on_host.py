"""The CUDA kernel by wgmma, its own text and that made for a weight, run on a CPU: exact on edge
shapes, and what would go wrong on a card is caught. `wgmma_on_host.h` and `barrier_on_host.h` say
what is emulated.
"""

import re
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from sparse_ops.formats import CSRWeight
from sparse_ops.ops import _cuda_calls, _tuned
from sparse_ops.patterns import PS2_P6, PS4_P4, PSD1_P8, PSD2_P8, PSD4_P16, Periodic
from tests.kernels import on_host
from tests.rounding import assert_within_rounding

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(on_host.COMPILER is None, reason="there is no C++ compiler"),
]
CARD = (9, 0)
USER = Periodic(((0, 4, 8), (), (1,)), (3, 3))
BAR = Periodic(((0, 2), (1,)), (1, 3))
# Of four taps in one of eight kernels only: most chunks of the channels keep nothing.
GAP = Periodic(((0, 4, 5, 8), *[()] * 7), (3, 3))


class Pruned:
    """Half of the filters, and the first channels, keep nothing."""

    period, kernel_size = 1, (3, 3)

    def mask(self, shape):
        mask = torch.ones(shape, dtype=torch.bool)
        mask[: shape[0] // 2] = False
        mask[:, :40] = False
        mask[:, :, 1, 1] = False
        return mask


class Case(NamedTuple):
    """`numbers`: eights, groups, warpgroups, chunk, places, stages, at_once, loops."""

    numbers: tuple[int, ...]
    pattern: object
    shape: tuple[int, int]  # filters, channels
    size: tuple[int, int]
    batch: int
    bf16: bool = True
    activation: int = 1
    processors: int = 2
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)


CASES = {
    "1 × 1 maps, a last tile of 6 pixels": Case(
        (1, 8, 1, 32, 2, 2, 2, 1), PSD2_P8, (64, 64), (1, 1), 70
    ),
    "several images a tile, two slices that begin elsewhere": Case(
        (1, 4, 1, 16, 3, 4, 3, 1), PSD2_P8, (64, 128), (3, 2), 27, bf16=False, processors=1
    ),
    "three slices of which the last is not full": Case(
        (2, 4, 1, 32, 2, 3, 2, 0), PS4_P4, (160, 64), (5, 4), 7, activation=2
    ),
    "two warpgroups, the last without pixels": Case(
        (4, 1, 2, 16, 2, 2, 3, 1), PSD1_P8, (64, 128), (6, 5), 5, bf16=False, activation=0
    ),
    "three warpgroups, one block for all": Case(
        (8, 1, 3, 64, 2, 2, 1, 1), PSD4_P16, (256, 256), (7, 8), 7, processors=1
    ),
    "more blocks than are wanted": Case(
        (4, 2, 2, 32, 4, 5, 3, 0), PS4_P4, (64, 64), (4, 4), 3, activation=0, processors=132
    ),
    "strides, a padding of one side, dilation": Case(
        (4, 1, 1, 32, 2, 3, 2, 1),
        *(PS4_P4, (64, 64), (5, 9), 5),
        stride=(1, 2),
        padding=(1, 0),
        dilation=(1, 2),
    ),
    "stride 2, no padding, a chunk that is half empty": Case(
        (1, 4, 1, 64, 2, 2, 2, 1), PS2_P6, (96, 96), (9, 7), 13, stride=(2, 2), padding=(0, 0)
    ),
    "dilation 2, 1 × 1 maps of it": Case(
        (2, 2, 1, 16, 2, 2, 1, 1), USER, (48, 48), (4, 4), 6, padding=(2, 2), dilation=(2, 2)
    ),
    "chunks of no weights": Case((2, 2, 1, 16, 2, 2, 3, 1), GAP, (64, 128), (3, 3), 8),
    "a slice of no weights": Case((4, 1, 1, 16, 2, 2, 3, 1), Pruned(), (64, 72), (3, 4), 11),
    "kernels of 1 × 3": Case(
        (4, 1, 2, 16, 2, 2, 2, 1), BAR, (32, 48), (3, 50), 2, bf16=False, padding=(0, 1)
    ),
}


@cache
def library(config, bf16, text, folder):
    folder.mkdir(exist_ok=True)
    return on_host.built(folder, config, 900, bf16, more=dict(text.texts))


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    """What stands in for `on_card`, for an order of the threads."""
    root = tmp_path_factory.mktemp("wgmma")

    def launch(x, config, blocks, shared, problem, text, seed=0):
        key = config, x.dtype == torch.bfloat16, text
        found = library(*key, root / str(hash(key)))
        on_host.launcher(found, seed)(x, config, blocks, shared, problem, text)

    return launch


def given(case):
    """(what `on_host.problem` makes, steps, sorted, configuration)."""
    shape = (*case.shape, *case.pattern.kernel_size)
    steps = [list(v) for v in (case.stride, case.padding, case.dilation)]
    dtype = torch.bfloat16 if case.bf16 else torch.float16
    made = on_host.problem(shape, case.pattern, case.size, case.batch, dtype, True, steps)
    _, _, found = on_host.structure(case.pattern, shape, True)
    assert on_host.wgmma_choice.refuses_alike(found) is None
    return made, steps, on_host.wgmma_choice.made(case.numbers, found)


BOUNDS = {0: (-torch.inf, torch.inf), 1: (0, torch.inf), 2: (0, 6)}


@pytest.mark.parametrize("name", CASES)
def test_it_is_exact_up_to_rounding(emulated, name):
    case = CASES[name]
    (x, weight, bias, residual, exact, magnitude), steps, config = given(case)
    rest = (case.activation, case.pattern, True, config, 900, emulated, case.processors)
    y = on_host.convolved(x, weight, bias, residual, steps, *rest)
    exact = exact.clamp(*BOUNDS[case.activation])
    assert_within_rounding(y, exact, magnitude, weight[0].numel() + 2)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_neither_bias_nor_residual_is_wanted(emulated):
    case = CASES["1 × 1 maps, a last tile of 6 pixels"]
    (x, weight, *_), steps, config = given(case)
    y = on_host.convolved(
        x, weight, None, None, steps, 0, case.pattern, True, config, 900, emulated
    )
    exact = torch.nn.functional.conv2d(x.double(), weight.double(), None, *steps)
    magnitude = torch.nn.functional.conv2d(x.double().abs(), weight.double().abs(), None, *steps)
    assert_within_rounding(y, exact, magnitude, weight[0].numel())


def test_the_order_of_threads_makes_no_difference(emulated):
    case = CASES["several images a tile, two slices that begin elsewhere"]
    made, steps, config = given(case)

    def of_order(seed):
        def launch(*own):
            emulated(*own, seed=seed)

        more = (1, case.pattern, True, config, 900, launch, 3)
        return on_host.convolved(*made[:4], steps, *more)

    assert all(torch.equal(of_order(0), of_order(seed)) for seed in range(1, 6))


def instead(old, new):
    """Other words in the kernel, or in what it includes."""
    return lambda text: text.replace(old, new)


# What is read where nothing was put are NaN; what never comes is waited for.
WAIT, MORE = "some threads wait for others", "more arrive at a barrier than it counts"
HELD, COPIED = "registers are written that a product", "a copy is to where a product"
AT_WORK = "while products are at work"
PLANTED = {
    "no fence before a product": (
        instead("ptx::before_products();", ""),
        "no fence between writing",
    ),
    "a fence before the first product alone": (
        instead("WAIT(1)\nFREE_STAGE", "WAIT(1)\nFREE_STAGE\n#undef FENCE\n#define FENCE"),
        "no fence between writing",
    ),
    "products are not committed": (instead("ptx::commit_products();", ""), HELD),
    "older products are not waited for": (instead("WAIT(1)", ""), HELD),
    "one product more is left at work": (instead("WAIT(1)", "WAIT(2)"), HELD),
    "sums are read while products are at work": (
        instead("WAIT(0) FREE_STAGE", "FREE_STAGE"),
        f"{COPIED}|{AT_WORK}|{HELD}|off",
    ),
    "a stage is free while products are at work": (
        instead("COMMIT WAIT(1)\nFREE_STAGE", "COMMIT FREE_STAGE\nWAIT(1)"),
        COPIED,
    ),
    "a stage is free at once": (
        lambda text: (
            text.replace("FREE_STAGE", "").replace("NEXT_STAGE", "NEXT_STAGE FREE_STAGE")
            if "NEXT_CHUNK\n" in text
            else text
        ),
        f"{COPIED}|off",
    ),
    "a stage is never free": (instead("m.free_stage();", ""), WAIT),
    "a chunk is free before it is read": (
        lambda text: text.replace("\nFREE_CHUNK", "").replace(
            "NEXT_CHUNK\n", "NEXT_CHUNK FREE_CHUNK\n"
        ),
        "off",
    ),
    "a chunk is not waited for": (
        instead("ptx::wait_phase(plan.full_pixels(place.at), place.turn);", ""),
        f"off|{MORE}|{WAIT}",
    ),
    "a stage is not waited for": (
        instead("ptx::wait_phase(plan.full_weights(stage.at), stage.turn);", ""),
        f"off|{COPIED}|{MORE}|{WAIT}",
    ),
    "a place is not waited for": (
        instead("ptx::wait_phase(plan.empty_pixels(ring.at), ring.turn ^ 1);", ""),
        f"off|{MORE}|{WAIT}",
    ),
    "too many copiers are counted": (
        instead("full_pixels(i), PIXEL_COPIERS", "full_pixels(i), COPIERS"),
        WAIT,
    ),
    "one warp is not waited for": (
        instead("empty_weights(i), 4 * WARPGROUPS", "empty_weights(i), 4 * WARPGROUPS - 1"),
        f"{COPIED}|{MORE}|{WAIT}",
    ),
    "all lanes say that a place is free": (
        instead("if (first) ptx::arrive(plan.empty_pixels", "ptx::arrive(plan.empty_pixels"),
        f"off|{MORE}|{WAIT}",
    ),
    "those who multiply have a ring of one place fewer": (
        instead("Ring<PLACES> place;", "Ring<PLACES - 1> place;"),
        f"off|{MORE}|{WAIT}",
    ),
    "a ring has one place more than there are": (
        instead("at + 1 == COUNT ? 0 : at + 1", "at == COUNT ? 0 : at + 1"),
        "off|there is no barrier|shared memory is left|some threads wait|more arrive",
    ),
    "turns are not told apart": (
        instead("turn ^= at == 0;", ""),
        f"off|{COPIED}|{MORE}|{WAIT}",
    ),
    "a place begins as if it were full": (
        instead("empty_pixels(ring.at), ring.turn ^ 1", "empty_pixels(ring.at), ring.turn"),
        WAIT,
    ),
    "fewer bytes are expected than come": (
        instead("ptx::expect_bytes(barrier, bytes)", "ptx::expect_bytes(barrier, bytes - 16)"),
        WAIT,
    ),
    "weights are those one block on": (
        instead("(size_t)first * (P", "(size_t)(first + 1) * (P"),
        "off",
    ),
    "steps have the weights of the first": (instead("block + s * blocks", "block"), "off"),
    "a tile begins before zeros and biases are there": (
        instead("ptx::some_threads<1, MULTIPLIERS>();", ""),
        "off",
    ),
    "a block begins before there are barriers": (
        instead(
            "    ptx::show_barriers();\n  }\n  __syncthreads();", "    ptx::show_barriers();\n  }"
        ),
        "there is no barrier",
    ),
    "rows of zeros begin one row further": (
        instead("plan.rows + (r & ZEROS - 1)", "plan.rows + 1 + (r & ZEROS - 1)"),
        "off|shared memory is left",
    ),
    "rows of zeros are those of pixels": (
        instead("inside ? r : plan.rows + (r & ZEROS - 1)", "inside ? r : r & ZEROS - 1"),
        "off",
    ),
    "right of a row is the next row": (
        instead("&& (u32)(pixel.x + right) < (u32)p.width", ""),
        "off",
    ),
    "a step is not skipped": (instead("now += 32 * steps;", ""), "off"),
    "slices begin with the same chunk": (
        instead("first_chunk(item % p.slices)", "0"),
        "off",
    ),
    "slices have the same biases": (instead("plan.bias + slice * P::SLICE", "plan.bias"), "off"),
    "two of four lanes do not change places": (
        instead("ptx::of_lane<2>(lane & 2 ? low : high)", "ptx::of_lane<1>(lane & 2 ? low : high)"),
        "off",
    ),
    "eights of filters lie apart by less": (
        instead("ROWS_APART = 256 >> 4", "ROWS_APART = 128 >> 4"),
        "off",
    ),
    "a layout is said to be swizzled": (
        instead("(128 >> 4) << 16 |", "1 << 30 | (128 >> 4) << 16 |"),
        "not of a plain layout",
    ),
    "a warp multiplies by other weights": (
        instead(
            "weights + AT * (BLOCK >> 4)", "weights + (threadIdx.x < 32 ? 0 : AT) * (BLOCK >> 4)"
        ),
        "have different products",
    ),
    "two warpgroups have the same pixels": (
        instead("m0 + warp * 16 + (lane & 15)", "m0 + warp % 4 * 16 + (lane & 15)"),
        "off",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_caught(tmp_path, name):
    change, words = PLANTED[name]
    # Two slices that begin elsewhere; three tiles, for two blocks; rings that turn; loops.
    case = Case((2, 2, 2, 32, 2, 2, 2, 1), PS4_P4, (64, 128), (6, 5), 9, activation=0)
    made, steps, config = given(case)
    shape = (*case.shape, *case.pattern.kernel_size)
    _, table, found = on_host.structure(case.pattern, shape, True)
    more = on_host.wgmma_tables.tables(table, found, config, CARD).texts
    broken = on_host.built(tmp_path, config, 900, True, change, ("-O0",), more)
    # What is a matter of who comes first shows in some of these orders.
    for seed in range(24):
        rest = (0, case.pattern, True, config, 900, on_host.launcher(broken, seed), 2)
        try:
            y = on_host.convolved(*made[:4], steps, *rest)
        except on_host.Emulated as error:
            assert re.search(words, str(error)), error
            return
        try:
            assert_within_rounding(y, *made[4:], made[1][0].numel() + 2)
        except AssertionError as error:
            assert "times the bound" in str(error) and "off" in words.split("|"), error
            return
    raise AssertionError("nothing was caught")


def test_the_operator_finds_its_own_way(monkeypatch, emulated):
    """From the operator's arguments to y, as on a card of 9.0 with two multiprocessors."""
    card = SimpleNamespace(major=9, minor=0, multi_processor_count=2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    used, tried = [], []

    def on_card(x, config, blocks, *rest):
        used.append(config)
        assert blocks <= 2
        emulated(x, config, blocks, *rest)

    def can_run(x, config, tables):
        tried.append(config)
        return len(tried) > 1 and config[:8] != beyond

    monkeypatch.setattr(on_host.cuda, "on_card", on_card)
    monkeypatch.setattr(on_host.cuda, "can_run", can_run)
    shape, steps = (64, 64, 3, 3), [[1, 1]] * 3
    x, weight, bias, residual, exact, magnitude = on_host.problem(
        shape, PS4_P4, (5, 6), 5, torch.bfloat16, True, steps
    )
    packed = CSRWeight.pack(weight, on_host.structure(PS4_P4, shape, True)[0])
    indices = packed.crow_indices, packed.col_indices
    own = (x, *indices, packed.values, bias, residual, list(shape), *steps, 1, 0)
    small, large = (2, 2, 1, 16, 2, 3, 2, 1), (8, 4, 2, 128, 8, 8, 3, 0)
    beyond = (2, 4, 1, 16, 2, 3, 2, 1)
    with torch.no_grad():
        assert_within_rounding(_cuda_calls.wgmma(*own), exact, magnitude, 64 * 9 + 2)
        # Of the best, the first that the compiler has registers for; what was found is kept.
        assert len(tried) == 2 and used == tried[1:] and tried[0] != tried[1]
        # What was measured is believed, if it fits: here, no block has so much shared memory, or
        # the compiler has too few registers.
        for numbers, fits in ((small, True), (large, False), (beyond, False)):
            with _tuned.trying("wgmma", numbers):
                assert_within_rounding(_cuda_calls.wgmma(*own), exact, magnitude, 64 * 9 + 2)
            assert (used[-1][:8] == numbers) == fits
            assert fits or used[-1] == used[0]
        assert [config[:8] for config in tried[2:]] == [small, beyond]
        # Who calls it past all that refuses is told, too.
        with pytest.raises(RuntimeError, match="activation 3 is left to the other kernels"):
            _cuda_calls.wgmma(*own[:-1], 3)
        with pytest.raises(RuntimeError, match="more than half of the 2 that the kernel reaches"):
            _cuda_calls.wgmma(*own[:8], [2, 2], *own[9:])
        assert _cuda_calls.wgmma(x[:0], *own[1:5], None, *own[6:]).shape == (0, *exact.shape[1:])
    assert all(type(config) is on_host.configs.WgmmaConfig for config in used)
