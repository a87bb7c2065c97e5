"""Activations of the compiled kernels, number by number, against float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.functional import (
    channel_pruned_conv2d,
    csr_conv2d,
    csr_linear,
    periodic_conv2d,
)
from sparse_ops.ops import _native
from sparse_ops.ops._activation import code_of, from_code, function_of, leaky_relu, slope_of
from sparse_ops.patterns import PSD2_P8
from tests.activations import ACTIVATION_NAMES

ISAS = [
    pytest.param(isa, marks=pytest.mark.skipif(why is not None, reason=str(why)))
    for isa, why in _native.REFUSES.items()
]
FUNCTIONS = {
    CSRWeight: csr_conv2d,
    PeriodicWeight: periodic_conv2d,
    ChannelPrunedWeight: channel_pruned_conv2d,
}
# Without fused multiplications the polynomials lose one or two more.
MOST_ULPS = 6


def applied(x, activation, isa, bias=None):
    """What the kernel of a linear layer does to each number: the weight is one."""
    weight = CSRWeight.pack(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))
    return csr_linear(x[:, None], weight, bias, activation=activation, backend=isa)[:, 0]


def exactly(x, activation):
    """In float64, without the cancellation of 1 + erf and 1 + tanh."""
    x = x.double()
    if activation == "gelu":
        return x * torch.special.erfc(-x / math.sqrt(2)) / 2
    if activation == "gelu_tanh":
        return x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))
    return function_of(activation)(x)


def numbers():
    """All magnitudes of both signs, and closely where the curves bend."""
    powers = torch.logspace(-37, 38, 20_001).float()
    return torch.cat([powers, -powers, torch.linspace(-14, 14, 200_003)])


@pytest.mark.parametrize("slope", [0.0, -0.0, 0.01, 0.1, -1.5, 1 / 3, 1e-45, 3.4e38, -3.4e38])
def test_a_slope_is_a_part_of_the_name_and_of_the_number(slope):
    name = leaky_relu(slope)
    code = code_of(name)
    assert slope_of(name) == slope and -(2**63) <= code < 2**63
    exactly = torch.tensor(slope).item()
    for isa, why in _native.REFUSES.items():
        if why is None:
            x = torch.tensor([-1.0, 2.0, -0.0])
            y = applied(x, name, isa)
            assert y.tolist() == [-exactly, 2.0, 0.0]
    again = from_code(code)
    assert code_of(again) == code and len(again) <= len(name)


@pytest.mark.parametrize(
    "name", ["leaky_relu", "leaky_relu()", "leaky_relu(nan)", "leaky_relu(.1)", "leaky_relu(1e39)"]
)
def test_what_is_no_slope_is_refused(name):
    with pytest.raises(ValueError, match="activation must be one of None, relu, "):
        applied(torch.ones(3), name, "scalar")


NO_NUMBERS = [
    7,
    9,
    11,
    -1,
    1 << 32 | 1,
    0x7F800000 << 32 | 10,
    -(1 << 63) | 5,
    0x7FC00000 << 32 | 10,
]


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_a_number_of_no_activation_is_refused_everywhere(number):
    with pytest.raises(ValueError, match="no activation has the number"):
        from_code(number)
    operator = torch.ops.sparse_ops.csr_linear_scalar
    weight = CSRWeight.pack(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool))
    indices = weight.crow_indices, weight.col_indices
    with pytest.raises(RuntimeError, match="no activation has the number"):
        operator(torch.ones(1, 1), *indices, weight.values, None, None, number)


def test_a_compiled_model_has_the_slope():
    weight = CSRWeight.pack(torch.eye(4), torch.eye(4).bool())
    x = torch.randn(3, 4)
    run = torch.compile(
        lambda x: csr_linear(x, weight, activation="leaky_relu(0.25)"), fullgraph=True
    )
    with torch.no_grad():
        assert torch.equal(run(x), F.leaky_relu(x, 0.25))
    w = x.clone().requires_grad_()
    run(w).sum().backward()
    assert torch.equal(w.grad, torch.where(x > 0, 1.0, 0.25))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_gelu_is_accurate_to_a_few_ulp_everywhere(activation, isa):
    x = numbers()
    expected = exactly(x, activation)
    y = applied(x, activation, isa)
    tiny = torch.finfo(torch.float32).tiny
    normal = expected.abs() >= tiny
    rounded = expected.float().abs()
    ulp = (torch.nextafter(rounded, torch.tensor(math.inf)) - rounded).double()
    error = (y - expected).abs()
    assert (error / ulp)[normal].max() <= MOST_ULPS
    assert error[~normal].max() <= tiny
    assert int(normal.sum()) > 100_000


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_what_is_no_ordinary_number_is_as_in_float64(activation, isa):
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e30, -1e30, -200.0, 200.0])
    y, expected = applied(x, activation, isa), function_of(activation)(x.double()).float()
    assert torch.equal(y.isnan(), expected.isnan())
    there = ~expected.isnan()
    torch.testing.assert_close(y[there], expected[there], rtol=1e-6, atol=0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("batch", [1, 3, 4, 5, 17, 64])
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "leaky_relu(-0.3)"])
def test_every_value_is_curved_once(activation, batch, isa):
    """Tails of lines, a residual, and tiles that lie over each other."""
    dense = torch.randn(37, 29) * (torch.rand(37, 29) > 0.5)
    weight, bias = CSRWeight.pack(dense, dense != 0), torch.randn(37)
    x, residual = torch.randn(batch, 29), torch.randn(batch, 37)
    for added in (None, residual):
        y = csr_linear(x, weight, bias, activation=activation, residual=added, backend=isa)
        z = x.double() @ dense.double().T + bias + (0 if added is None else added)
        torch.testing.assert_close(y.double(), exactly(z, activation), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 17])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", [CSRWeight, PeriodicWeight, ChannelPrunedWeight])
def test_every_pixel_is_curved_once(kind, last, batch, dtype, isa):
    """All ways in which convolutions write: planes, channels, images in lanes; 16 bits; parts."""
    shape = (32, 8, 3, 3)
    mask = torch.rand(shape) > 0.7
    if kind is PeriodicWeight:
        mask = PSD2_P8.mask(shape)
    if kind is ChannelPrunedWeight:
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[::2, 1:] = True
    dense = (torch.randn(shape) * mask).to(dtype)
    weight, function = kind.pack(dense, mask), FUNCTIONS[kind]
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(batch, 8, 7, 9).to(dtype).contiguous(memory_format=layout)
    residual = torch.randn(batch, 32, 7, 9).to(dtype).contiguous(memory_format=layout)
    for activation in ("silu", "gelu", "gelu_tanh", "leaky_relu(-0.3)"):
        for added in (None, residual):
            options = {"activation": activation, "residual": added, "backend": isa}
            z = F.conv2d(x.double(), dense.double(), None, 1, 1)
            expected = exactly(z + (0 if added is None else added.double()), activation)
            tolerance = 1e-5 if dtype is torch.float32 else 1e-2
            y = function(x, weight, None, 1, 1, **options)
            torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
            wide = torch.empty(batch, 40, 7, 9, dtype=dtype).contiguous(memory_format=layout)
            with torch.no_grad():
                function(x, weight, None, 1, 1, **options, out=wide[:, 8:])
            assert torch.equal(wide[:, 8:], y)
