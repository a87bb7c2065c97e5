"""The gradients by Triton kernels, in every type, against float64."""

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.formats import CSRWeight
from sparse_ops.ops.csr_linear import csr_linear
from tests.cases import ConvCase, LinearCase, random_mask
from tests.kernels.interpreted.test_kernels import DTYPES, OPERATORS, problem, skip_groups
from tests.rounding import assert_within_rounding

pytestmark = pytest.mark.usefixtures("poisoned")

# Each stride, padding and dilation the gradient treats in its own way; more padding than the kernel
# reaches; pixels in several tiles and several splits; sorted channels (16 to a class or more).
CASES = [
    ConvCase(2, 5, 24, (6, 5)),
    ConvCase(1, 4, 40, (9, 8), stride=(2, 3), padding=(0, 2)),
    ConvCase(2, 8, 9, (8, 7), dilation=(2, 1), padding=(3, 1)),
    ConvCase(1, 4, 6, (5, 6), (1, 1), stride=(2, 2), padding=(1, 1)),
    ConvCase(2, 6, 12, (5, 5), groups=2),
    ConvCase(3, 2, 5, (21, 22)),
    ConvCase(1, 64, 128, (2, 3)),
]


def exact_gradients(dy, x, dense, case):
    """(dx, dW) of the convolution, in the type that is given."""
    x, dense = x.clone().requires_grad_(), dense.clone().requires_grad_()
    return torch.autograd.grad(F.conv2d(x, dense, None, *case.geometry), (x, dense), dy)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_convolutions_gradients_are_exact_up_to_rounding(name, case, dtype):
    skip_groups(name, case)
    if case.channels == 64 and name != "periodic":
        pytest.skip("the interpreter takes its time, and only classes are sorted")
    x, weight, bias = problem(name, case, dtype)
    x.requires_grad_()
    values, bias = weight.values.clone().requires_grad_(), bias.requires_grad_()
    y = OPERATORS[name][0](x, weight.with_values(values), bias, *case.geometry, backend="triton")
    dy = torch.randn(y.shape).to(dtype)
    dx, dvalues, dbias = torch.autograd.grad(y, (x, values, bias), dy)
    wide, held = (t.detach().double() for t in (dy, x))
    dense = weight.to_dense().double()
    exact = exact_gradients(wide, held, dense, case)
    magnitude = exact_gradients(wide.abs(), held.abs(), dense.abs(), case)
    taps = case.kernel[0] * case.kernel[1]
    assert dx.dtype == dvalues.dtype == dtype
    assert_within_rounding(dx, exact[0], magnitude[0], case.filters * taps)
    pixels = y.shape[0] * y.shape[2] * y.shape[3]
    gathered = (weight.gather(g) for g in (exact[1], magnitude[1]))
    assert_within_rounding(dvalues, *gathered, pixels)
    torch.testing.assert_close(dbias, dy.sum((0, 2, 3)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "case", [LinearCase(1, 40, 7, 0.6), LinearCase(9, 23, 31, 0.8), LinearCase(300, 6, 5, 0.3)]
)
def test_linear_gradients_are_exact_up_to_rounding(case, dtype):
    shape = (case.out_features, case.in_features)
    weight = CSRWeight.pack(torch.randn(shape).to(dtype), random_mask(shape, case.sparsity))
    x = torch.randn(case.batch, case.in_features).to(dtype).requires_grad_()
    values = weight.values.clone().requires_grad_()
    y = csr_linear(x, weight.with_values(values), backend="triton")
    dy = torch.randn(y.shape).to(dtype)
    dx, dvalues = torch.autograd.grad(y, (x, values), dy)
    wide, held, dense = dy.double(), x.detach().double(), weight.to_dense().double()
    assert_within_rounding(dx, wide @ dense, wide.abs() @ dense.abs(), case.out_features)
    exact, magnitude = wide.T @ held, wide.abs().T @ held.abs()
    gathered = (weight.gather(g) for g in (exact, magnitude))
    assert_within_rounding(dvalues, *gathered, case.batch)


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_are_the_same_bits_each_time(name):
    case = ConvCase(3, 2, 5, (21, 22))
    x, weight, _ = problem(name, case)
    values = weight.values.clone().requires_grad_()
    found = []
    for _ in range(2):
        y = OPERATORS[name][0](
            x, weight.with_values(values), None, *case.geometry, backend="triton"
        )
        found.append(torch.autograd.grad(y.square().sum(), values)[0])
    assert torch.equal(*found)
