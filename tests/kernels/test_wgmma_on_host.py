"""The CUDA kernel by wgmma, its own text, run on a CPU: exact on edge shapes, and what would go
wrong on a card is caught. `wgmma_on_host.h` says what is emulated; no card has run any of it.
"""

import re
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from sparse_ops.formats import PeriodicWeight
from sparse_ops.ops import _cuda_calls, _tuned
from sparse_ops.patterns import PS2_P6, PS4_P4, PSD1_P8, PSD2_P8, PSD4_P16, Periodic
from tests.kernels import on_host
from tests.rounding import assert_within_rounding

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(on_host.COMPILER is None, reason="there is no C++ compiler"),
]
Config = on_host.configs.WgmmaConfig
# eights, groups, warpgroups, chunk, stage, blocks, cluster
NARROW = Config(1, 8, 1, 32, 12, 1)
PAIR = Config(2, 2, 2, 32, 6, 1)
FOUR = Config(4, 1, 1, 16, 1, 1)
WIDE = Config(8, 2, 1, 64, 5, 1)
TWO = PAIR._replace(cluster=2)
TWO_NARROW = FOUR._replace(cluster=2)
USER = Periodic(((0, 4, 8), (), (1,)), (3, 3))
# No weights at all in some chunks of the channels.
GAP = Periodic(((4,), *[()] * 7), (3, 3))
CASES = [
    # 1 × 1 maps, and a last tile of 6 pixels.
    (NARROW, True, PSD2_P8, 64, 32, (1, 1), 70, 1, 1, 1, False),
    # Several images a tile, sorted; five slices of which the last is not full.
    (NARROW, True, PSD4_P16, 264, 32, (3, 2), 13, 1, 1, 1, True),
    (PAIR, False, PSD2_P8, 40, 24, (7, 3), 2, 2, 1, 1, False),
    (PAIR, True, PS4_P4, 64, 96, (5, 9), 3, (1, 2), (1, 0), (1, 2), True),
    (PAIR, True, USER, 24, 48, (4, 4), 3, 1, 2, 2, False),
    (FOUR, False, PSD1_P8, 64, 16, (6, 7), 2, 1, 1, 1, True),
    (FOUR, True, GAP, 64, 128, (3, 3), 8, 1, 1, 1, True),
    # Two slices, and a cluster whose second block has no pixels; chunks of no weights; one tile.
    (TWO, True, USER, 48, 48, (5, 5), 13, 1, 1, 1, False),
    (TWO_NARROW, False, GAP, 64, 128, (3, 3), 3, 1, 1, 1, True),
    (WIDE, True, PS2_P6, 96, 96, (9, 7), 1, 2, 2, 2, False),
]


@cache
def library(config, bf16, folder):
    folder.mkdir(exist_ok=True)
    return on_host.built(folder, config, 900, bf16)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """(config, bf16) -> the emulated kernel."""
    root = tmp_path_factory.mktemp("wgmma")
    return lambda *key: library(*key, root / re.sub(r"\W+", "-", repr(key)))


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(str(v) for v in c[1:2] + c[3:7]))
def test_it_is_exact_up_to_rounding(libraries, case):
    config, bf16, pattern, O, I, size, batch, stride, padding, dilation, sort = case
    shape = (O, I, *pattern.kernel_size)
    steps = [[v, v] if isinstance(v, int) else list(v) for v in (stride, padding, dilation)]
    dtype = torch.bfloat16 if bf16 else torch.float16
    x, weight, bias, residual, exact, magnitude = on_host.problem(
        shape, pattern, size, batch, dtype, sort, steps
    )
    launch = on_host.launcher(libraries(config, bf16))
    y = on_host.convolved(x, weight, bias, residual, steps, 1, pattern, sort, config, 900, launch)
    assert_within_rounding(y, exact.relu(), magnitude, I * shape[2] * shape[3] + 2)
    assert y.is_contiguous(memory_format=torch.channels_last)


def gone(words):
    """Takes words out of the kernel."""
    return lambda text: text.replace(words, "//" if "//" in words else "")


# What is read of a stage that is not there are addresses of nothing.
NOWHERE = "off|an access is not aligned|shared memory is left"
PLANTED = {
    "no fence before a product": (gone("ptx::before_products();"), "no fence between writing"),
    "products are not committed": (
        gone("            ptx::commit_products();\n"),
        "registers are written that a product at work reads",
    ),
    "older products are not waited for": (
        gone("wait_for_older<GROUPS>(ptx::ones(entry[h] & 0xff));"),
        "registers are written that a product at work reads",
    ),
    "one product more is left at work": (
        lambda k: k.replace("newest <= 1", "newest < 0"),
        "registers are written that a product at work reads",
    ),
    "an entry of nothing is no group": (
        gone("if (newest == 0) ptx::commit_products();"),
        "registers are written that a product at work reads",
    ),
    "the sums are read while products are at work": (
        gone("ptx::wait_products<0>();  // the sums are whole"),
        "a thread ends while products are at work",
    ),
    "copies are not shown to products": (gone("if (CLUSTER == 1) ptx::see_copies();"), "off"),
    "copies are shown before they are there": (
        lambda k: k.replace(
            "ptx::copies_done();\n    if (CLUSTER == 1) ptx::see_copies();",
            "ptx::see_copies();\n    ptx::copies_done();",
        ),
        "off",
    ),
    "copies are not waited for": (gone("    ptx::copies_done();\n"), NOWHERE),
    "the barrier before a stage is missing": (
        gone("__syncthreads();  // everybody's copies are done, and what the next ones replace"),
        f"{NOWHERE}|a copy is to where a product",
    ),
    "there are two places for stages": (
        lambda k: k.replace("place == 2 ? 0", "place == 1 ? 0"),
        "a copy is to where a product at work reads",
    ),
    "one warp does not come to the barrier": (
        lambda k: k.replace(
            "__syncthreads();  // everybody's", "if (warp) __syncthreads();  // everybody's"
        ),
        f"{NOWHERE}|some threads wait for others|wait at different barriers",
    ),
    "blocks of weights lie apart by less": (
        lambda k: k.replace("(u64)(256 >> 4) << 32", "(u64)(128 >> 4) << 32"),
        "off",
    ),
    "a warp multiplies by other weights": (
        lambda k: k.replace("weights += BLOCK >> 4;", "weights += (BLOCK >> 4) + (warp == 2);"),
        "have different products|shared memory is left by a product",
    ),
    "a layout is said to be swizzled": (
        lambda k: k.replace("(u64)(256 >> 4) << 32", "(u64)1 << 62 | (u64)(256 >> 4) << 32"),
        "not of a plain layout",
    ),
}


PLANTED_IN_A_CLUSTER = {
    "blocks do not wait for each other": (
        gone("if (CLUSTER > 1 && s > 0) ptx::cluster_wait();"),
        "a copy is to where a product at work reads",
    ),
    "bytes of the entries alone are waited for": (
        lambda k: k.replace("ptx::expect_bytes(barrier, listed + ", "ptx::expect_bytes(barrier, "),
        f"{NOWHERE}|some threads wait for others|a copy is to a block",
    ),
    "phases are not told apart": (
        gone("if (place == 0) parity ^= 1;"),
        f"{NOWHERE}|some threads wait for others",
    ),
    "copies are not waited for": (
        gone("if (CLUSTER > 1) ptx::wait_phase(barrier, phase);"),
        NOWHERE,
    ),
    "both blocks copy the same half": (
        lambda k: k.replace("first = rank == 0 ? 0 : (blocks + 1) / 2", "first = 0"),
        f"{NOWHERE}|some threads wait for others",
    ),
    "the second block has the pixels of the first": (
        lambda k: k.replace("p.slices * CLUSTER + rank", "p.slices * CLUSTER"),
        "off",
    ),
}
EVERY = [(name, PAIR, *planted) for name, planted in PLANTED.items()]
EVERY += [(f"cluster: {name}", TWO, *planted) for name, planted in PLANTED_IN_A_CLUSTER.items()]


@pytest.mark.parametrize(
    ("config", "change", "words"), [e[1:] for e in EVERY], ids=[e[0] for e in EVERY]
)
def test_what_is_planted_is_caught(tmp_path, config, change, words):
    # Two slices; chunks of eight entries, so that turns of three end with some of nothing.
    shape, steps = (48, 96, 3, 3), [[1, 1]] * 3
    x, weight, bias, residual, exact, magnitude = on_host.problem(
        shape, USER, (5, 4), 7, torch.bfloat16, False, steps
    )
    broken = on_host.built(tmp_path, config, 900, True, change, ("-O0",))
    # What is a matter of who comes first shows in some of these orders.
    for seed in range(24):
        launch = on_host.launcher(broken, seed)
        given = (x, weight, bias, residual, steps, 0, USER, False, config, 900, launch)
        try:
            y = on_host.convolved(*given)
        except on_host.Emulated as error:
            assert re.search(words, str(error)), error
            return
        if "off" in words.split("|"):
            with pytest.raises(AssertionError, match="times the bound"):
                assert_within_rounding(y, exact, magnitude, 96 * 9 + 2)
            return
    raise AssertionError("nothing was caught")


@pytest.mark.parametrize("kind", ["wgmma", "wgmma2"])
def test_the_operator_finds_its_own_way(monkeypatch, libraries, kind):
    """From the operator's arguments to y, as on a card of 9.0 with two multiprocessors."""
    card = SimpleNamespace(major=9, minor=0, multi_processor_count=2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    used = []

    def on_card(x, config, *rest):
        used.append(config)
        on_host.launcher(libraries(config, x.dtype == torch.bfloat16))(x, config, *rest)

    monkeypatch.setattr(on_host.cuda, "on_card", on_card)
    shape, steps = (32, 16, 3, 3), [[1, 1]] * 3
    x, weight, bias, residual, exact, magnitude = on_host.problem(
        shape, PS4_P4, (5, 6), 3, torch.bfloat16, False, steps
    )
    packed = PeriodicWeight.pack(weight, PS4_P4.mask(shape))
    indices = packed.class_crow_indices, packed.class_col_indices
    given = (x, *indices, packed.values, bias, residual, list(shape), *steps, 1, 0)
    with torch.no_grad():
        run = getattr(_cuda_calls, kind)
        assert_within_rounding(run(*given), exact, magnitude, 16 * 9 + 2)
        # What was measured is believed, if it fits: here, no block has so much shared memory.
        cluster = used[0].cluster
        assert cluster == (2 if kind == "wgmma2" else 1)
        small, large = PAIR._replace(cluster=cluster), Config(8, 4, 1, 64, 512, 1, cluster)
        for numbers, fits in ((tuple(small), True), (tuple(large), False)):
            with _tuned.trying(kind, numbers):
                assert_within_rounding(run(*given), exact, magnitude, 16 * 9 + 2)
            assert (tuple(used[-1]) == numbers) == fits
            assert used[-1] == used[0] or fits
        # The other form of the kernel has other configurations.
        _cuda_calls.cuda(x[:0], *given[1:5], None, *given[6:])
    assert all(type(config) is Config for config in used)
