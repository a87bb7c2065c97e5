"""Every backend of the three convolutions against float64, forwards and backwards."""

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.ops import _native, channel_pruned_conv2d, csr_conv2d, periodic_conv2d
from sparse_ops.ops._activation import function_of
from sparse_ops.ops._conv2d import Geometry
from tests.activations import ACTIVATION_NAMES
from tests.cases import CONV, CONV_LARGE, channel_mask, periodic_pattern, random_mask
from tests.covering import pairwise
from tests.rounding import assert_within_rounding

OPERATORS = {
    "periodic": (periodic_conv2d.periodic_conv2d, periodic_conv2d.BACKENDS, PeriodicWeight),
    "csr": (csr_conv2d.csr_conv2d, csr_conv2d.BACKENDS, CSRWeight),
    "channel_pruned": (
        channel_pruned_conv2d.channel_pruned_conv2d,
        channel_pruned_conv2d.BACKENDS,
        ChannelPrunedWeight,
    ),
}
# These refuse every tensor of a CPU; tests/kernels has them.
ON_GPU = ("wgmma", "cuda", "triton", "dense")
EVERY = [
    (name, backend)
    for name, (_, backends, _) in OPERATORS.items()
    for backend in backends
    if backend.name not in ON_GPU
]
IDS = [f"{name}-{backend.name}" for name, backend in EVERY]


def crossed(*axes, every=EVERY):
    """(name, backend, ...): operators and backends with values of other axes, pairwise."""
    return [(*operator, *rest) for operator, *rest in pairwise(every, *axes)]


def named(value):
    return getattr(value, "name", str(value))


# The most by which the slope of an activation exceeds that of the identity.
SLOPE = 1.2

pytestmark = pytest.mark.usefixtures("poisoned")


def problem(name, case, dtype=torch.float32, sparsity=0.8):
    shape = case.weight_shape
    mask = {
        "periodic": lambda: periodic_pattern(case).mask(shape),
        "csr": lambda: random_mask(shape, sparsity),
        "channel_pruned": lambda: channel_mask(case),
    }[name]()
    x = torch.randn(case.batch, case.channels, *case.size).to(dtype)
    # A small layer may not show a whole period, so that its pattern has to be told.
    known = (periodic_pattern(case),) if name == "periodic" else ()
    weight = OPERATORS[name][2].pack(torch.randn(shape).to(dtype), mask, *known)
    return x, weight, torch.randn(case.filters).to(dtype)


def exact(x, weight, bias, case, activation=None):
    dense, shift = weight.to_dense().double(), None if bias is None else bias.double()
    y = F.conv2d(x.double(), dense, shift, *case.geometry)
    magnitude = F.conv2d(
        x.double().abs(), dense.abs(), None if shift is None else shift.abs(), *case.geometry
    )
    return function_of(activation)(y), magnitude


def skip_if_refused(backend, x, weight, bias, case, activation=None):
    if reason := backend.refuses(x, weight, bias, Geometry(*case.geometry), activation):
        pytest.skip(reason)


def terms(case):
    return case.weight_shape[1] * case.kernel[0] * case.kernel[1] + 1


@pytest.mark.parametrize("case", CONV + CONV_LARGE, ids=str)
@pytest.mark.parametrize(("name", "backend"), EVERY, ids=IDS)
def test_forward_is_exact_up_to_rounding(name, backend, case):
    x, weight, bias = problem(name, case)
    skip_if_refused(backend, x, weight, bias, case)
    y = OPERATORS[name][0](x, weight, bias, *case.geometry, backend=backend.name)
    assert_within_rounding(y, *exact(x, weight, bias, case), terms(case))


# `test_out` has all cases, with a residual of x's layout.
@pytest.mark.parametrize(
    ("name", "backend", "case", "layout"),
    crossed([*CONV[1::4], CONV_LARGE[1]], ["channels_last", "contiguous"]),
    ids=named,
)
def test_residual_is_added_before_the_activation(name, backend, case, layout):
    x, weight, bias = problem(name, case)
    skip_if_refused(backend, x, weight, bias, case)
    y, magnitude = exact(x, weight, bias, case)
    residual = torch.randn(y.shape)
    # Each in its own layout: the operator's is that of x.
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    else:
        residual = residual.contiguous(memory_format=torch.channels_last)
    found = OPERATORS[name][0](
        x,
        weight,
        bias,
        *case.geometry,
        activation="relu",
        residual=residual,
        backend=backend.name,
    )
    expected = F.relu(y + residual.double())
    assert_within_rounding(found, expected, magnitude + residual.abs().double(), terms(case) + 1)
    if layout == "contiguous":
        assert found.is_contiguous()
    elif x.numel() and not x.is_contiguous():
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("name", "backend"), EVERY, ids=IDS)
def test_residual_has_a_gradient(name, backend):
    case = CONV[1]
    x, weight, bias = problem(name, case)
    skip_if_refused(backend, x, weight, bias, case)
    residual = torch.randn(2, 16, 8, 8, requires_grad=True)
    y = OPERATORS[name][0](x, weight, bias, *case.geometry, residual=residual, backend=backend.name)
    dy = torch.randn_like(y)
    assert torch.equal(torch.autograd.grad(y, residual, dy)[0], dy)


@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
@pytest.mark.parametrize(("name", "backend"), EVERY, ids=IDS)
def test_activation_and_missing_bias(name, backend, activation):
    case = CONV[1]
    x, weight, _ = problem(name, case)
    x = 6 * x
    skip_if_refused(backend, x, weight, None, case, activation)
    y = OPERATORS[name][0](
        x, weight, None, *case.geometry, activation=activation, backend=backend.name
    )
    expected, magnitude = exact(x, weight, None, case, activation)
    # exp is good to some units in the last place: that many more terms.
    assert_within_rounding(y, expected, magnitude, terms(case) + 8, SLOPE)


@pytest.mark.parametrize("case", CONV + CONV_LARGE[1:], ids=str)
@pytest.mark.parametrize(("name", "backend"), EVERY, ids=IDS)
def test_gradients_are_exact_up_to_rounding(name, backend, case):
    # Sparse enough for the compiled gradient, too.
    x, weight, bias = problem(name, case, sparsity=0.93)
    skip_if_refused(backend, x, weight, bias, case)
    x.requires_grad_()
    values, bias = weight.values.clone().requires_grad_(), bias.requires_grad_()
    y = OPERATORS[name][0](
        x, weight.with_values(values), bias, *case.geometry, backend=backend.name
    )
    dy = torch.randn_like(y)
    dx, dvalues, dbias = torch.autograd.grad(y, (x, values, bias), dy)

    def gradients(x, dense, dy):
        x, dense = x.detach().double().requires_grad_(), dense.detach().double().requires_grad_()
        return torch.autograd.grad(F.conv2d(x, dense, None, *case.geometry), (x, dense), dy)

    dense = weight.to_dense()
    ex, ew = gradients(x, dense, dy.double())
    mx, mw = gradients(x.abs(), dense.abs(), dy.double().abs())
    pixels = max(1, y.shape[0] * y.shape[2] * y.shape[3])
    filter_terms = case.filters * case.kernel[0] * case.kernel[1]
    assert_within_rounding(dx, ex, mx, filter_terms)
    assert_within_rounding(dvalues, weight.gather(ew), weight.gather(mw), pixels)
    sums = dy.double().sum((0, 2, 3)), dy.double().abs().sum((0, 2, 3))
    assert_within_rounding(dbias, *sums, pixels)


@pytest.mark.parametrize("layout", ["channels_last", "strided", "one image"])
@pytest.mark.parametrize(("name", "backend"), EVERY, ids=IDS)
def test_any_strides_are_read_and_the_layout_is_kept(name, backend, layout):
    case = CONV[1]
    x, weight, bias = problem(name, case)
    skip_if_refused(backend, x, weight, bias, case)
    expected = exact(x, weight, bias, case)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        wide = torch.full((2, 16, 8, 17), float("nan"))
        wide[:, ::2, :, 1::2] = x
        x = wide[:, ::2, :, 1::2]
    else:
        x, expected = x[1], [e[1] for e in expected]
    y = OPERATORS[name][0](x, weight, bias, *case.geometry, backend=backend.name)
    assert_within_rounding(y, *expected, terms(case))
    if layout == "channels_last":
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("name", "backend"), EVERY, ids=IDS)
def test_other_dtypes(name, backend, dtype):
    case = CONV[1]
    x, weight, bias = problem(name, case, dtype)
    skip_if_refused(backend, x, weight, bias, case)
    y = OPERATORS[name][0](x, weight, bias, *case.geometry, backend=backend.name)
    assert y.dtype == dtype
    assert_within_rounding(y, *exact(x, weight, bias, case), terms(case))


@pytest.mark.parametrize(("name", "backend"), EVERY, ids=IDS)
def test_nan_and_infinity_are_not_hidden(name, backend):
    case = CONV[1]
    x, weight, bias = problem(name, case)
    skip_if_refused(backend, x, weight, bias, case)
    x[0, 0, 4, 4], x[1, 0, 2, 2] = float("nan"), float("inf")
    y = OPERATORS[name][0](x, weight, bias, *case.geometry, activation="relu", backend=backend.name)
    expected = F.relu(F.conv2d(x, weight.to_dense(), bias, *case.geometry))
    # Where a weight is not kept, a dense product is 0 * inf = nan; a sparse one is not computed.
    spoilt = y.isnan() | y.isinf()
    assert bool(spoilt.any()) and not bool((spoilt & ~(expected.isnan() | expected.isinf())).any())


@pytest.mark.parametrize(("name", "backend"), EVERY, ids=IDS)
def test_one_thread_and_two_give_the_same_bits(name, backend):
    case = CONV_LARGE[1]
    x, weight, bias = problem(name, case)
    skip_if_refused(backend, x, weight, bias, case)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(
                OPERATORS[name][0](x, weight, bias, *case.geometry, backend=backend.name)
            )
    finally:
        torch.set_num_threads(threads)
    if backend.name in _native.ISAS:
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    else:
        torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", OPERATORS)
def test_bad_arguments_are_named(name):
    function, _, _ = OPERATORS[name]
    x, weight, bias = problem(name, CONV[1])
    for change, words in (
        ({"x": x[:, :7]}, r"x must be \(N, 8, H, W\) or \(8, H, W\), got \(2, 7, 8, 8\)"),
        ({"x": x[0, 0]}, r"x must be \(N, 8, H, W\)"),
        (
            {"x": x.double()},
            r"x and weight must have one dtype, got torch.float64 and torch.float32",
        ),
        ({"x": x.int()}, r"x must be floating point, got torch.int32"),
        ({"x": x[:, :, :1, :1]}, r"x is too small"),
        ({"bias": bias[:3]}, r"bias must be \(16\), got \(3,\)"),
        ({"bias": bias.double()}, r"bias must be torch.float32"),
        ({"stride": 0}, r"stride must be a number or a pair of at least 1, got 0"),
        ({"padding": -1}, r"padding must be a number or a pair of at least 0, got -1"),
        ({"dilation": (1, 2, 3)}, r"dilation must be"),
        ({"groups": 3}, r"groups must be a number that divides 16 output channels, got 3"),
        (
            {"residual": x, "padding": 1},
            r"residual must be \(2, 16, 8, 8\), got \(2, 8, 8, 8\)",
        ),
        ({"residual": x.double(), "padding": 1}, r"residual must be"),
        ({"activation": "tanh"}, r"activation must be one of None, relu, .*, got 'tanh'"),
        ({"backend": "avx"}, r"unknown backend 'avx'; have .*scalar, .*triton, .*reference"),
    ):
        with pytest.raises(ValueError, match=words):
            function(**{"x": x, "weight": weight, "bias": bias} | change)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_backends_of_gpus_say_why_they_do_not_run_here(name):
    x, weight, bias = problem(name, CONV[1])
    for backend in OPERATORS[name][1]:
        if backend.name in ON_GPU:
            assert backend.refuses(x, weight, bias, Geometry(*CONV[1].geometry), None)


def test_a_named_backend_is_never_replaced_by_another():
    x, weight, _ = problem("csr", CONV[1], torch.float64)
    with pytest.raises(RuntimeError, match="no backend for these arguments; scalar: "):
        csr_conv2d.csr_conv2d(x, weight, padding=1, backend="scalar")


def test_channel_pruning_with_groups_is_refused_in_words():
    weight = ChannelPrunedWeight.pack(torch.randn(4, 2, 3, 3), torch.ones(4, 2, 3, 3).bool())
    with pytest.raises(RuntimeError, match="gather: groups is 2, not 1"):
        channel_pruned_conv2d.channel_pruned_conv2d(
            torch.randn(1, 4, 5, 5), weight, groups=2, backend="gather"
        )
