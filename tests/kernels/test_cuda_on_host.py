"""The CUDA kernel's own text, run on a CPU by our own launcher.

It is exact on edge shapes, and what would go wrong on a card is caught. Products follow PTX's
documentation; no card has run any of it.
"""

import re
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.ops import _cuda_calls, _tuned
from sparse_ops.ops._activation import ACTIVATIONS, code_of, function_of
from sparse_ops.patterns import PS1_P9, PS2_P6, PS4_P4, PSD1_P8, PSD2_P8, PSD4_P16, Periodic
from tests.kernels import on_host
from tests.rounding import assert_within_rounding

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(on_host.COMPILER is None, reason="there is no C++ compiler"),
]
# eights, groups, pixel_warps, filter_warps, chunk, blocks
AMPERE = on_host.configs.TapConfig(1, 2, 1, 2, 32, 1)
WIDE = on_host.configs.TapConfig(4, 1, 2, 1, 16, 1)
TURING = on_host.configs.TapConfig(2, 1, 2, 1, 16, 1)
VOLTA = on_host.configs.TapConfig(2, 2, 1, 1, 32, 1)
USER = Periodic(((0, 4, 8), (), (1,)), (3, 3))
BAR = Periodic(((0, 2), (1,)), (1, 3))


@cache
def library(config, arch, bf16, folder):
    folder.mkdir(exist_ok=True)
    return on_host.built(folder, config, arch, bf16)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    """(config, arch, bf16) -> the emulated kernel."""
    root = tmp_path_factory.mktemp("cuda")
    return lambda *key: library(*key, root / re.sub(r"\W+", "-", repr(key)))


CASES = [
    # 1 × 1 maps, and a last tile of 6 pixels.
    (AMPERE, 800, True, PSD2_P8, 32, 32, (1, 1), 70, 1, 1, 1, False),
    # Several images a tile, sorted; narrow classes of 4 that share steps and groups.
    (AMPERE, 800, True, PSD4_P16, 64, 64, (3, 2), 13, 1, 1, 1, True),
    (AMPERE, 800, True, PSD2_P8, 40, 24, (7, 3), 2, 2, 1, 1, False),
    (AMPERE, 800, True, PS4_P4, 64, 32, (5, 9), 2, (1, 2), (1, 0), (1, 2), True),
    (AMPERE, 800, True, USER, 24, 48, (4, 4), 3, 1, 2, 2, False),
    (AMPERE, 800, True, BAR, 16, 16, (2, 7), 2, 1, (0, 1), 1, False),
    (WIDE, 900, False, PSD1_P8, 64, 16, (6, 7), 4, 1, 1, 1, True),
    (TURING, 750, False, PS2_P6, 48, 48, (9, 7), 3, 2, 2, 2, False),
    (TURING, 750, False, PSD2_P8, 136, 128, (2, 2), 5, 1, 1, 1, True),
    (VOLTA, 700, False, PSD2_P8, 64, 64, (6, 5), 3, 1, 1, 1, True),
    (VOLTA, 700, False, PS1_P9, 72, 40, (5, 5), 3, 2, 1, 1, False),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(str(v) for v in c[1:3] + c[4:8]))
def test_it_is_exact_up_to_rounding(libraries, case):
    config, arch, bf16, pattern, O, I, size, batch, stride, padding, dilation, sort = case
    shape = (O, I, *pattern.kernel_size)
    steps = [[v, v] if isinstance(v, int) else list(v) for v in (stride, padding, dilation)]
    dtype = torch.bfloat16 if bf16 else torch.float16
    x, weight, bias, residual, exact, magnitude = on_host.problem(
        shape, pattern, size, batch, dtype, sort, steps
    )
    launch = on_host.launcher(libraries(config, arch, bf16))
    y = on_host.convolved(x, weight, bias, residual, steps, 0, pattern, sort, config, arch, launch)
    assert_within_rounding(y, exact, magnitude, I * shape[2] * shape[3] + 2)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n])
def test_activations_are_those_of_torch(libraries, name):
    shape, steps = (16, 16, 3, 3), [[1, 1]] * 3
    x, weight, bias, residual, exact, magnitude = on_host.problem(
        shape, PSD2_P8, (3, 3), 2, torch.float16, False, steps
    )
    launch = on_host.launcher(libraries(WIDE, 900, False))
    y = on_host.convolved(
        *(x, weight, bias, residual, steps, code_of(name), PSD2_P8, False, WIDE, 900),
        launch,
    )
    exact = function_of(name)(exact)
    assert_within_rounding(y, exact, magnitude, 9 * 16 + 20, slope=1.5)


PLANTED = {
    "the barrier before a chunk is read is missing": (
        lambda k: k.replace("__syncthreads();  // everybody's", "// everybody's"),
        "off",
    ),
    "copies are not waited for": (lambda k: k.replace("ptx::copies_done();", ""), "off"),
    "the tile of sums is read too early": (
        lambda k: k.replace("__syncthreads();  // the tile is whole", ""),
        "off",
    ),
    "one warp does not come to the barrier": (
        lambda k: k.replace("__syncthreads();  // everybody's", "if (warp) __syncthreads();  //"),
        "some threads wait for others|wait at different barriers",
    ),
    "half a warp does not load": (
        lambda k: k.replace(
            "for (int u = 0; u < UNITS; u++) load(a[u]",
            "for (int u = 0; u < UNITS; u++) if (lane < 16) load(a[u]",
        ),
        "some threads wait for others|wait at different barriers",
    ),
    "a tap is one position off": (
        lambda k: k.replace("own[u] + at + (now >> 8)", "own[u] + at + (now >> 8) + PITCH"),
        "off|shared memory is left",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_caught(tmp_path, name):
    change, words = PLANTED[name]
    shape, steps = (32, 64, 3, 3), [[1, 1]] * 3
    x, weight, bias, residual, exact, magnitude = on_host.problem(
        shape, PSD2_P8, (5, 4), 7, torch.bfloat16, False, steps
    )
    broken = on_host.built(tmp_path, AMPERE, 800, True, change)
    launch = on_host.launcher(broken, seed=3)
    given = (x, weight, bias, residual, steps, 0, PSD2_P8, False, AMPERE, 800, launch)
    try:
        y = on_host.convolved(*given)
    except on_host.Emulated as error:
        assert re.search(words, str(error)), error
        return
    assert "off" in words.split("|"), "nothing was caught"
    with pytest.raises(AssertionError, match="times the bound"):
        assert_within_rounding(y, exact, magnitude, 64 * 9 + 2)


@pytest.mark.parametrize("kind", [PeriodicWeight, CSRWeight])
def test_the_operator_finds_its_own_way(monkeypatch, libraries, kind):
    """From the operator's arguments to y, as on a card of 8.0 with two multiprocessors."""
    card = SimpleNamespace(major=8, minor=0, multi_processor_count=2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    used = []

    def on_card(x, config, *rest):
        used.append(config)
        bf16 = x.dtype == torch.bfloat16
        on_host.launcher(libraries(config, 800, bf16))(x, config, *rest)

    monkeypatch.setattr(on_host.cuda, "on_card", on_card)
    shape, steps = (32, 16, 3, 3), [[1, 1]] * 3
    x, weight, bias, residual, exact, magnitude = on_host.problem(
        shape, PS4_P4, (5, 6), 3, torch.bfloat16, False, steps
    )
    packed = kind.pack(weight, PS4_P4.mask(shape))
    if kind is PeriodicWeight:
        indices = packed.class_crow_indices, packed.class_col_indices
    else:
        indices = packed.crow_indices, packed.col_indices
    with torch.no_grad():
        for _ in range(2):
            y = _cuda_calls.cuda(
                x, *indices, packed.values, bias, residual, list(shape), *steps, 1, 0
            )
            assert_within_rounding(y, exact, magnitude, 16 * 9 + 2)
        empty = _cuda_calls.cuda(
            x[:0], *indices, packed.values, bias, None, list(shape), *steps, 1, 0
        )
        # What was measured is believed, if it fits.
        for numbers, fits in (((1, 2, 1, 2, 32, 1), True), ((2, 1, 1, 2, 32, 16), False)):
            with _tuned.trying("tap", numbers):
                y = _cuda_calls.cuda(
                    x, *indices, packed.values, bias, residual, list(shape), *steps, 1, 0
                )
            assert_within_rounding(y, exact, magnitude, 16 * 9 + 2)
            assert (tuple(used[-1]) == numbers) == fits
            assert used[-1] == used[0] or fits
    assert empty.shape == (0, 32, 5, 6) and len(used) == 4
