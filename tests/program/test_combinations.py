"""Steps that combine values, or have numbers for each channel, against torch."""

import math

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.ops._activation import code_of, slope_of
from sparse_ops.ops._program_code import bits
from sparse_ops.program.program import CHANNELS, IMAGES, OPERATORS, PLANAR
from tests.activations import ACTIVATION_NAMES
from tests.program.steps import ISAS, LAYOUTS, PART, SHAPES, step
from tests.rounding import assert_within_rounding

COMBINED = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_operators_are_those_of_torch(layout, isa):
    assert set(COMBINED) == set(OPERATORS)
    for shape in [*SHAPES, (1, 1), (3, 16), (17, 37)]:
        if len(shape) == 2 and layout[0] != PLANAR:
            continue
        a, b = torch.randn(shape), torch.randn(shape)
        a.view(-1)[::5], b.view(-1)[::7] = math.nan, math.inf
        for operator, code in OPERATORS.items():
            y = step("binary", [a, b], (code, 0), isa=isa, layout=layout)
            expected = COMBINED[operator](a, b)
            same = (y == expected) | (y.isnan() & expected.isnan())
            assert same.all(), (shape, operator)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_activations_come_after_operators(layout, isa):
    for shape in SHAPES:
        a, b = torch.randn(shape) * 3, torch.randn(shape)
        for activation in ACTIVATION_NAMES:
            code, slope = code_of(activation), slope_of(activation)
            y = step("binary", [a, b], (OPERATORS["add"], code), isa=isa, layout=layout)
            function = (code & 0xFFFFFFFF, bits(slope or 0.0), 0)
            expected = step("unary", [a + b], function, isa=isa)
            assert torch.equal(y, expected), (shape, activation)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gate_is_one_number_a_plane(layout, isa):
    order, halo, out_halo, more, out_more = layout
    for shape in SHAPES:
        N, C = shape[:2]
        x = torch.randn(shape)
        for gate_order in (PLANAR, CHANNELS, IMAGES):
            for size in [(N, C, 1, 1), (1, C, 1, 1), (N, C), (1, C)]:
                if len(size) == 2 and gate_order != PLANAR:
                    continue
                gate = torch.randn(size)
                y = step(
                    "binary",
                    [x, gate],
                    (OPERATORS["mul"], 0),
                    isa=isa,
                    layout=(
                        (order + more, gate_order + more),
                        (halo, 0),
                        order + out_more,
                        out_halo,
                    ),
                )
                assert torch.equal(y, x * gate.reshape(-1, C, 1, 1)), (shape, size, gate_order)
    x, gate = torch.randn(5, 37), torch.randn(1, 37)
    assert torch.equal(step("binary", [x, gate], (OPERATORS["div"], 0), isa=isa), x / gate)


@pytest.mark.parametrize("isa", ISAS)
def test_the_second_input_may_have_another_halo(isa):
    a, b = torch.randn(2, 17, 3, 5), torch.randn(2, 17, 3, 5)
    for halos in ((0, 2), (1, 0), (2, 1)):
        for out_halo in (0, 1):
            layout = (CHANNELS, CHANNELS), halos, CHANNELS, out_halo
            assert torch.equal(step("binary", [a, b], (0, 0), isa=isa, layout=layout), a + b)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_affine_has_numbers_for_each_channel(layout, isa):
    for shape in [*SHAPES, (1, 1), (3, 16), (17, 37)]:
        if len(shape) == 2 and layout[0] != PLANAR:
            continue
        C = shape[1]
        x, scale, shift = torch.randn(shape), torch.randn(C), torch.randn(C)
        ones = [1] * (len(shape) - 2)
        wide = scale.double().reshape(C, *ones), shift.double().reshape(C, *ones)
        for code, activation in ((0, lambda v: v), (1, F.relu), (3, F.silu)):
            y = step("affine", [x], (code,), (scale, shift), isa=isa, layout=layout)
            exact = activation(x.double() * wide[0] + wide[1])
            magnitude = x.double().abs() * wide[0].abs() + wide[1].abs()
            assert_within_rounding(y, exact, magnitude, 3, slope=1.2)
        y = step("affine", [x], (0,), (None, shift), isa=isa, layout=layout)
        assert torch.equal(y, x + shift.reshape(C, *ones))
        y = step("affine", [x], (0,), (scale, None), isa=isa, layout=layout)
        assert torch.equal(y, x * scale.reshape(C, *ones))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_prelu_has_slopes_for_each_channel(layout, isa):
    for shape in [*SHAPES, (1, 1), (3, 16), (17, 37)]:
        if len(shape) == 2 and layout[0] != PLANAR:
            continue
        x, slopes = torch.randn(shape), torch.randn(shape[1])
        x.view(-1)[::7] = math.nan
        x.view(-1)[1::7] = -0.0
        for own in (slopes, slopes[:1]):
            y = step("prelu", [x], (), (own,), isa=isa, layout=layout)
            torch.testing.assert_close(y, F.prelu(x, own), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("log", [False, True])
def test_softmax_is_that_of_torch(log, isa):
    for shape in [(1, 1), (3, 2), (2, 15), (17, 16), (5, 1000), (2, 33)]:
        for scale in (1, 30, 1000):
            x = torch.randn(shape) * scale
            exact = (F.log_softmax if log else F.softmax)(x.double(), 1)
            for more in (0, PART):
                y = step("softmax", [x], (log,), isa=isa, layout=(PLANAR, 0, 0, more, more))
                # x - max is exact to half an ulp of itself; exp makes of that its relative error.
                away = (x.double() - x.double().amax(1, keepdim=True)).abs()
                size = away + exact.abs() if log else exact * (away + 4)
                assert_within_rounding(y, exact, size, 2)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("log", [False, True])
def test_softmax_of_what_is_no_number_is_that_of_torch(log, isa):
    x = torch.zeros(6, 19)
    x[0, 18] = x[1, 3] = math.nan
    x[2, 5] = math.inf
    x[3, 17] = x[4, 2] = -math.inf
    x[5] = -math.inf
    expected = (F.log_softmax if log else F.softmax)(x, 1)
    y = step("softmax", [x], (log,), isa=isa)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("isa", ISAS)
def test_what_does_not_fit_is_refused_in_words(isa):
    x = torch.randn(2, 3, 4, 5)
    with pytest.raises(RuntimeError, match="no function has the number 99"):
        step("unary", [x], (99, 0, 0), isa=isa)
    with pytest.raises(RuntimeError, match="no operator has the number -1"):
        step("binary", [x, x], (-1, 0), isa=isa)
    with pytest.raises(RuntimeError, match="no activation has the number 7"):
        step("binary", [x, x], (0, 7), isa=isa)
    for other in ((2, 3, 4, 4), (3, 3, 1, 1), (2, 1, 1, 1), (3,) * 2):
        words = r"must be \(2, 3, 4, 5\), or one number for each of its planes, got"
        with pytest.raises(RuntimeError, match=words):
            step("binary", [x, torch.randn(other)], (0, 0), isa=isa)
    with pytest.raises(RuntimeError, match="in one order, got images and channels"):
        step("binary", [x, x], (0, 0), isa=isa, layout=((1, 2), (0, 0), 1, 0))
    with pytest.raises(RuntimeError, match="in one order, got planar and channels"):
        step("unary", [x], (1, 0, 0), isa=isa, layout=((0,), (0,), 1, 0))
    with pytest.raises(RuntimeError, match="planar without a halo"):
        step("unary", [x[0, 0]], (1, 0, 0), isa=isa, layout=((1,), (0,), 1, 0))
    with pytest.raises(RuntimeError, match=r"must read 4 channels, got \(2, 3, 4, 5\)"):
        step("affine", [x], (0,), (torch.randn(4), None), isa=isa)
    with pytest.raises(RuntimeError, match="shift must have 3 values as scale has, got 4"):
        step("affine", [x], (0,), (torch.randn(3), torch.randn(4)), isa=isa)
    with pytest.raises(RuntimeError, match="a scale or a shift"):
        step("affine", [x], (0,), (None, None), isa=isa)
    with pytest.raises(RuntimeError, match="scale must be float32"):
        step("affine", [x], (0,), (torch.randn(3).double(), None), isa=isa)
    with pytest.raises(RuntimeError, match=r"must read 4 channels, got \(2, 3, 4, 5\)"):
        step("prelu", [x], (), (torch.randn(4),), isa=isa)
    with pytest.raises(RuntimeError, match="prelu must have slopes"):
        step("prelu", [x], (), (None,), isa=isa)
    with pytest.raises(RuntimeError, match=r"softmax must read \(N, C\), got \(2, 3, 4, 5\)"):
        step("softmax", [x], (0,), isa=isa)
