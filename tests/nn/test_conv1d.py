"""Convolutions along lines: packed, they are the dense nn.Conv1d."""

import copy

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.nn import ChannelPrunedConv1d, CSRConv1d, PeriodicConv1d

KINDS = {"any": CSRConv1d, "channels": ChannelPrunedConv1d, "periodic": PeriodicConv1d}


def pair(kind, **options):
    """(a masked Conv1d, its packed layer)."""
    torch.manual_seed(0)
    dense = nn.Conv1d(8, 8, 3, **options)
    mask = torch.rand_like(dense.weight) > 0.5
    if kind == "channels":
        mask = torch.zeros_like(mask)
        mask[1:6, 2:] = True
    elif kind == "periodic":
        kept = [[0, 2], [1], [0, 1, 2]]
        mask = torch.zeros_like(mask)
        for o in range(8):
            for i in range(mask.shape[1]):
                mask[o, i, kept[(o + i) % 2]] = True
    with torch.no_grad():
        dense.weight.mul_(mask)
    return dense, KINDS[kind].from_dense(dense, mask)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("any", {"padding": 1, "stride": 2}),
        ("any", {"padding": "same", "dilation": 3, "groups": 2, "bias": False}),
        ("any", {"padding": 2, "padding_mode": "reflect"}),
        ("channels", {"padding": 2, "padding_mode": "circular"}),
        ("periodic", {"padding": 1, "dilation": 2}),
    ],
)
def test_it_is_the_dense_layer_forwards_backwards_and_back(kind, options):
    dense, packed = pair(kind, **options)
    for x in (torch.randn(3, 8, 17), torch.randn(8, 17)):
        found = []
        for layer in (dense, packed):
            own = x.clone().requires_grad_()
            y = layer(own)
            found.append((y, *torch.autograd.grad(y.square().sum(), [own, *layer.parameters()])))
            with torch.no_grad():
                torch.testing.assert_close(layer(own), y)
        expected, actual = found
        torch.testing.assert_close(actual[:2], expected[:2], rtol=1e-4, atol=1e-5)
        weight = packed.weight.gather(expected[2].unsqueeze(2))
        torch.testing.assert_close(actual[2], weight, rtol=1e-4, atol=1e-4)
        if dense.bias is not None:
            torch.testing.assert_close(actual[3], expected[3], rtol=1e-4, atol=1e-4)
    again = packed.to_dense()
    assert torch.equal(again.weight, dense.weight)
    assert torch.equal(again(x), dense(x))
    assert repr(again) == repr(dense)


def test_it_is_made_as_a_conv1d_is_and_loads_its_state():
    dense, packed = pair("any", padding=1)
    made = CSRConv1d(8, 8, 3, padding=1, mask=dense.weight != 0)
    made.load_state_dict(dense.state_dict())
    x = torch.randn(2, 8, 9)
    torch.testing.assert_close(made(x), packed(x))
    periodic = PeriodicConv1d(8, 4, 3, pattern=so.patterns.Periodic(((0, 2), (1,)), (1, 3)))
    assert periodic.to_dense().weight.shape == (4, 8, 3)


@pytest.mark.parametrize("x", [torch.randn(2, 8, 4, 9), torch.randn(9)])
def test_images_are_refused(x):
    with pytest.raises(ValueError, match=r"must be \(N, 8, L\)"):
        pair("any")[1](x)


def test_other_layers_are_refused():
    with pytest.raises(ValueError, match="Conv2d is not Conv1d"):
        CSRConv1d.from_dense(nn.Conv2d(8, 8, 3), torch.ones(8, 8, 3, 3, dtype=torch.bool))


def test_a_residual_is_added():
    dense, packed = pair("any", padding=1)
    x = torch.randn(2, 8, 9)
    with torch.no_grad():
        torch.testing.assert_close(packed(x, x), dense(x) + x)
        torch.testing.assert_close(copy.deepcopy(packed)(x), packed(x))
