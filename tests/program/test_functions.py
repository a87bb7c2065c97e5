"""Steps that work number by number, against torch."""

import math

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.program.program import (
    FUNCTIONS,
    bits,
)
from tests.program.steps import ISAS, LAYOUTS, SHAPES, step

# Without fused multiplications the polynomials lose one or two more.
MOST_ULPS = 6
# Function -> (what it is, parameters).
EXACT = {
    "relu": (F.relu, ()),
    "relu6": (F.relu6, ()),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), (0.2,)),
    "clamp": (lambda x: x.clamp(-0.5, 1.25), (-0.5, 1.25)),
    "abs": (torch.abs, ()),
    "neg": (torch.neg, ()),
    "add": (lambda x: x + 0.7, (0.7,)),
    "mul": (lambda x: x * -1.3, (-1.3,)),
    "square": (torch.square, ()),
    "sqrt": (torch.sqrt, ()),
    "reciprocal": (torch.reciprocal, ()),
}
CURVES = {
    "silu": (lambda x: x * torch.sigmoid(x), ()),
    "hardswish": (F.hardswish, ()),
    "gelu": (lambda x: x * torch.special.erfc(-x / math.sqrt(2)) / 2, ()),
    "gelu_tanh": (
        lambda x: x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)),
        (),
    ),
    "sigmoid": (torch.sigmoid, ()),
    "hardsigmoid": (F.hardsigmoid, ()),
    "tanh": (torch.tanh, ()),
    "elu": (lambda x: F.elu(x, 0.5), (0.5,)),
    "mish": (F.mish, ()),
    "softplus": (lambda x: F.softplus(x, 2.0, 10.0), (2.0, 10.0)),
    "exp": (torch.exp, ()),
}


def attributes_of(function):
    _, parameters = (EXACT | CURVES)[function]
    numbers = [bits(each) for each in parameters]
    return (FUNCTIONS[function], *numbers, *[0] * (2 - len(numbers)))


def numbers():
    """All magnitudes of both signs, and closely where the curves bend."""
    powers = torch.logspace(-37, 38, 20_001)
    return torch.cat([powers, -powers, torch.linspace(-14, 14, 40_003)])


def test_every_function_is_here():
    assert set(EXACT | CURVES) == set(FUNCTIONS)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("function", EXACT)
def test_simple_functions_are_those_of_torch(function, isa):
    x = torch.cat([numbers(), torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf])])
    y = step("unary", [x[None]], attributes_of(function), isa=isa)[0]
    # Rounded once; torch's own sqrt is off by a place now and then.
    expected = torch.sqrt(x.double()).float() if function == "sqrt" else EXACT[function][0](x)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("function", CURVES)
def test_curves_are_accurate_to_a_few_ulp(function, isa):
    x = numbers()
    if function in ("silu", "hardswish", "mish"):
        # Further down a factor is no normal number, or three is lost; further up six times x is
        # none.
        x = x[(x > (-2.9 if function == "hardswish" else -80.0)) & (x < 5e37)]
    expected = CURVES[function][0](x.double())
    y = step("unary", [x[None]], attributes_of(function), isa=isa)[0]
    tiny = torch.finfo(torch.float32).tiny
    most = torch.finfo(torch.float32).max
    assert y[expected > most].isposinf().all()
    normal = (expected.abs() >= tiny) & (expected.abs() <= most)
    rounded = expected.float().abs()
    ulp = (torch.nextafter(rounded, torch.tensor(math.inf)) - rounded).double()
    error = (y - expected).abs()
    assert (error / ulp)[normal].max() <= MOST_ULPS
    small = error[expected.abs() < tiny]
    assert small.numel() == 0 or small.max() <= tiny
    assert int(normal.sum()) > 30_000


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("function", CURVES)
def test_what_is_no_ordinary_number_is_as_in_float64(function, isa):
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e30, -1e30, -200.0, 200.0])
    y = step("unary", [x[None]], attributes_of(function), isa=isa)[0]
    torch.testing.assert_close(
        y, CURVES[function][0](x.double()).float(), rtol=1e-6, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("function", ["gelu", "gelu_tanh"])
def test_minus_zero_stays_minus_zero(function, isa):
    y = step("unary", [torch.full((1, 37), -0.0)], attributes_of(function), isa=isa)
    assert not y.any() and bool(y.signbit().all())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_functions_are_the_same_in_every_layout(layout, isa):
    for shape in SHAPES:
        x = torch.rand(shape) + 0.1
        x[..., ::2] *= -1
        for function in FUNCTIONS:
            if function == "sqrt":
                x = x.abs()
            alone = step("unary", [x.reshape(1, -1)], attributes_of(function), isa=isa)
            y = step("unary", [x], attributes_of(function), isa=isa, layout=layout)
            assert torch.equal(y, alone.reshape(shape)), (shape, function)
