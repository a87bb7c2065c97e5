"""The CUDA kernels on tensors of more than 2^32 elements: their last blocks, run on a CPU.

x, the residual and y are memory that nobody has touched, but for their last images: it takes none.
"""

import resource
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sparse_ops.patterns import PSD2_P8
from tests.kernels import on_host
from tests.rounding import assert_within_rounding

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(on_host.COMPILER is None, reason="there is no C++ compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="zeros may take memory here"),
]
CHANNELS, SIDE, FILLED = 64, 14, 3
IMAGES = 2**32 // (CHANNELS * SIDE**2) + 2 * FILLED
STEPS = [[1, 1]] * 3


def sparse(dtype):
    """(IMAGES, CHANNELS, SIDE, SIDE) in channels_last, zeros, of which no page is there yet."""
    # numpy takes zeros as the system gives them; torch writes its own.
    zeros = torch.from_numpy(np.zeros((IMAGES, SIDE, SIDE, CHANNELS), dtype=np.int16))
    return zeros.view(dtype).permute(0, 3, 1, 2)


def last_blocks(folder, config, arch, change=None):
    """(y, exact, magnitude) of the last image, whose blocks alone are run; y's first one."""
    dtype = torch.float16 if arch < 800 else torch.bfloat16
    shape = (CHANNELS, CHANNELS, 3, 3)
    mask, table, found = on_host.structure(PSD2_P8, shape, True)
    assert found.order is None, "x would be copied"
    texts = None
    if isinstance(config, on_host.configs.WgmmaConfig):
        config = on_host.wgmma_choice.made(config[:8], found)
        texts = on_host.wgmma_tables.tables(table, found, config, (9, 0)).texts
    x, residual = sparse(dtype), sparse(dtype)
    assert x.numel() > 2**32
    for tensor in (x, residual):
        tensor[-FILLED:] = torch.randn(tensor[-FILLED:].shape).to(dtype)
    weight, bias = torch.randn(shape).to(dtype) * mask, torch.randn(CHANNELS).to(dtype)

    def first(blocks):
        tiles = 2 + SIDE**2 // config.tile
        return blocks - CHANNELS // config.slice * tiles

    library = on_host.built(folder, config, arch, dtype == torch.bfloat16, change, more=texts)
    launch = on_host.launcher(library, first=first)
    given = (x, weight, bias, residual, STEPS, 0, PSD2_P8, True, config, arch, launch)
    # A block for each tile: of those that go from one to the next, all would be run.
    y = on_host.convolved(*given, processors=1 << 30)
    own, more = x[-1:].double(), residual[-1:].double()
    exact = F.conv2d(own, weight.double(), bias.double(), 1, 1) + more
    magnitude = F.conv2d(own.abs(), weight.double().abs(), bias.double().abs(), 1, 1) + more.abs()
    return y[-1:], exact, magnitude, y[:1]


@pytest.mark.parametrize("form", on_host.FORMS)
def test_the_last_image_is_exact_up_to_rounding(tmp_path, form):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    y, exact, magnitude, untouched = last_blocks(tmp_path, *on_host.FORMS[form])
    assert_within_rounding(y, exact, magnitude, CHANNELS * 9 + 2)
    assert not untouched.any(), "it is written where an offset of 32 bits would be"
    # In KiB: the three tensors are 26 GB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("(size_t)pixel * p.channels_in", "(u32)pixel * (u32)p.channels_in"),
        ("(size_t)m * p.filters", "(u32)m * (u32)p.filters"),
    ],
)
def test_offsets_of_32_bits_would_show(tmp_path, wide, narrow):
    narrowed = (*on_host.FORMS["mma"], lambda k: k.replace(wide, narrow))
    y, exact, magnitude, _ = last_blocks(tmp_path, *narrowed)
    with pytest.raises(AssertionError, match="times the bound"):
        assert_within_rounding(y, exact, magnitude, CHANNELS * 9 + 2)
