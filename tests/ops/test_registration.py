"""The compiled operators as torch sees them."""

import pytest
import torch
from torch.library import opcheck

from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.ops import _native
from sparse_ops.patterns import PSD2_P8, Channels
from tests.processes import python, without_a_backend

ISAS = [isa for isa in _native.ISAS if _native.REFUSES[isa] is None]
needs_native = pytest.mark.skipif(not ISAS, reason=str(_native.MISSING))


def part(channels, batch=2, size=(3, 1)):
    """Some channels of a larger tensor (batch, *, *size)."""
    return torch.randn(batch, channels + 5, *size)[:, 2 : channels + 2]


def arguments():
    x, bias, shape = torch.randn(2, 8, 6, 5), torch.randn(16), (16, 8, 3, 3)
    geometry = ((2, 1), (1, 0), (1, 2), 1)
    periodic = PeriodicWeight.pack(torch.randn(shape), PSD2_P8.mask(shape))
    csr = CSRWeight.pack(torch.randn(shape), torch.rand(shape) > 0.8)
    channels = ChannelPrunedWeight.pack(torch.randn(shape), Channels((0, 1, 9), (2, 3)).mask(shape))
    linear = CSRWeight.pack(torch.randn(7, 9), torch.rand(7, 9) > 0.5)
    classes = (periodic.class_crow_indices, periodic.class_col_indices, periodic.values)
    rows = (csr.crow_indices, csr.col_indices, csr.values)
    line = (linear.crow_indices, linear.col_indices, linear.values)
    dy = torch.randn(2, 16, 3, 1)
    last = x.contiguous(memory_format=torch.channels_last)
    kept = (channels.values, channels.out_channels, channels.in_channels)
    return {
        "periodic_conv2d": (x, *classes, bias, torch.randn(2, 16, 3, 1), shape, *geometry, 1),
        "csr_conv2d": (x, *rows, None, None, shape, *geometry, 0),
        "channel_pruned_conv2d": (last, *kept, bias, None, shape, *geometry[:3], 2),
        "periodic_conv2d_out": (x, *classes, bias, None, shape, *geometry, 1, part(16)),
        "csr_conv2d_out": (last, *rows, bias, None, shape, *geometry, 0, part(16)),
        "channel_pruned_conv2d_out": (x, *kept, None, None, shape, *geometry[:3], 2, part(16)),
        "sparse_conv2d_backward": (dy, x, *rows, shape, *geometry, True, False),
        "csr_linear": (torch.randn(6, 9), *line, torch.randn(7), torch.randn(6, 7), 3),
        "csr_linear_out": (torch.randn(6, 9), *line, None, torch.randn(6, 7), 3, part(7, 6, ())),
        "to_blocked": (x, 1),
        "from_blocked": (torch.randn(2, 3, 5, 6, 16), 1, 19, True),
        "blocked_pool2d": (torch.randn(2, 3, 5, 6, 16), True, (3, 2), (2, 1), (1, 0), 1, 2),
        "blocked_conv2d": (
            torch.randn(1, 2, 5, 6, 16),
            torch.tensor([0, 2], dtype=torch.int32),
            torch.tensor([2], dtype=torch.int32),
            torch.tensor([1, 0], dtype=torch.int32),
            torch.zeros(10, dtype=torch.int32),
            torch.randn(4),
            torch.randn(2),
            None,
            (2, 3),
            (2, 2),
            1,
            0,
            1,
        ),
        "csr_linear_backward": (torch.randn(6, 7), torch.randn(6, 9), *line, False, True),
    }


@needs_native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", arguments())
def test_opcheck(name, isa):
    opcheck(getattr(torch.ops.sparse_ops, f"{name}_{isa}"), arguments()[name])


def test_without_compiled_code_everything_works_and_says_why():
    taken = 'import sys; sys.modules["sparse_ops._C"] = None'
    shape, error = without_a_backend(taken, "avx512")
    assert shape == "(1, 8, 3, 3)"
    assert "avx512: the compiled extension is not here (" in error
    said = python(f"{taken}\nfrom sparse_ops.ops import _native\nprint(_native.MISSING)")
    assert said.startswith("the compiled extension is not here (")


@needs_native
def test_instruction_sets_are_refused_by_name():
    with pytest.raises(RuntimeError, match="unknown instruction set 'mmx'"):
        torch.ops.sparse_ops.cpu_supports("mmx")
