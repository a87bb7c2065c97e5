"""Every sample that torch itself tests conv2d and linear with, through the drop-in layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparse_ops.formats import PackedWeight
from sparse_ops.nn import CSRConv2d, CSRLinear, PeriodicConv2d
from sparse_ops.patterns import Periodic
from tests.rounding import assert_within_rounding


def samples(name):
    pytest.importorskip("expecttest", reason='needs the extra "ecosystem": expecttest')
    from torch.testing._internal.common_methods_invocations import op_db

    (info,) = (op for op in op_db if op.name == name and not op.variant_test_name)
    return list(info.reference_inputs("cpu", torch.float32, requires_grad=False))


def masks_for(shape):
    for density in (0.0, 0.3, 1.0):
        yield torch.rand(shape) < density


def dense_conv(weight, bias, stride=1, padding=0, dilation=1, groups=1):
    O, per_group, *size = weight.shape
    layer = nn.Conv2d(
        per_group * groups, O, size, stride, padding, dilation, groups, bias is not None
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def assert_equal(packed, x, run):
    """`run(x, weight, bias)` is what the layer must compute."""
    assert isinstance(packed.weight, PackedWeight)
    weight, bias = packed.weight.to_dense(), packed.bias
    wide = [None if t is None else t.detach().double() for t in (x, weight, bias)]
    with torch.no_grad():
        expected = run(*wide)
        magnitude = run(*[None if t is None else t.abs() for t in wide])
        actual = packed(x)
    assert actual.shape == expected.shape and actual.dtype == x.dtype
    terms = 1 + weight[0].numel()
    assert_within_rounding(actual, expected, magnitude, terms)


def test_conv2d():
    found = samples("nn.functional.conv2d")
    assert len(found) >= 20
    for sample in found:
        weight, bias, *rest = [*sample.args, None]
        assert not [argument for argument in rest if argument is not None]
        options = sample.kwargs
        dense = dense_conv(weight, bias, **options)

        def run(x, weight, bias, options=options):
            return F.conv2d(x, weight, bias, **options)

        for mask in masks_for(weight.shape):
            assert_equal(CSRConv2d.from_dense(dense, mask), sample.input, run)
        taps = weight[0, 0].numel()
        pattern = Periodic(((0, taps - 1), (taps // 2,)), tuple(weight.shape[2:]))
        mask = pattern.mask(tuple(weight.shape))
        if PeriodicConv2d.refuses(dense, mask) is None:
            assert_equal(PeriodicConv2d.from_dense(dense, mask), sample.input, run)


def test_linear():
    found = samples("nn.functional.linear")
    assert len(found) >= 10
    for sample in found:
        weight, bias = [*sample.args, None][:2]
        dense = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
        with torch.no_grad():
            dense.weight.copy_(weight)
            if bias is not None:
                dense.bias.copy_(bias)
        for mask in masks_for(weight.shape):
            assert_equal(CSRLinear.from_dense(dense, mask), sample.input, F.linear)
