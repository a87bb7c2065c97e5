"""Convolutions that write into a part of a larger tensor."""

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.formats import CSRWeight
from sparse_ops.ops import _native, csr_conv2d
from tests.cases import CONV, CONV_LARGE
from tests.compiling import assert_compiles_and_exports
from tests.ops.test_conv2d import (
    EVERY,
    IDS,
    OPERATORS,
    crossed,
    exact,
    named,
    problem,
    skip_if_refused,
    terms,
)
from tests.rounding import assert_within_rounding

pytestmark = pytest.mark.usefixtures("poisoned")

# What a tensor is filled with, to see what is written to it.
GUARD = 7.0
BEFORE, AFTER = 3, 5
LAYOUTS = {"planar": torch.contiguous_format, "last": torch.channels_last}


def whole_for(shape, layout, dtype=torch.float32):
    N, O, H, W = shape
    size = (N, BEFORE + O + AFTER, H, W)
    return torch.full(size, GUARD, dtype=dtype).contiguous(memory_format=LAYOUTS[layout])


def part_of(whole):
    return whole[:, BEFORE : whole.shape[1] - AFTER]


def assert_guarded(whole):
    assert bool((whole[:, :BEFORE] == GUARD).all())
    assert bool((whole[:, whole.shape[1] - AFTER :] == GUARD).all())


@pytest.mark.parametrize(
    ("name", "backend", "case", "layout"), crossed(CONV + CONV_LARGE, LAYOUTS), ids=named
)
def test_what_is_written_is_exact_and_nothing_around_it_changes(name, backend, case, layout):
    x, weight, bias = problem(name, case)
    skip_if_refused(backend, x, weight, bias, case)
    y, magnitude = exact(x, weight, bias, case)
    residual = torch.randn(y.shape)
    options = {"activation": "relu", "residual": residual, "backend": backend.name}
    for own in LAYOUTS.values():
        whole = whole_for(y.shape, layout)
        out = part_of(whole)
        given = x.contiguous(memory_format=own)
        found = OPERATORS[name][0](given, weight, bias, *case.geometry, out=out, **options)
        assert found is out
        expected = F.relu(y + residual.double())
        bound = magnitude + residual.abs().double()
        assert_within_rounding(out, expected, bound, terms(case) + 1)
        assert_guarded(whole)
        same = OPERATORS[name][0](given, weight, bias, *case.geometry, **options)
        if backend.into is not None:
            assert torch.equal(out, same)


@pytest.mark.parametrize(
    ("name", "backend", "case", "layout"),
    crossed([*CONV[1:30:5], CONV_LARGE[1]], LAYOUTS),
    ids=named,
)
def test_without_residual_threads_give_the_same_bits(name, backend, case, layout):
    x, weight, bias = problem(name, case)
    skip_if_refused(backend, x, weight, bias, case)
    y, magnitude = exact(x, weight, bias, case)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            whole = whole_for(y.shape, layout)
            out = part_of(whole)
            OPERATORS[name][0](x, weight, bias, *case.geometry, out=out, backend=backend.name)
            assert_guarded(whole)
            results.append(out)
    finally:
        torch.set_num_threads(threads)
    assert_within_rounding(results[0], y, magnitude, terms(case))
    if backend.into is not None:
        assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize(("name", "backend"), EVERY, ids=IDS)
def test_one_image_and_no_image_are_written(name, backend):
    case = CONV[1]
    x, weight, bias = problem(name, case)
    skip_if_refused(backend, x, weight, bias, case)
    function = OPERATORS[name][0]
    whole = whole_for((1, case.filters, *case.size), "planar")
    function(x[0], weight, bias, *case.geometry, out=part_of(whole)[0], backend=backend.name)
    expected = function(x[:1], weight, bias, *case.geometry, backend=backend.name)
    torch.testing.assert_close(part_of(whole), expected)
    nothing = torch.empty(0, case.filters, *case.size)
    function(x[:0], weight, bias, *case.geometry, out=nothing, backend=backend.name)


def csr(filters=8, channels=4):
    weight = torch.randn(filters, channels, 3, 3)
    return CSRWeight.pack(weight, torch.rand_like(weight) > 0.5)


ISAS = [isa for isa in _native.ISAS if _native.REFUSES[isa] is None]


def strided(shape, strides, offset=0):
    return torch.zeros(20000).as_strided(shape, strides, offset)


OUT = (2, 8, 6, 5)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "out",
    [
        strided(OUT, (240, 30, 5, 2)),
        strided(OUT, (240, 30, 6, 1)),
        strided(OUT, (240, 31, 5, 1)),
        strided(OUT, (239, 30, 5, 1)),
        strided(OUT, (0, 30, 5, 1)),
        strided(OUT, (240, 0, 5, 1)),
        strided(OUT, (240, 1, 35, 7)),
        strided(OUT, (240, 1, 41, 8)),
        strided(OUT, (239, 1, 40, 8)),
        strided(OUT, (240, 2, 80, 16)),
        torch.zeros(1, 1, 1, 1).expand(OUT),
    ],
    ids=lambda out: str(out.stride()),
)
def test_strides_that_cannot_be_written_are_refused(isa, out):
    x, weight = torch.randn(2, 4, 6, 5), csr()
    arguments = (x, weight.crow_indices, weight.col_indices, weight.values, None, None)
    operator = getattr(torch.ops.sparse_ops, f"csr_conv2d_out_{isa}")
    with pytest.raises(RuntimeError, match="out must have whole planes"):
        operator(*arguments, weight.shape, (1, 1), (1, 1), (1, 1), 1, 0, out)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"out": torch.zeros(2, 7, 6, 5)}, r"out must be \(2, 8, 6, 5\)"),
        ({"out": torch.zeros(480)}, r"out must be \(2, 8, 6, 5\)"),
        ({"out": torch.zeros(OUT).half()}, "out must be float32"),
        ({"residual": torch.zeros(OUT).half()}, "residual must be float32"),
        ({"x": torch.randn(2, 4, 6, 5).half()}, "out must be float16"),
        ({"x": torch.randn(2, 4, 6, 5).bfloat16()}, "out must be bfloat16"),
        ({"x": torch.randn(2, 4, 6, 5).double()}, "x must be float32, float16 or bfloat16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_other_shapes_and_types_are_refused_by_the_kernel(isa, change, words):
    weight = csr()
    good = {"x": torch.randn(2, 4, 6, 5), "residual": None, "out": torch.zeros(OUT)} | change
    operator = getattr(torch.ops.sparse_ops, f"csr_conv2d_out_{isa}")
    with pytest.raises(RuntimeError, match=words):
        operator(
            good["x"],
            weight.crow_indices,
            weight.col_indices,
            weight.values,
            None,
            good["residual"],
            *(weight.shape, (1, 1), (1, 1), (1, 1), 1, 0),
            good["out"],
        )


@pytest.mark.skipif(not ISAS, reason=str(_native.MISSING))
def test_storage_that_was_taken_away_is_not_written_to():
    x, weight, out = torch.randn(2, 4, 6, 5), csr(), torch.zeros(OUT)
    out.untyped_storage().resize_(out.nbytes - 4)
    with pytest.raises(RuntimeError, match="out needs 1920 bytes of its storage, which has 1916"):
        csr_conv2d.csr_conv2d(x, weight, None, 1, 1, out=out)


@pytest.mark.skipif(not ISAS, reason=str(_native.MISSING))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_shared_with_what_is_read_is_refused(layout):
    weight = csr(8, 8)
    x = torch.randn(1, 8, 6, 5).contiguous(memory_format=LAYOUTS[layout])
    with pytest.raises(RuntimeError, match="out must not share memory with x"):
        csr_conv2d.csr_conv2d(x, weight, None, 1, 1, out=x)
    other = torch.zeros_like(x)
    with pytest.raises(RuntimeError, match="out must not share memory with residual"):
        csr_conv2d.csr_conv2d(x, weight, None, 1, 1, residual=other, out=other)
    # Parts of one tensor beside each other are fine, as in DenseNet.
    whole = torch.randn(1, 16, 6, 5).contiguous(memory_format=LAYOUTS[layout])
    expected = csr_conv2d.csr_conv2d(whole[:, :8], weight, None, 1, 1)
    csr_conv2d.csr_conv2d(whole[:, :8], weight, None, 1, 1, out=whole[:, 8:])
    torch.testing.assert_close(whole[:, 8:], expected)


def test_bad_arguments_are_named():
    x, weight, out = torch.randn(2, 4, 6, 5), csr(), torch.zeros(OUT)
    for wrong, words in (
        (out[:, :7], r"out must be \(2, 8, 6, 5\), got \(2, 7, 6, 5\)"),
        (out[0], r"out must be \(2, 8, 6, 5\), got \(8, 6, 5\)"),
        (out.double(), r"out must be torch.float32 on cpu, got torch.float64 on cpu"),
        (out.to("meta"), r"out must be torch.float32 on cpu, got torch.float32 on meta"),
    ):
        with pytest.raises(ValueError, match=words):
            csr_conv2d.csr_conv2d(x, weight, None, 1, 1, out=wrong)


@pytest.mark.parametrize("wants", ["x", "values", "bias", "residual", "out"])
def test_where_a_gradient_is_wanted_there_is_no_out(wants):
    x, weight, out = torch.randn(2, 4, 6, 5), csr(), torch.zeros(OUT)
    bias, residual = torch.zeros(8), torch.zeros(OUT)
    values = weight.values
    {"x": x, "values": values, "bias": bias, "residual": residual, "out": out}[
        wants
    ].requires_grad_()
    arguments = (x, weight, bias, 1, 1)
    with pytest.raises(RuntimeError, match="has no gradient"):
        csr_conv2d.csr_conv2d(*arguments, residual=residual, out=out)
    with torch.no_grad():
        csr_conv2d.csr_conv2d(*arguments, residual=residual, out=out)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_autograd_learns_that_out_has_changed(backend):
    x, weight, out = torch.randn(2, 4, 6, 5), csr(), torch.zeros(OUT)
    factor = torch.ones(OUT, requires_grad=True)
    product = (factor * out).sum()
    csr_conv2d.csr_conv2d(x, weight, None, 1, 1, out=out, backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
    with torch.inference_mode():
        csr_conv2d.csr_conv2d(x, weight, None, 1, 1, out=torch.zeros(OUT), backend=backend)


class Concatenating(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = csr(), csr(3)

    def forward(self, x):
        whole = x.new_zeros(x.shape[0], 12, *x.shape[2:])
        csr_conv2d.csr_conv2d(x, self.one, None, 1, 1, activation="relu", out=whole[:, :8])
        csr_conv2d.csr_conv2d(x, self.two, None, 1, 1, out=whole[:, 9:])
        return whole


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_compiles_and_exports(layout):
    model, x = Concatenating(), torch.randn(2, 4, 6, 5)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    expected = assert_compiles_and_exports(model, x)
    y = csr_conv2d.csr_conv2d(x, model.one, None, 1, 1, activation="relu")
    assert torch.equal(expected[:, :8], y) and not bool(expected[:, 8].any())


@pytest.mark.parametrize("isa", [i for i in _native.ISAS if _native.REFUSES[i] is None])
@pytest.mark.parametrize("name", ["crow_indices", "col_indices", "values"])
def test_what_lies_over_the_weight_is_refused(isa, name):
    x = torch.randn(2, 4, 6, 6)
    mask = torch.rand(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)) > 0.7
    weight = CSRWeight.pack(torch.randn(mask.shape), mask)
    parts = {each: getattr(weight, each) for each in ("crow_indices", "col_indices", "values")}
    out = torch.zeros(2, 8, 6, 6)
    room = out.flatten()[50 : 50 + parts[name].numel()]
    parts[name] = room.view(parts[name].dtype).copy_(parts[name])
    before = out.clone()
    operator = getattr(torch.ops.sparse_ops, f"csr_conv2d_out_{isa}")
    rest = (None, None, weight.shape, (1, 1), (1, 1), (1, 1), 1, 0, out)
    with pytest.raises(RuntimeError, match=f"out must not share memory with {name}"):
        operator(x, *parts.values(), *rest)
    assert torch.equal(out.view(torch.int32), before.view(torch.int32))
