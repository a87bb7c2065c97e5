"""The Triton backends as a user without a GPU meets them; the kernels in a process of their own."""

from dataclasses import replace

import pytest
import torch

from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.ops import _kernels
from sparse_ops.ops.channel_pruned_conv2d import channel_pruned_conv2d
from sparse_ops.ops.csr_conv2d import csr_conv2d
from sparse_ops.ops.csr_linear import csr_linear
from sparse_ops.ops.periodic_conv2d import periodic_conv2d
from sparse_ops.patterns import PSD2_P8, Channels
from tests.processes import without_a_backend

pytestmark = pytest.mark.skipif(_kernels.INTERPRETED, reason="these tests are not interpreted")


def test_tensors_on_the_cpu_are_refused_in_words():
    weight = CSRWeight.pack(torch.randn(4, 9), torch.rand(4, 9) > 0.5)
    cuda = torch.version.cuda is not None
    words = "triton: x is on cpu, not cuda" if cuda else "triton: this torch was built without CUDA"
    with pytest.raises(RuntimeError, match=words):
        csr_linear(torch.randn(3, 9), weight, backend="triton")


@pytest.mark.parametrize(
    ("version", "words"),
    [("2.1.0", "Triton 2.1.0 is too old: 3.6"), ("3.5.1+git", "too old"), ("3.6.0", None)],
)
def test_an_old_triton_is_refused_in_words(version, words):
    reason = _kernels.too_old(version)
    assert reason is None if words is None else words in str(reason)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ("types.ModuleType('triton')", "Triton 2.1.0 is too old: 3.6 or newer is needed"),
        ("None", "the Triton kernels are not here (import of triton halted"),
    ],
)
def test_without_triton_or_with_an_old_one_everything_works_and_says_why(found, words):
    taken = f"""
import sys, types
sys.modules["triton"] = triton = {found}
if triton:
    triton.__version__ = "2.1.0"
"""
    # Where the interpreter is asked for, a torch without CUDA does not settle the matter.
    shape, error = without_a_backend(taken, "triton", TRITON_INTERPRET="1")
    assert shape == "(1, 8, 3, 3)"
    assert f"triton: {words}" in error


def test_an_index_tensor_on_another_device_is_named():
    shape = (8, 8, 3, 3)
    dense, image = torch.randn(shape), torch.randn(1, 8, 5, 5)
    periodic = PeriodicWeight.pack(dense, PSD2_P8.mask(shape))
    csr = CSRWeight.pack(dense, torch.rand(shape) > 0.5)
    linear = CSRWeight.pack(dense[0, 0], torch.rand(3, 3) > 0.5)
    channels = ChannelPrunedWeight.pack(dense, Channels((1, 2), (3,)).mask(shape))
    for run, x, weight, field in (
        (periodic_conv2d, image, periodic, "class_col_indices"),
        (csr_conv2d, image, csr, "crow_indices"),
        (channel_pruned_conv2d, image, channels, "in_channels"),
        (csr_linear, torch.randn(2, 3), linear, "col_indices"),
    ):
        away = replace(weight, **{field: getattr(weight, field).to("meta")})
        with pytest.raises(ValueError, match=f"x is on cpu, but the weight's {field} are on meta"):
            run(x, away)
        away = weight.with_values(weight.values.to("meta"))
        with pytest.raises(ValueError, match="x is on cpu, but the weight is on meta"):
            run(x, away)
