"""The compiled operators, called directly with arguments that would read out of bounds."""

import pytest
import torch

from sparse_ops.ops import _native

pytestmark = pytest.mark.skipif(_native.MISSING is not None, reason=str(_native.MISSING))

ISAS = [isa for isa in _native.ISAS if _native.REFUSES[isa] is None]


def i32(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


@pytest.fixture(params=ISAS)
def isa(request):
    return request.param


def good_conv():
    return {
        "x": torch.randn(1, 2, 5, 5),
        "crow": i32(0, 2, 3, 3),
        "col": i32(0, 17, 4),
        "values": torch.randn(3),
        "bias": torch.randn(3),
        "residual": None,
        "shape": [3, 2, 3, 3],
        "stride": [1, 1],
        "padding": [1, 1],
        "dilation": [1, 1],
        "groups": 1,
        "activation": 0,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"col": i32(0, 18, 4)}, r"col_indices must be in \[0, 18\)"),
        ({"col": i32(0, -1, 4)}, r"col_indices must be in \[0, 18\)"),
        ({"crow": i32(0, 5, 3, 3)}, "crow_indices must go from 0 to 3 and never fall"),
        ({"crow": i32(0, 2, 3, 9)}, "crow_indices must go from 0 to 3 and never fall"),
        ({"crow": i32(0, 1, 1, 2, 3)}, "crow_indices must be for 1 to 3 classes, got 4"),
        ({"crow": i32(0)}, "crow_indices must"),
        ({"crow": i32(0, 3)}, r"values must be \(9\), got 3"),
        ({"values": torch.randn(2)}, r"values must be \(3\), got 2"),
        ({"values": torch.randn(3).double()}, "values must be float32"),
        ({"bias": torch.randn(2)}, "bias must have 3 values, got 2"),
        ({"residual": torch.randn(1, 3, 5, 4)}, r"residual must be \(1, 3, 5, 5\)"),
        ({"residual": torch.randn(75)}, r"residual must be \(1, 3, 5, 5\)"),
        ({"residual": torch.randn(1, 3, 5, 5).double()}, r"residual must be float32"),
        ({"x": torch.randn(1, 3, 5, 5)}, r"x must be \(N, 2, H, W\)"),
        ({"x": torch.randn(2, 5, 5)}, r"x must be \(N, 2, H, W\)"),
        ({"x": torch.randn(1, 2, 5, 5).int()}, "x must be float32"),
        ({"x": torch.randn(1, 2, 0, 5), "padding": [0, 0]}, "x is too small"),
        ({"stride": [0, 1]}, "out of range"),
        ({"padding": [-1, 1]}, "out of range"),
        ({"dilation": [1]}, "2 strides, paddings, dilations"),
        ({"groups": 2}, "out of range"),
        ({"shape": [3, 2, 3]}, "a weight of 4 dimensions"),
        ({"padding": [2**16, 2**16]}, r"one padded image must be under 2\^31 values"),
        ({"activation": 9}, "no activation has the number 9"),
    ],
)
def test_convolution_refuses(isa, change, words):
    operator = getattr(torch.ops.sparse_ops, f"csr_conv2d_{isa}")
    operator(*good_conv().values())
    with pytest.raises(RuntimeError, match=words):
        operator(*(good_conv() | change).values())


@pytest.mark.parametrize(
    ("dy", "words"),
    [(torch.randn(1, 3, 5, 4), "dy must be"), (torch.randn(1, 2, 5, 5), "dy must be")],
)
def test_convolution_gradient_refuses(isa, dy, words):
    operator = getattr(torch.ops.sparse_ops, f"sparse_conv2d_backward_{isa}")
    g = good_conv()
    rest = [g[k] for k in ("shape", "stride", "padding", "dilation", "groups")]
    with pytest.raises(RuntimeError, match=words):
        operator(dy, g["x"], g["crow"], g["col"], g["values"], *rest, True, True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"out": i32(0, 3)}, r"out_channels must be in \[0, 3\)"),
        ({"inp": i32(2)}, r"in_channels must be in \[0, 2\)"),
        ({"inp": i32(-5)}, r"in_channels must be in \[0, 2\)"),
        ({"out": i32()}, "no channel is left"),
        ({"values": torch.randn(2, 2, 3, 3)}, r"values must be \(2, 1, 3, 3\)"),
        ({"residual": torch.randn(1, 2, 5, 5)}, r"residual must be \(1, 3, 5, 5\)"),
    ],
)
def test_channel_pruned_convolution_refuses(isa, change, words):
    good = {
        "x": torch.randn(1, 2, 5, 5),
        "values": torch.randn(2, 1, 3, 3),
        "out": i32(0, 2),
        "inp": i32(1),
        "bias": None,
        "residual": None,
    }
    rest = ([3, 2, 3, 3], [1, 1], [1, 1], [1, 1], 0)
    operator = getattr(torch.ops.sparse_ops, f"channel_pruned_conv2d_{isa}")
    operator(*good.values(), *rest)
    with pytest.raises(RuntimeError, match=words):
        operator(*(good | change).values(), *rest)


@pytest.mark.parametrize("batch", [2, 20])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"col": i32(0, 6, 1)}, r"col_indices must be in \[0, 6\)"),
        ({"col": i32(0, -2, 1)}, r"col_indices must be in \[0, 6\)"),
        ({"crow": i32(0, 4, 3)}, "never fall"),
        ({"values": torch.randn(4)}, r"values must be \(3\), got 4"),
        ({"bias": torch.randn(3)}, "bias must have 2 values, got 3"),
        ({"residual": torch.randn(2, 3)}, "residual must"),
    ],
)
def test_linear_refuses(isa, batch, change, words):
    good = {
        "x": torch.randn(batch, 6),
        "crow": i32(0, 2, 3),
        "col": i32(0, 5, 1),
        "values": torch.randn(3),
        "bias": torch.randn(2),
        "residual": None,
    }
    operator = getattr(torch.ops.sparse_ops, f"csr_linear_{isa}")
    operator(*good.values(), 0)
    with pytest.raises(RuntimeError, match=words):
        operator(*(good | change).values(), 0)
