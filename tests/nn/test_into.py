"""Layers that write their outputs into channels of one tensor."""

import pytest
import torch
from torch import nn

from sparse_ops.nn import ChannelPrunedConv2d, CSRConv2d, PeriodicConv2d
from sparse_ops.ops import _native
from sparse_ops.patterns import PSD2_P8, Channels
from tests.compiling import assert_compiles_and_exports
from tests.covering import pairwise

KINDS = [CSRConv2d, PeriodicConv2d, ChannelPrunedConv2d]
BACKENDS = ["auto", "reference", *(i for i in _native.ISAS if _native.REFUSES[i] is None)]


def layer_of(kind, channels=8, filters=16, backend="auto", activation="relu"):
    dense = nn.Conv2d(channels, filters, 3, stride=(2, 1), padding=1)
    shape = tuple(dense.weight.shape)
    mask = {
        CSRConv2d: torch.rand(shape) > 0.7,
        PeriodicConv2d: PSD2_P8.mask(shape),
        ChannelPrunedConv2d: Channels(tuple(range(1, filters)), (0, 2, 3)).mask(shape),
    }[kind]
    return kind.from_dense(dense, mask, activation=activation, backend=backend)


@pytest.mark.parametrize(
    ("kind", "backend", "dtype", "layout"),
    pairwise(
        KINDS,
        BACKENDS,
        [torch.float32, torch.bfloat16],
        [torch.contiguous_format, torch.channels_last],
    ),
    ids=str,
)
def test_two_layers_make_what_their_concatenation_is(kind, backend, dtype, layout):
    one, two = layer_of(kind, backend=backend), layer_of(kind, 8, 24, backend, None)
    one, two = one.to(dtype), two.to(dtype)
    x = torch.randn(2, 8, 7, 6).to(dtype).contiguous(memory_format=layout)
    residual = torch.randn(2, 24, 4, 6).to(dtype)
    with torch.no_grad():
        expected = torch.cat([one(x), two(x, residual)], 1)
        whole = one(x, into=(41, 0))
        assert whole.shape == (2, 41, 4, 6) and whole.dtype == dtype
        assert whole.is_contiguous(memory_format=layout)
        whole[:, 40] = 7
        found = two(x, residual, into=(whole, 16))
        assert found is whole
        torch.testing.assert_close(whole[:, :40], expected)
        assert bool((whole[:, 40] == 7).all())


@pytest.mark.parametrize("kind", KINDS)
def test_where_a_gradient_is_wanted_there_is_one(kind):
    one, two = layer_of(kind), layer_of(kind, 8, 24)
    x = torch.randn(2, 8, 7, 6, requires_grad=True)
    expected = torch.cat([one(x), two(x)], 1)
    found = two(x, into=(one(x, into=(40, 0)), 16))
    torch.testing.assert_close(found, expected)
    dy, inputs = torch.randn_like(expected), (x, one.values, two.values, two.bias)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, dy),
        torch.autograd.grad(expected, inputs, dy),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_under_autocast_the_tensor_is_of_its_type():
    layer, x = layer_of(CSRConv2d), torch.randn(2, 8, 7, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole = layer(x, into=(20, 2))
        assert whole.dtype == torch.bfloat16
        assert torch.equal(whole[:, 2:18], layer(x))


def test_a_place_that_is_not_there_is_named():
    layer, x = layer_of(CSRConv2d), torch.randn(2, 8, 7, 6)
    words = r"out must be \(2, 16, 4, 6\), got \(2, 15, 4, 6\)"
    for gradient in (False, True):
        for whole, first in ((20, 5), (torch.zeros(2, 20, 4, 6), 5)):
            with torch.set_grad_enabled(gradient), pytest.raises(ValueError, match=words):
                layer(x, into=(whole, first))
    with pytest.raises(ValueError, match=r"x must be \(N, I, H, W\) to write .*, got \(8, 7, 6\)"):
        layer(x[0], into=(20, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_it_compiles_and_exports(kind):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = layer_of(kind), layer_of(kind, 8, 24)

        def forward(self, x):
            return self.two(x, into=(self.one(x, into=(40, 0)), 16)).relu()

    assert_compiles_and_exports(Two(), torch.randn(2, 8, 7, 6))
