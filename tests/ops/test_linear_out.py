"""csr_linear that writes into columns of a larger tensor."""

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.formats import CSRWeight
from sparse_ops.ops.csr_linear import csr_linear
from tests.cases import LINEAR, LinearCase
from tests.compiling import assert_compiles_and_exports
from tests.covering import pairwise
from tests.ops.test_csr_linear import ON_CPU, exact, problem, skip_if_refused
from tests.ops.test_out import AFTER, BEFORE, GUARD, assert_guarded, part_of
from tests.rounding import assert_within_rounding

pytestmark = pytest.mark.usefixtures("poisoned")

# Each way through the kernels: one row, up to four, full cache lines of batch, and the rest of one.
BATCHES = [1, 3, 16, 40]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def csr(features=8, given=6):
    weight = torch.randn(features, given)
    return CSRWeight.pack(weight, torch.rand_like(weight) > 0.5)


@pytest.fixture(params=ON_CPU, ids=lambda b: b.name)
def backend(request):
    return request.param


def whole_for(batch, features, dtype=torch.float32):
    return torch.full((batch, BEFORE + features + AFTER), GUARD, dtype=dtype)


@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_what_is_written_is_exact_and_nothing_around_it_changes(backend, case):
    x, weight, bias = problem(case)
    skip_if_refused(backend, x, weight, bias, "relu")
    y, magnitude = exact(x, weight, bias)
    residual = torch.randn(case.out_features, case.batch).T
    for added in (None, residual):
        shift = torch.zeros(()) if added is None else added
        options = {"activation": "relu", "residual": added, "backend": backend.name}
        whole = whole_for(case.batch, case.out_features)
        out = part_of(whole)
        assert csr_linear(x, weight, bias, out=out, **options) is out
        bound = magnitude + shift.abs().double()
        assert_within_rounding(out, F.relu(y + shift.double()), bound, case.in_features + 2)
        assert_guarded(whole)


@pytest.mark.parametrize(
    ("features", "batch", "dtype"), pairwise([1, 15, 16, 67], BATCHES, DTYPES), ids=str
)
def test_the_bits_are_those_of_a_new_tensor(backend, features, batch, dtype):
    x, weight, bias = problem(LinearCase(batch, 130, features, 0.6), dtype)
    skip_if_refused(backend, x, weight, bias, None)
    residual = torch.randn(batch, features).to(dtype)
    for activation, added in ((None, None), ("silu", None), ("relu", residual), ("gelu", residual)):
        options = {"activation": activation, "residual": added, "backend": backend.name}
        expected = csr_linear(x, weight, bias, **options)
        exactly = torch.full((batch, features), GUARD, dtype=dtype)
        wide = whole_for(batch, features, dtype)
        # Rows as far apart as makes cache lines share a set.
        apart = torch.full((batch, 512), GUARD, dtype=dtype)
        for out in (exactly, part_of(wide), apart[:, 1 : 1 + features]):
            csr_linear(x, weight, bias, out=out, **options)
            assert torch.equal(out, expected)
        assert_guarded(wide)
        assert bool((apart[:, 0] == GUARD).all() and (apart[:, 1 + features :] == GUARD).all())


@pytest.mark.parametrize("case", [LINEAR[9]._replace(batch=37), *LINEAR[-2:]], ids=str)
def test_threads_give_the_same_bits(backend, case):
    x, weight, bias = problem(case)
    skip_if_refused(backend, x, weight, bias, None)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            whole = whole_for(case.batch, case.out_features)
            csr_linear(x, weight, bias, out=part_of(whole), backend=backend.name)
            assert_guarded(whole)
            results.append(part_of(whole))
    finally:
        torch.set_num_threads(threads)
    if backend.into is not None:
        assert all(torch.equal(results[0], other) for other in results[1:])
    assert_within_rounding(results[0], *exact(x, weight, bias), case.in_features + 1)


def test_leading_dimensions_are_those_of_x(backend):
    x, weight, bias = problem(LINEAR[2]._replace(batch=12))
    skip_if_refused(backend, x, weight, bias, None)
    expected = csr_linear(x, weight, bias, backend=backend.name)
    whole = torch.full((3, 4, 12), GUARD)
    out = whole[:, :, 2:7]
    assert csr_linear(x.view(3, 4, 7), weight, bias, out=out, backend=backend.name) is out
    assert torch.equal(out, expected.view(3, 4, 5))
    assert bool((whole[..., :2] == GUARD).all() and (whole[..., 7:] == GUARD).all())
    csr_linear(x[0], weight, bias, out=whole[0, 0, 7:], backend=backend.name)
    torch.testing.assert_close(whole[0, 0, 7:], expected[0])
    nothing = torch.empty(2, 0, 5)
    csr_linear(torch.empty(2, 0, 7), weight, bias, out=nothing, backend=backend.name)
    # Rows that are not one distance apart: a copy goes there, a kernel does not.
    turned = torch.full((4, 3, 5), GUARD).transpose(0, 1)
    arguments = {"out": turned, "backend": backend.name}
    if backend.into is None:
        csr_linear(x.view(3, 4, 7), weight, bias, **arguments)
        assert torch.equal(turned, expected.view(3, 4, 5))
    else:
        words = r"out must be a view of \(12, 5\); its strides are \(5, 15, 1\)"
        with pytest.raises(RuntimeError, match=words):
            csr_linear(x.view(3, 4, 7), weight, bias, **arguments)


@pytest.mark.parametrize("leading", [(3,), (3, 1)])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_autograd_learns_that_out_has_changed(backend, leading):
    x, weight, out = torch.randn(*leading, 6), csr(), torch.zeros(*leading, 8)
    factor = torch.ones(*leading, 8, requires_grad=True)
    product = (factor * out).sum()
    csr_linear(x, weight, out=out, backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
    with torch.inference_mode():
        csr_linear(x, weight, out=torch.zeros(*leading, 8), backend=backend)


def test_under_autocast_out_is_of_its_type():
    x, weight, out = torch.randn(3, 6), csr(), torch.zeros(3, 8, dtype=torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        csr_linear(x, weight, out=out)
        assert torch.equal(out, csr_linear(x, weight))
        with pytest.raises(
            ValueError, match=r"out must be torch.bfloat16 on cpu, got torch.float32"
        ):
            csr_linear(x, weight, out=out.float())


class Concatenating(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = csr(), csr(3)

    def forward(self, x):
        whole = x.new_zeros(*x.shape[:-1], 12)
        csr_linear(x, self.one, activation="relu", out=whole[..., :8])
        csr_linear(x, self.two, out=whole[..., 9:])
        return whole


@pytest.mark.parametrize("leading", [(5,), (2, 3)])
def test_it_compiles_and_exports(leading):
    model, x = Concatenating(), torch.randn(*leading, 6)
    expected = assert_compiles_and_exports(model, x)
    y = csr_linear(x, model.one, activation="relu")
    assert torch.equal(expected[..., :8], y) and not bool(expected[..., 8].any())
