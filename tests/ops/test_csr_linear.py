"""Every backend of csr_linear against float64, forwards and backwards."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.formats import CSRWeight
from sparse_ops.ops._activation import function_of
from sparse_ops.ops.csr_linear import BACKENDS, csr_linear
from tests.activations import ACTIVATION_NAMES
from tests.cases import LINEAR, random_mask
from tests.rounding import assert_within_rounding

pytestmark = pytest.mark.usefixtures("poisoned")


# Those of GPUs refuse every tensor of a CPU; tests/kernels has them.
ON_CPU = [backend for backend in BACKENDS if backend.name not in ("triton", "dense")]


@pytest.fixture(params=ON_CPU, ids=lambda b: b.name)
def backend(request):
    return request.param


def problem(case, dtype=torch.float32):
    shape = (case.out_features, case.in_features)
    weight = CSRWeight.pack(torch.randn(shape).to(dtype), random_mask(shape, case.sparsity))
    x = torch.randn(case.batch, case.in_features).to(dtype)
    return x, weight, torch.randn(case.out_features).to(dtype)


def skip_if_refused(backend, *arguments):
    if reason := backend.refuses(*arguments):
        pytest.skip(reason)


def exact(x, weight, bias, activation=None):
    dense, shift = weight.to_dense().double(), bias.double()
    y = F.linear(x.double(), dense, shift)
    return function_of(activation)(y), F.linear(x.double().abs(), dense.abs(), shift.abs())


@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_forward_is_exact_up_to_rounding(backend, case):
    x, weight, bias = problem(case)
    skip_if_refused(backend, x, weight, bias, None)
    y = csr_linear(x, weight, bias, backend=backend.name)
    assert_within_rounding(y, *exact(x, weight, bias), case.in_features + 1)


@pytest.mark.parametrize("batch", [2, 20])
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_activation(backend, activation, batch):
    case = LINEAR[5]._replace(batch=batch)
    x, weight, bias = problem(case)
    x = 8 * x
    skip_if_refused(backend, x, weight, bias, activation)
    y = csr_linear(x, weight, bias, activation=activation, backend=backend.name)
    assert_within_rounding(y, *exact(x, weight, bias, activation), case.in_features + 8, 1.2)


@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_residual_is_added_before_the_activation(backend, case):
    x, weight, bias = problem(case)
    skip_if_refused(backend, x, weight, bias, "relu")
    y, magnitude = exact(x, weight, bias)
    residual = torch.randn(case.out_features, case.batch).T
    found = csr_linear(x, weight, bias, activation="relu", residual=residual, backend=backend.name)
    expected = F.relu(y + residual.double())
    assert_within_rounding(
        found, expected, magnitude + residual.abs().double(), case.in_features + 2
    )


@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_gradients_are_exact_up_to_rounding(backend, case):
    x, weight, bias = problem(case)
    skip_if_refused(backend, x, weight, bias, None)
    inputs = (x.requires_grad_(), weight.values.clone().requires_grad_(), bias.requires_grad_())
    y = csr_linear(x, weight.with_values(inputs[1]), bias, backend=backend.name)
    dy = torch.randn_like(y)
    dx, dvalues, dbias = torch.autograd.grad(y, inputs, dy)
    dyd, xd, dense = dy.double(), x.detach().double(), weight.to_dense().double()
    assert_within_rounding(dx, dyd @ dense, dyd.abs() @ dense.abs(), case.out_features)
    assert_within_rounding(
        dvalues,
        weight.gather(dyd.T @ xd),
        weight.gather(dyd.abs().T @ xd.abs()),
        max(1, case.batch),
    )
    assert_within_rounding(dbias, dyd.sum(0), dyd.abs().sum(0), max(1, case.batch))


def test_leading_dimensions_are_kept(backend):
    x, weight, bias = problem(LINEAR[2]._replace(batch=12))
    skip_if_refused(backend, x, weight, bias, None)
    expected = csr_linear(x, weight, bias, backend=backend.name)
    assert torch.equal(
        csr_linear(x.reshape(3, 4, 7), weight, bias, backend=backend.name),
        expected.reshape(3, 4, 5),
    )
    one = csr_linear(x[0], weight, bias, backend=backend.name)
    torch.testing.assert_close(one, expected[0])


def test_strided_inputs_are_read(backend):
    x, weight, bias = problem(LINEAR[4])
    skip_if_refused(backend, x, weight, bias, None)
    y = csr_linear(x.T.contiguous().T, weight, bias, backend=backend.name)
    assert_within_rounding(y, *exact(x, weight, bias), 34)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(backend, dtype):
    x, weight, bias = problem(LINEAR[6], dtype)
    skip_if_refused(backend, x, weight, bias, None)
    y = csr_linear(x, weight, bias, backend=backend.name)
    assert y.dtype == dtype
    assert_within_rounding(y, *exact(x, weight, bias), 34)


@pytest.mark.parametrize("case", [LINEAR[9]._replace(batch=37), *LINEAR[-2:]], ids=str)
def test_one_thread_and_two_give_the_same_bits(backend, case):
    x, weight, bias = problem(case)
    skip_if_refused(backend, x, weight, bias, None)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(csr_linear(x, weight, bias, backend=backend.name))
    finally:
        torch.set_num_threads(threads)
    if backend.name == "reference":
        torch.testing.assert_close(*results)
    else:
        assert torch.equal(*results)


@pytest.mark.parametrize("batch", [1, 4, 48])
def test_columns_in_any_order_give_the_same_sums(backend, batch):
    """A packed weight has its columns in order; a call to the operator need not."""
    x, weight, bias = problem(LINEAR[-2]._replace(batch=batch))
    skip_if_refused(backend, x, weight, bias, None)
    order = torch.cat(
        [
            torch.arange(first, last).flip(0)
            for first, last in itertools.pairwise(weight.crow_indices.tolist())
        ]
    )
    turned = replace(weight, col_indices=weight.col_indices[order], values=weight.values[order])
    y = csr_linear(x, turned, bias, backend=backend.name)
    assert_within_rounding(y, *exact(x, weight, bias), 2901)


def test_errors_name_the_shape_and_the_reason():
    x, weight, bias = problem(LINEAR[2])
    with pytest.raises(ValueError, match=r"x must be \(\*, 7\), got \(3, 6\)"):
        csr_linear(x[:, :6], weight)
    with pytest.raises(ValueError, match=r"unknown backend .avx.; have avx512, .*, triton, .*ref"):
        csr_linear(x, weight, backend="avx")
    with pytest.raises(RuntimeError, match="avx512: "):
        csr_linear(x.double(), weight.with_values(weight.values.double()), backend="avx512")
    with pytest.raises(ValueError, match=r"bias must be \(5\), got \(4,\)"):
        csr_linear(x, weight, bias[:4])
    with pytest.raises(ValueError, match=r"weight must be \(out_features, in_features\)"):
        csr_linear(x, CSRWeight.pack(torch.randn(2, 3, 1, 1), torch.ones(2, 3, 1, 1).bool()))
