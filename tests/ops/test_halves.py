"""Compiled operators of float16 and bfloat16: float32 sums, rounded once."""

import pytest
import torch

from sparse_ops.formats import CSRWeight
from sparse_ops.nn import ChannelPrunedConv2d, CSRConv2d
from sparse_ops.ops import _native
from sparse_ops.ops._conv2d import Geometry
from sparse_ops.ops.csr_linear import csr_linear
from tests.cases import CONV, CONV_LARGE, channel_mask, random_mask
from tests.covering import pairwise
from tests.ops.test_conv2d import EVERY, OPERATORS, crossed, named, problem, skip_if_refused
from tests.ops.test_out import LAYOUTS, assert_guarded, part_of, whole_for

pytestmark = pytest.mark.usefixtures("poisoned")

COMPILED = [(name, backend) for name, backend in EVERY if backend.name in _native.ISAS]
IDS = [f"{name}-{backend.name}" for name, backend in COMPILED]
ISAS = [isa for isa in _native.ISAS if _native.REFUSES[isa] is None]
HALVES = [torch.float16, torch.bfloat16]
# Images innermost, or channels by sixteens: their ends are kernels of each type, and pairs of axes
# do not see to both types on each instruction set.
ENDS = [case for case in CONV if case.batch in (17, 40, 90)]


def in_float32(backend, x, weight, bias, case, activation, residual):
    """The same with all of it converted before and after."""
    wide = weight.with_values(weight.values.float())
    residual = None if residual is None else residual.float()
    arguments = (bias.float(), Geometry(*case.geometry), activation, residual)
    return backend.run(x.float(), wide, *arguments).to(x.dtype)


@pytest.mark.parametrize(
    ("name", "backend", "case", "dtype"),
    dict.fromkeys(
        crossed(CONV + CONV_LARGE, HALVES, every=COMPILED)
        + [(*operator, case, dtype) for operator in COMPILED for case in ENDS for dtype in HALVES]
    ),
    ids=named,
)
def test_the_bits_are_those_of_float32_rounded(name, backend, case, dtype):
    x, weight, bias = problem(name, case, dtype)
    skip_if_refused(backend, x, weight, bias, case)
    for layout in LAYOUTS.values():
        given = x.contiguous(memory_format=layout)
        expected = in_float32(backend, given, weight, bias, case, "relu", None)
        options = {"activation": "relu", "backend": backend.name}
        y = OPERATORS[name][0](given, weight, bias, *case.geometry, **options)
        assert y.dtype == dtype and torch.equal(y, expected)
        residual = torch.randn(y.shape).to(dtype)
        expected = in_float32(backend, given, weight, bias, case, "silu", residual)
        options = {"activation": "silu", "residual": residual, "backend": backend.name}
        y = OPERATORS[name][0](given, weight, bias, *case.geometry, **options)
        assert torch.equal(y, expected)
        for own in LAYOUTS:
            whole = whole_for(y.shape, own, dtype)
            OPERATORS[name][0](given, weight, bias, *case.geometry, out=part_of(whole), **options)
            assert torch.equal(part_of(whole), expected)
            assert_guarded(whole)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("name", "backend"), COMPILED, ids=IDS)
def test_any_strides_are_read(name, backend, dtype):
    case = CONV[1]
    x, weight, bias = problem(name, case, dtype)
    skip_if_refused(backend, x, weight, bias, case)
    wide = torch.full((2, 16, 8, 17), float("nan"), dtype=dtype)
    wide[:, ::2, :, 1::2] = x
    residual = torch.randn(2, 16, 8, 8).to(dtype)
    y = OPERATORS[name][0](
        wide[:, ::2, :, 1::2],
        weight,
        bias,
        *case.geometry,
        residual=residual.transpose(2, 3).contiguous().transpose(2, 3),
        backend=backend.name,
    )
    assert torch.equal(y, in_float32(backend, x, weight, bias, case, None, residual))


def one_to_one(isa, x, factors, width):
    """Each channel of x times a float32 factor of its own."""
    channels = len(factors)
    crow = torch.arange(channels + 1, dtype=torch.int32)
    col = torch.arange(channels, dtype=torch.int32)
    shape = (channels, channels, 1, 1)
    operator = getattr(torch.ops.sparse_ops, f"csr_conv2d_{isa}")
    images = x.reshape(1, 1, -1, width).expand(1, channels, -1, width)
    return operator(images, crow, col, factors, None, None, shape, (1, 1), (0, 0), (1, 1), 1, 0)


@pytest.mark.parametrize("width", [256, 2, 1])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("isa", ISAS)
def test_every_number_is_read_and_rounded_to_nearest_even(isa, dtype, width):
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    # By one; to ties; out of range, and among the smallest; and anything.
    factors = torch.tensor([1.0, 1 + 2**-8, 1 + 2**-11, 0.5, 2.0**-9, 3.0**9, 1 / 3])
    y = one_to_one(isa, x, factors, width)
    expected = (x.float() * factors[:, None]).to(dtype).reshape(y.shape[1:])
    assert torch.equal(y[0].isnan(), expected.isnan())
    assert torch.equal(
        y[0].nan_to_num(nan=0.0, posinf=3.0, neginf=-3.0).float(),
        expected.nan_to_num(nan=0.0, posinf=3.0, neginf=-3.0).float(),
    )
    assert torch.equal(y[0].isinf(), expected.isinf())


@pytest.mark.parametrize("isa", ISAS)
def test_smallest_float16_numbers_are_kept_where_denormals_are_flushed(isa):
    x = torch.arange(0, 2048, dtype=torch.int16).view(torch.float16)
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine does not flush denormals")
    try:
        y = one_to_one(isa, x, torch.ones(1), 16)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(y.reshape(-1), x)


@pytest.mark.parametrize("isa", ISAS)
def test_weights_may_be_float32_or_as_x_and_nothing_else(isa):
    x = torch.randn(1, 3, 4, 4).half()
    factors = torch.randn(3)
    good = one_to_one(isa, x[:, :1], factors.half(), 4)
    assert torch.equal(good, one_to_one(isa, x[:, :1], factors.half().float(), 4))
    with pytest.raises(RuntimeError, match="values must be float32 or float16"):
        one_to_one(isa, x[:, :1], factors.bfloat16(), 4)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_threads_give_the_same_bits(dtype):
    case = CONV_LARGE[1]
    threads = torch.get_num_threads()
    for name, backend in COMPILED:
        x, weight, bias = problem(name, case, dtype)
        if backend.refuses(x, weight, bias, Geometry(*case.geometry), None):
            continue
        results = []
        try:
            for count in (1, 2, 5):
                torch.set_num_threads(count)
                results.append(backend.run(x, weight, bias, Geometry(*case.geometry), None, None))
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.skipif(not ISAS, reason=str(_native.MISSING))
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("kind", [CSRConv2d, ChannelPrunedConv2d])
def test_layers_of_halves_call_their_kernel_directly(kind, dtype, monkeypatch):
    case = CONV[1]
    dense = torch.nn.Conv2d(8, 16, 3, padding=1).to(dtype)
    layer = kind.from_dense(dense, channel_mask(case), backend=ISAS[0])
    x, residual = torch.randn(2, 8, 8, 8).to(dtype), torch.randn(2, 16, 8, 8).to(dtype)
    expected = layer(x, residual).detach()

    def fails(*_, **__):
        raise AssertionError("the function was called")

    monkeypatch.setattr(kind, "FUNCTION", staticmethod(fails))
    with torch.no_grad():
        torch.testing.assert_close(layer(x, residual), expected, rtol=2**-7, atol=2**-7)
        monkeypatch.undo()
        with torch.autocast("cpu", dtype):
            wide = layer.float()(x.float())
        assert wide.dtype == dtype


@pytest.mark.parametrize(
    ("isa", "batch", "dtype", "added"),
    pairwise(ISAS, [1, 3, 16, 37], HALVES, [False, True]),
    ids=str,
)
def test_a_linear_layer_rounds_once(isa, dtype, batch, added):
    mask = random_mask((300, 784), 0.97)
    weight = CSRWeight.pack(torch.randn(300, 784).to(dtype), mask)
    x, bias = torch.randn(batch, 784).to(dtype), torch.randn(300).to(dtype)
    residual = torch.randn(300, batch).T.to(dtype) if added else None
    arguments = {"activation": "silu", "backend": isa}
    y = csr_linear(x, weight, bias, residual=residual, **arguments)
    wide = csr_linear(
        x.float(),
        weight.with_values(weight.values.float()),
        bias.float(),
        residual=residual.float() if added else None,
        **arguments,
    )
    assert y.dtype == dtype
    assert torch.equal(y, wide.to(dtype))
