"""Pooling steps against torch."""

import math

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.program.program import AVERAGE, MAX
from tests.program.steps import ISAS, LAYOUTS, SHAPES, step
from tests.rounding import assert_within_rounding

# kernel, stride, padding, ceil_mode.
WINDOWS = [
    ((2, 2), (2, 2), (0, 0), False),
    ((3, 3), (2, 2), (1, 1), False),
    ((3, 3), (2, 2), (1, 1), True),
    ((3, 3), (1, 1), (1, 1), False),
    ((2, 3), (3, 4), (1, 0), True),
    ((5, 4), (1, 3), (2, 2), True),
    ((1, 1), (2, 3), (0, 0), True),
]
SIZES = [(1, 1), (1, 3), (2, 2), (3, 5), (7, 7), (9, 1)]


def fits(shape, window):
    kernel, stride, padding, ceil_mode = window
    return all(
        shape[2 + i] + 2 * padding[i] - kernel[i] + (stride[i] - 1 if ceil_mode else 0) >= 0
        for i in range(2)
    )


def cases():
    return [(shape, window) for window in WINDOWS for shape in SHAPES if fits(shape, window)] + [
        ((1, 20, 33, 70), WINDOWS[2]),
        ((2, 3, 19, 141), WINDOWS[1]),
        ((1, 2, 5, 2100), WINDOWS[3]),
        ((1, 2, 40, 45), ((20, 21), (1, 2), (4, 3), True)),
    ]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_largest_is_that_of_torch(layout, isa):
    for shape, (kernel, stride, padding, ceil_mode) in cases():
        # Mostly under zero: what is no part of the image would win.
        x = torch.randn(shape) - 3
        expected = F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil_mode)
        attributes = (MAX, *kernel, *stride, *padding, ceil_mode, 0)
        y = step("pool", [x], attributes, isa=isa, layout=layout)
        assert torch.equal(y, expected), (shape, kernel)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_mean_is_that_of_torch(layout, count_include_pad, isa):
    for shape, (kernel, stride, padding, ceil_mode) in cases():
        x = torch.randn(shape)
        exact, magnitude = (
            F.avg_pool2d(each, kernel, stride, padding, ceil_mode, count_include_pad)
            for each in (x.double(), x.double().abs())
        )
        attributes = (AVERAGE, *kernel, *stride, *padding, ceil_mode, count_include_pad)
        y = step("pool", [x], attributes, isa=isa, layout=layout)
        # Longer sums are in double in the end.
        assert_within_rounding(y, exact, magnitude, min(math.prod(kernel), 64))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_adaptive_windows_are_those_of_torch(layout, isa):
    for shape in [*SHAPES, (1, 17, 23, 40), (1, 3, 8, 1100)]:
        for size in SIZES:
            x = torch.randn(shape) - 3
            most = step("adaptive_pool", [x], (MAX, *size), isa=isa, layout=layout)
            assert torch.equal(most, F.adaptive_max_pool2d(x, size)), (shape, size)
            mean = step("adaptive_pool", [x], (AVERAGE, *size), isa=isa, layout=layout)
            exact, magnitude = (
                F.adaptive_avg_pool2d(each, size) for each in (x.double(), x.double().abs())
            )
            assert_within_rounding(mean, exact, magnitude, 64)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(128, 128), (4096, 1), (3, 4001)])
def test_the_mean_of_a_large_map_loses_no_digit(layout, size, isa):
    # All alike: sums that only grow are where digits get lost.
    x = 1 + torch.rand(1, 3, *size) * 1e-3
    exact = x.double().mean((2, 3), keepdim=True)
    y = step("adaptive_pool", [x], (AVERAGE, 1, 1), isa=isa, layout=layout)
    assert (y - exact).abs().max() <= 4 * 2.0**-24
    y = step("pool", [x], (AVERAGE, *size, 1, 1, 0, 0, 0, 1), isa=isa, layout=layout)
    assert (y - exact).abs().max() <= 4 * 2.0**-24


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_goes_where_torch_lets_it(odd, layout, isa):
    x = torch.randn(2, 18, 9, 40)
    x[:, ::5, 3, ::7] = odd
    x[1, 0] = odd
    for kernel, stride, padding, ceil_mode in (*WINDOWS, ((20, 21), (1, 2), (10, 3), True)):
        if not fits(x.shape, (kernel, stride, padding, ceil_mode)):
            continue
        attributes = (*kernel, *stride, *padding, ceil_mode, 1)
        most = step("pool", [x], (MAX, *attributes), isa=isa, layout=layout)
        expected = F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil_mode)
        torch.testing.assert_close(most, expected, rtol=0, atol=0, equal_nan=True)
        mean = step("pool", [x], (AVERAGE, *attributes), isa=isa, layout=layout)
        expected = F.avg_pool2d(x, kernel, stride, padding, ceil_mode)
        torch.testing.assert_close(mean, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    most = step("adaptive_pool", [x], (MAX, 1, 1), isa=isa, layout=layout)
    torch.testing.assert_close(most, F.adaptive_max_pool2d(x, 1), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("isa", ISAS)
def test_what_cannot_be_pooled_is_refused_in_words(isa):
    x = torch.randn(1, 2, 3, 4)
    for attributes, words in (
        ((MAX, 4, 1, 1, 1, 0, 0, 0, 1), r"must read larger images, got \(1, 2, 3, 4\)"),
        ((MAX, 2, 2, 0, 1, 0, 0, 0, 1), "stride from 1 on.*got 2, 0, 0"),
        ((MAX, 2, 2, 1, 1, 2, 0, 0, 1), "up to half of the kernel, got 2, 1, 2"),
        ((2, 2, 2, 1, 1, 0, 0, 0, 1), "mode 0 or 1, got 2"),
        ((MAX, 2, 2), "must have 9 attributes, got 3"),
    ):
        with pytest.raises(RuntimeError, match=words):
            step("pool", [x], attributes, isa=isa)
    with pytest.raises(RuntimeError, match="must have 1 inputs, got 2"):
        step("pool", [x, x], (MAX, 2, 2, 1, 1, 0, 0, 0, 1), isa=isa)
    with pytest.raises(RuntimeError, match=r"must read \(N, C, H, W\), got 2 dimensions"):
        step("pool", [x[0, 0]], (MAX, 2, 2, 1, 1, 0, 0, 0, 1), isa=isa)
    with pytest.raises(RuntimeError, match="in one order, got channels and images"):
        layout = [1], [0], 2, 0
        step("pool", [x], (MAX, 2, 2, 1, 1, 0, 0, 0, 1), isa=isa, layout=layout)
    with pytest.raises(RuntimeError, match="too large"):
        step("adaptive_pool", [x], (MAX, 1 << 20, 1 << 20), isa=isa)
