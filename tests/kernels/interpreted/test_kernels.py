"""Every Triton kernel, in every type, on every edge shape, against float64."""

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.ops import csr_linear as csr_linear_module
from sparse_ops.ops._activation import function_of
from sparse_ops.ops._backend import choose
from sparse_ops.ops.channel_pruned_conv2d import channel_pruned_conv2d
from sparse_ops.ops.csr_conv2d import csr_conv2d
from sparse_ops.ops.csr_linear import csr_linear
from sparse_ops.ops.periodic_conv2d import periodic_conv2d
from tests.activations import ACTIVATION_NAMES
from tests.cases import (
    CONV,
    LINEAR,
    PATTERNS,
    ConvCase,
    LinearCase,
    channel_mask,
    periodic_pattern,
    random_mask,
)
from tests.rounding import assert_within_rounding

pytestmark = pytest.mark.usefixtures("poisoned")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
OPERATORS = {
    "periodic": (periodic_conv2d, PeriodicWeight),
    "csr": (csr_conv2d, CSRWeight),
    "channel_pruned": (channel_pruned_conv2d, ChannelPrunedWeight),
}
# The interpreter takes its time for each step of each program: the wider shapes are left to a GPU.
# Added: classes of 5, 16 and 17 filters, on each side of where the matrix product starts and ends.
SMALL = [
    case
    for case in CONV
    if case.batch * case.filters * case.channels < 5000 and max(case.size) < 20
]
CLASSES = [
    ConvCase(1, 8, 40, (5, 4)),
    ConvCase(2, 9, 128, (3, 3), stride=(2, 1)),
    ConvCase(1, 8, 136, (4, 3), dilation=(2, 2), padding=(2, 2)),
    ConvCase(1, 16, 96, (3, 5), groups=2),
]
# The programs of csr_linear, of eight images each, are counted.
LINEARS = [
    *(case for case in LINEAR if -(-case.batch // 8) * case.out_features < 150),
    LinearCase(7, 70, 9, 0.5),
    LinearCase(8, 70, 9, 0.5),
    LinearCase(65, 20, 6, 0.5),
    LinearCase(100, 9, 4, 0.3),
]


def problem(name, case, dtype=torch.float32, pattern=None):
    shape = case.weight_shape
    pattern = pattern or periodic_pattern(case)
    mask = {
        "periodic": lambda: pattern.mask(shape),
        "csr": lambda: random_mask(shape, 0.8),
        "channel_pruned": lambda: channel_mask(case),
    }[name]()
    known = (pattern,) if name == "periodic" else ()
    x = torch.randn(case.batch, case.channels, *case.size).to(dtype)
    weight = OPERATORS[name][1].pack(torch.randn(shape).to(dtype), mask, *known)
    return x, weight, torch.randn(case.filters).to(dtype)


def check(name, case, x, weight, bias, activation=None, terms=1):
    y = OPERATORS[name][0](x, weight, bias, *case.geometry, activation=activation, backend="triton")
    shift = None if bias is None else bias.double()
    dense = weight.to_dense().double()
    exact = F.conv2d(x.double(), dense, shift, *case.geometry)
    magnitude = F.conv2d(
        x.double().abs(), dense.abs(), None if shift is None else shift.abs(), *case.geometry
    )
    terms += case.weight_shape[1] * case.kernel[0] * case.kernel[1]
    slope = 1.0 if activation is None else 1.2
    assert y.dtype == x.dtype
    assert_within_rounding(y, function_of(activation)(exact), magnitude, terms, slope)
    return y


def skip_groups(name, case):
    if name == "channel_pruned" and case.groups > 1:
        pytest.skip("groups are refused")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_convolutions_are_exact_up_to_rounding(name, case, dtype):
    skip_groups(name, case)
    check(name, case, *problem(name, case, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CLASSES, ids=str)
def test_classes_of_all_widths(case, dtype):
    check("periodic", case, *problem("periodic", case, dtype))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("filters", [7, 50])
def test_every_pattern(pattern, filters):
    case = ConvCase(1, 11, filters, (4, 5))
    check("periodic", case, *problem("periodic", case, pattern=PATTERNS[pattern]))


@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
@pytest.mark.parametrize("filters", [3, 48])
@pytest.mark.parametrize("name", OPERATORS)
def test_activation_and_missing_bias(name, filters, activation):
    case = ConvCase(1, 8, filters, (4, 4))
    x, weight, bias = problem(name, case)
    check(name, case, 6 * x, weight, None, activation, terms=8)
    check(name, case, 6 * x, weight, bias, activation, terms=9)


@pytest.mark.parametrize("filters", [3, 48])
@pytest.mark.parametrize("name", OPERATORS)
def test_any_strides_are_read_and_channels_last_is_kept(name, filters):
    case = ConvCase(2, 8, filters, (4, 5))
    x, weight, bias = problem(name, case)
    last = x.contiguous(memory_format=torch.channels_last)
    y = check(name, case, last, weight, bias)
    assert y.is_contiguous(memory_format=torch.channels_last)
    wide = torch.full((2, 16, 4, 11), float("nan"))
    wide[:, ::2, :, 1::2] = x
    check(name, case, wide[:, ::2, :, 1::2], weight, bias)


@pytest.mark.parametrize("filters", [3, 48])
@pytest.mark.parametrize("name", OPERATORS)
def test_nan_is_not_hidden_and_not_spread(name, filters):
    case = ConvCase(2, 8, filters, (6, 6))
    x, weight, bias = problem(name, case)
    x[1, 0, 0, 0] = float("nan")
    y = OPERATORS[name][0](x, weight, bias, *case.geometry, activation="relu", backend="triton")
    dense = F.conv2d(x, weight.to_dense(), bias, *case.geometry)
    assert bool(y.isnan().any()) and not bool((y.isnan() & ~dense.isnan()).any())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LINEARS, ids=str)
def test_linear_is_exact_up_to_rounding(case, dtype):
    shape = (case.out_features, case.in_features)
    weight = CSRWeight.pack(torch.randn(shape).to(dtype), random_mask(shape, case.sparsity))
    x = torch.randn(case.batch, case.in_features).to(dtype)
    bias = torch.randn(case.out_features).to(dtype)
    for activation in (None, "silu"):
        y = csr_linear(x, weight, bias, activation=activation, backend="triton")
        dense, shift = weight.to_dense().double(), bias.double()
        exact = function_of(activation)(F.linear(x.double(), dense, shift))
        magnitude = F.linear(x.double().abs(), dense.abs(), shift.abs())
        assert y.dtype == dtype and y.is_contiguous()
        assert_within_rounding(y, exact, magnitude, case.in_features + 9, 1.2)


def test_large_batches_are_left_to_the_dense_product_in_words(monkeypatch):
    monkeypatch.setattr(csr_linear_module, "MOST_BATCH", 8)
    weight = CSRWeight.pack(torch.randn(4, 9), torch.rand(4, 9) > 0.5)
    words = "triton: a batch over 8 is left to the dense product"
    with pytest.raises(RuntimeError, match=words):
        csr_linear(torch.randn(9, 9), weight, backend="triton")
    assert csr_linear(torch.randn(8, 9), weight, backend="triton").shape == (8, 4)
    # By itself it takes the next: as if it were on a card, the dense library.
    chosen = choose(csr_linear_module.BACKENDS, "auto", torch.randn(9, 9), weight, None)
    assert chosen.name != "triton"
