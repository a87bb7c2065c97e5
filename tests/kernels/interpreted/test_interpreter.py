"""The mended interpreter: it is right where the stock one is not, and finds planted bugs."""

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError


@triton.jit
def _product(a_ptr, b_ptr, c_ptr, N: tl.constexpr):
    at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    c = tl.dot(tl.load(a_ptr + at), tl.load(b_ptr + at))
    tl.store(c_ptr + at, c.to(c_ptr.dtype.element_ty))


@triton.jit
def _copy(x_ptr, y_ptr, n, step, limit, N: tl.constexpr):
    at = tl.program_id(0) * step + tl.arange(0, N)
    value = tl.load(x_ptr + at, mask=at < limit, other=0.0)
    tl.store(y_ptr + at, value.to(y_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _all_to_one(x_ptr, y_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(y_ptr + at // 2, tl.load(x_ptr + at))


@triton.jit
def _promises(x_ptr, y_ptr, N: tl.constexpr, STEP: tl.constexpr, WHAT: tl.constexpr):
    at = tl.load(x_ptr + tl.arange(0, N))
    if WHAT == 0:
        at = tl.max_contiguous(at, STEP)
    if WHAT == 1:
        at = tl.multiple_of(at, STEP)
    if WHAT == 2:
        at = tl.max_constancy(at, STEP)
    tl.store(y_ptr + tl.arange(0, N), at)


@pytest.mark.parametrize(
    ("what", "held", "broken"),
    [
        (0, [5, 6, 7, 8, 0, 1, 2, 3], [5, 6, 7, 8, 0, 1, 3, 2]),
        (1, [4, 5, 6, 7, -1, -1, -1, -1], [4, 5, 6, 7, 2, 3, 4, 5]),
        (2, [9, 9, 9, 9, 2, 2, 2, 2], [9, 9, 9, 9, 2, 2, 2, 3]),
    ],
)
def test_promises_to_the_compiler_are_held_to(what, held, broken):
    y = torch.empty(8, dtype=torch.int32)
    _promises[(1,)](torch.tensor(held, dtype=torch.int32), y, 8, 4, what)
    assert y.tolist() == held
    with pytest.raises((InterpreterError, ValueError), match="promised and does not hold"):
        _promises[(1,)](torch.tensor(broken, dtype=torch.int32), y, 8, 4, what)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_products_are_right_in_all_types(dtype):
    a, b = torch.randn(16, 16).to(dtype), torch.randn(16, 16).to(dtype)
    c = torch.empty(16, 16)
    _product[(1,)](a, b, c, 16)
    torch.testing.assert_close(c.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-5)


def test_narrowing_rounds_to_nearest_even():
    # Halfway between two numbers of bfloat16, below an odd and above an even one; and NaN.
    x = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, float("nan")])
    y = torch.empty(4, dtype=torch.bfloat16)
    _copy[(1,)](x, y, 4, 4, 4, 4)
    assert torch.equal(y[:3], x[:3].bfloat16()) and bool(y[3].isnan())


def test_a_load_past_the_end_is_found():
    x, y = torch.randn(7), torch.empty(8)
    with pytest.raises(InterpreterError, match="load outside of the kernel's tensors: 1 lanes"):
        _copy[(1,)](x, y, 8, 8, 8, 8)


def test_a_load_beside_a_view_is_found():
    x, y = torch.randn(16), torch.empty(8)
    with pytest.raises(InterpreterError, match="load outside"):
        _copy[(1,)](x[:4], y, 8, 8, 8, 8)


def test_a_store_past_the_end_is_found():
    x, y = torch.randn(8), torch.empty(7)
    with pytest.raises(InterpreterError, match="store outside"):
        _copy[(1,)](x, y, 8, 8, 8, 8)


def test_two_programs_that_store_to_one_address_are_found():
    x, y = torch.randn(12), torch.empty(12)
    _copy[(3,)](x, y, 12, 4, 12, 4)
    assert torch.equal(x, y)
    with pytest.raises(RuntimeError, match=r"programs 0 and 1 store to one address; 2 such"):
        _copy[(2,)](x, y, 12, 2, 12, 4)


def test_two_lanes_that_store_to_one_address_are_found():
    x, y = torch.randn(4), torch.empty(2)
    with pytest.raises(InterpreterError, match="two lanes"):
        _all_to_one[(1,)](x, y, 4)
