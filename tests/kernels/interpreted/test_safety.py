"""Indices that lie, tensors over 2^31 elements, and what dispatch makes of the operators."""

from dataclasses import replace

import pytest
import torch
import triton.language as tl
from torch.library import opcheck
from torch.nn import functional as F

from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.ops import _kernels
from sparse_ops.ops.channel_pruned_conv2d import channel_pruned_conv2d
from sparse_ops.ops.csr_conv2d import csr_conv2d
from sparse_ops.ops.csr_linear import csr_linear
from sparse_ops.ops.periodic_conv2d import periodic_conv2d
from sparse_ops.patterns import PSD2_P8, Channels
from tests.rounding import assert_within_rounding

linear_kernels = _kernels.kernels("csr_linear")
configs, launch = _kernels.kernels("configs"), _kernels.kernels("_launch")


def i32(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


def periodic(filters, channels):
    shape = (filters, channels, 3, 3)
    return PeriodicWeight.pack(torch.randn(shape), PSD2_P8.mask(shape), PSD2_P8)


@pytest.mark.parametrize("filters", [8, 48])
@pytest.mark.parametrize("change", ["columns", "negative", "starts", "few values"])
def test_rows_that_lie_read_nothing_out_of_bounds(filters, change):
    x, weight = torch.randn(1, 8, 4, 4), periodic(filters, 8)
    crow, col = weight.class_crow_indices.clone(), weight.class_col_indices.clone()
    if change == "columns":
        col += 1000
    elif change == "negative":
        col -= 2**30
    elif change == "starts":
        crow[1:] += 500
        crow[0] = -7
    else:
        weight = weight.with_values(weight.values[:5])
    bent = replace(weight, class_crow_indices=crow, class_col_indices=col)
    # The interpreter of these tests stops at any address outside of the tensors.
    assert periodic_conv2d(x, bent, padding=1, backend="triton").shape == (1, filters, 4, 4)


def test_channels_that_lie_read_and_write_nothing_out_of_bounds():
    shape = (20, 8, 3, 3)
    weight = ChannelPrunedWeight.pack(
        torch.randn(shape), Channels(tuple(range(18)), (1, 2, 3)).mask(shape)
    )
    out, inp = weight.out_channels.clone(), weight.in_channels.clone()
    out[3], out[4], inp[0], inp[1] = 20, -1, 8, -(2**30)
    bent = replace(weight, out_channels=out, in_channels=inp)
    y = channel_pruned_conv2d(torch.randn(1, 8, 4, 4), bent, padding=1, backend="triton")
    assert not y.isnan().any() and not y[0, [3, 4]].any()


def test_linear_columns_that_lie_read_nothing_out_of_bounds():
    good = CSRWeight.pack(torch.randn(4, 9), torch.rand(4, 9) > 0.5)
    for col in (good.col_indices + 9, good.col_indices - 2**30):
        bent = replace(good, col_indices=col)
        assert not csr_linear(torch.randn(3, 9), bent, backend="triton").any()
    bent = replace(good, crow_indices=i32(-9, 300, 4, 900, 1))
    assert csr_linear(torch.randn(3, 9), bent, backend="triton").shape == (3, 4)


def far_apart(small):
    """The same numbers, but the second of two images 2^31 elements away from the first.

    Pages that nobody touches take no memory: only the two images in use do.
    """
    inner = small[0].numel()
    memory = torch.empty(2**31 + 12345 + inner, dtype=small.dtype)
    strides = (2**31 + 12345, *small.contiguous().stride()[1:])
    return memory.as_strided(small.shape, strides).copy_(small)


@pytest.mark.parametrize("operator", ["periodic", "narrow", "csr", "channel_pruned"])
def test_offsets_over_two_to_the_31(operator):
    shape = (40 if operator == "periodic" else 3, 4, 3, 3)
    images, dense = torch.randn(2, 4, 3, 3).half(), torch.randn(shape).half()
    x = far_apart(images)
    if operator in ("periodic", "narrow"):
        weight, run = PeriodicWeight.pack(dense, PSD2_P8.mask(shape), PSD2_P8), periodic_conv2d
    elif operator == "csr":
        weight, run = CSRWeight.pack(dense, torch.rand(shape) > 0.5), csr_conv2d
    else:
        mask = Channels((0, 2), (1, 3)).mask(shape)
        weight, run = ChannelPrunedWeight.pack(dense, mask), channel_pruned_conv2d
    values = weight.values.clone().requires_grad_()
    y = run(x, weight.with_values(values), padding=1, backend="triton")
    exact_values = weight.values.double().requires_grad_()
    exact = F.conv2d(
        images.double(), weight.with_values(exact_values).to_dense().double(), padding=1
    )
    torch.testing.assert_close(y.double(), exact, rtol=2e-3, atol=2e-3)
    dy = torch.randn(y.shape).half()
    (found,) = torch.autograd.grad(y, values, far_apart(dy))
    (expected,) = torch.autograd.grad(exact, exact_values, dy.double())
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=2e-3)


def test_pixels_over_two_to_the_31_are_counted_in_64_bits():
    # On no device: such an output takes 4 GB and more.
    large = torch.empty(2**20, 1, 64, 64, dtype=torch.float16, device="meta")
    small = torch.empty(2**20, 1, 32, 32, dtype=torch.float16, device="meta")
    assert launch.tiled(large, 128)["INDEX"] is tl.int64
    assert launch.tiled(small, 128)["INDEX"] is tl.int32
    # The last tile of what just fits would count past the end.
    edge = torch.empty(1, 1, 1, 2**31 - 100, dtype=torch.float16, device="meta")
    assert launch.tiled(edge, 128)["INDEX"] is tl.int64


def test_parts_over_two_to_the_31_are_added_up():
    # So many parts of so many sums, of which only some pages are ever touched.
    entries, splits = 2**30 + 8, 3
    parts = torch.empty(splits * entries, dtype=torch.int8)
    at = torch.arange(4)
    for part in range(splits):
        parts[part * entries + at] = part + 1
    y = torch.empty(4)
    linear_kernels._csr_linear_sum_kernel[(1,)](
        parts, None, None, y, entries, 2, splits, 2, 1, False, False, 0, 4
    )
    assert y.tolist() == [6.0] * 4


@pytest.mark.parametrize("batch", [2, 9])
def test_linear_offsets_over_two_to_the_31(batch):
    weight = CSRWeight.pack(torch.randn(3, 5).half(), torch.rand(3, 5) > 0.4)
    small = torch.randn(2, 5).half()
    x = far_apart(small) if batch == 2 else torch.cat([small] * 5)[:batch]
    y = csr_linear(x, weight, backend="triton")
    exact = F.linear(x.double(), weight.to_dense().double())
    torch.testing.assert_close(y.double(), exact, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("batch", [1, 6, 9])
@pytest.mark.parametrize("splits", [1, 2, 7])
def test_a_row_in_parts_is_the_row(batch, splits):
    dense = torch.randn(5, 90)
    weight = CSRWeight.pack(dense, torch.rand(5, 90) > 0.4)
    x, bias, residual = torch.randn(batch, 90), torch.randn(5), torch.randn(5, batch).T
    y = linear_kernels.csr_linear(
        x,
        weight.crow_indices,
        weight.col_indices.to(torch.int16),
        weight.values,
        torch.tensor([4, 2, 0, 1, 3], dtype=torch.int32),
        bias,
        residual,
        1,
        configs.LinearConfig(4, 16, splits, 4, 1),
    )
    expected = F.relu(F.linear(x, weight.to_dense(), bias) + residual)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def rows_of_lengths(lengths, columns, dtype):
    """A weight with so many weights in each row, the last column among them."""
    mask = torch.zeros(len(lengths), columns, dtype=torch.bool)
    for row, length in zip(mask, lengths, strict=True):
        row[columns - 1 - torch.arange(length) * (columns // max(lengths))] = True
    return CSRWeight.pack(torch.randn(mask.shape).to(dtype), mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("columns", [40, 70_000])
@pytest.mark.parametrize("last", range(8))
def test_rows_begin_and_end_anywhere(last, columns, dtype):
    # Empty rows, rows of one, and what is left of the last eight weights of all, for each batch.
    weight = rows_of_lengths([3, 0, 1, 8, 1, 20, 0, 0, 17, 6, last], columns, dtype)
    assert weight.nnz % 8 == last
    x = torch.randn(last + 1, columns).to(dtype)
    y = csr_linear(x, weight, backend="triton")
    dense = weight.to_dense().double()
    terms, magnitude = columns + 1, F.linear(x.double().abs(), dense.abs())
    assert_within_rounding(y, F.linear(x.double(), dense), magnitude, terms)
    # As they come from a file: no multiple of anything in memory, and others' numbers around.
    values, col = (torch.full((weight.nnz + 9,), 7).to(t.dtype) for t in (weight.values, i32()))
    values[1:-8], col[1:-8] = weight.values, weight.col_indices
    view = replace(weight, values=values[1:-8], col_indices=col[1:-8])
    assert torch.equal(csr_linear(x, view, backend="triton"), y)


@pytest.mark.parametrize("splits", [2, 5])
def test_the_last_weights_are_added_once_whatever_the_parts(splits):
    weight = rows_of_lengths([5, 0, 20, 6], 40, torch.float32)
    x = torch.randn(2, 40)
    y = linear_kernels.csr_linear(
        x,
        weight.crow_indices,
        weight.col_indices,
        weight.values,
        torch.arange(4, dtype=torch.int32),
        None,
        None,
        0,
        configs.LinearConfig(2, 16, splits, 1, 1),
    )
    torch.testing.assert_close(y, F.linear(x, weight.to_dense()), rtol=1e-5, atol=1e-5)


def test_the_default_cuts_rows_that_cannot_fill_the_card(monkeypatch):
    monkeypatch.setattr(configs, "_multiprocessors", lambda device: 100)
    few = configs.linear_config(torch.empty(1, 4096), 50, 50 * 2048)
    many = configs.linear_config(torch.empty(1, 4096), 4096, 4096 * 400)
    assert few.splits == 8 and many.splits == 1


def arguments():
    x = torch.randn(1, 8, 6, 5)
    last = x.contiguous(memory_format=torch.channels_last)
    wide, csr = (
        periodic(48, 8),
        CSRWeight.pack(torch.randn(3, 8, 3, 3), torch.rand(3, 8, 3, 3) > 0.8),
    )
    shape = (16, 8, 3, 3)
    pruned = ChannelPrunedWeight.pack(torch.randn(shape), Channels((0, 1, 9), (2, 3)).mask(shape))
    linear = CSRWeight.pack(torch.randn(7, 9), torch.rand(7, 9) > 0.5)
    geometry = ((2, 1), (1, 0), (1, 2))
    classes = (wide.class_crow_indices, wide.class_col_indices, wide.values)
    kept = (pruned.values, pruned.out_channels, pruned.in_channels)
    out = torch.randn(1, 48, 3, 3)
    grown = out.contiguous(memory_format=torch.channels_last)
    return {
        "sparse_conv2d_backward": (
            grown,
            last,
            *classes,
            wide.shape,
            *geometry,
            1,
            True,
            True,
        ),
        "channel_pruned_conv2d_backward": (
            out[:, :16].contiguous(),
            x,
            *kept,
            shape,
            *geometry,
            True,
            False,
        ),
        "csr_linear_backward": (
            torch.randn(6, 7),
            torch.randn(6, 9),
            linear.crow_indices,
            linear.col_indices,
            linear.values,
            False,
            True,
        ),
        "periodic_conv2d": (last, *classes, torch.randn(48), None, wide.shape, *geometry, 1, 1),
        "csr_conv2d": (
            x,
            csr.crow_indices,
            csr.col_indices,
            csr.values,
            None,
            None,
            csr.shape,
            *geometry,
            1,
            0,
        ),
        "channel_pruned_conv2d": (last, *kept, torch.randn(16), None, shape, *geometry, 2),
        "csr_linear": (
            torch.randn(6, 9),
            linear.crow_indices,
            linear.col_indices,
            linear.values,
            torch.randn(7),
            torch.randn(6, 7),
            3,
        ),
    }


@pytest.mark.parametrize("name", arguments())
def test_opcheck(name):
    opcheck(getattr(torch.ops.sparse_ops, f"{name}_triton"), arguments()[name])
