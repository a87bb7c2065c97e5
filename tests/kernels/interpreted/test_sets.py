"""Which filters are put together, and that a change of a weight is seen."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.ops import _kernels, _triton_structure
from sparse_ops.ops.csr_conv2d import csr_conv2d
from sparse_ops.ops.csr_linear import csr_linear
from sparse_ops.ops.periodic_conv2d import periodic_conv2d
from sparse_ops.patterns import PSD2_P8, PSD4_P16
from tests.cases import ConvCase
from tests.kernels.interpreted.test_kernels import OPERATORS, problem
from tests.rounding import assert_within_rounding

sets, grouping = _kernels.kernels("sets"), _kernels.kernels("grouping")


def table_of(pattern, shape):
    p = PeriodicWeight.pack(torch.ones(shape), pattern.mask(shape), pattern)
    columns = shape[1] * 9
    found = sets.positions(p.class_crow_indices, p.class_col_indices, shape[0], columns, p.nnz)
    return p, found


def test_positions_are_those_of_the_mask():
    p, table = table_of(PSD2_P8, (19, 10, 3, 3))
    assert torch.equal(table >= 0, PSD2_P8.mask(p.shape).flatten(1))
    assert torch.equal(table[table >= 0], torch.arange(p.nnz, dtype=torch.int32))


@pytest.mark.parametrize(("filters", "merged"), [(512, 8), (128, 8), (64, 1), (16, 1)])
def test_narrow_classes_are_merged(filters, merged):
    # 16 filters to a matrix instruction: classes of 64 / 8 are half of one. 8 classes have 23 taps
    # of 9 among them, so that one of 64 filters and 9 taps is less work than 8 of 16 and 23.
    _, table = table_of(PSD2_P8, (filters, 16, 3, 3))
    assert grouping.by_class(table, 1, 8)[0] == merged


def test_corners_that_repeat_by_four_are_four_classes():
    _, table = table_of(PSD4_P16, (256, 16, 3, 3))
    count, parts = grouping.by_class(table, 1, 16)
    # 4 taps, and one whole kernel for one of 16 pairs of classes: 4 · 16 + 4 · 5.
    assert count == 4 and [int((table[o] >= 0).any(0).sum()) for o in parts] == [84] * 4


def test_rows_that_are_alike_are_put_together():
    kept = torch.rand(2, 8, 3, 3) > 0.6
    shuffled = torch.randperm(32)
    mask = kept.repeat_interleave(16, 0)[shuffled]
    weight = CSRWeight.pack(torch.randn(32, 8, 3, 3), mask)
    table = sets.positions(weight.crow_indices, weight.col_indices, 32, 72, weight.nnz)
    parts = grouping.by_likeness(table, 1)
    assert grouping.shared_columns(table, parts) == int(kept.sum())
    x = torch.randn(1, 8, 4, 4)
    y = csr_conv2d(x, weight, padding=1, backend="triton")
    torch.testing.assert_close(y, F.conv2d(x, weight.to_dense(), padding=1))


def test_sorted_channels_are_runs_and_give_the_same():
    p, table = table_of(PSD2_P8, (128, 64, 3, 3))
    count, parts = grouping.by_class(table, 1, 8)
    own = sets.assemble(table, parts, 1, 9, p.nnz, count)
    assert own.run == 8 and own.order is not None
    odd = sets.assemble(*(table[:, : 60 * 9], parts), 1, 9, p.nnz, count)
    assert odd.run == 1 and odd.order is None
    x = torch.randn(1, 64, 2, 2).half()
    weight = p.with_values(torch.randn(p.nnz).half())
    y = periodic_conv2d(x, weight, padding=1, backend="triton")
    exact = F.conv2d(x.double(), weight.to_dense().double(), padding=1)
    torch.testing.assert_close(y.double(), exact, rtol=2e-3, atol=2e-3)


def by_class(filters, channels, pattern=PSD2_P8):
    """A weight whose filters and channels stand class by class, as if sorted."""
    mask = pattern.mask((filters, channels, 3, 3))
    orders = [(torch.arange(n) % pattern.period).argsort(stable=True) for n in (filters, channels)]
    mask = mask[orders[0]][:, orders[1]]
    return CSRWeight.pack(torch.randn(mask.shape).half(), mask)


# Runs of 8 and 16 channels, whose numbers are read; of 32, of which only the first one's is.
@pytest.mark.parametrize(
    ("filters", "channels", "abreast"), [(128, 64, 8), (128, 128, 8), (128, 256, 8), (136, 256, 1)]
)
def test_filters_that_keep_the_same_columns_are_sets_with_runs(filters, channels, abreast):
    weight = by_class(filters, channels)
    x = torch.randn(1, channels, 2, 3).half().contiguous(memory_format=torch.channels_last)
    shape = list(weight.shape)
    indices = weight.crow_indices, weight.col_indices
    own = _triton_structure.sets_of("rows", *indices, weight.nnz, shape, 1, x, sort=True)
    assert own.run == channels // 8 and own.order is None and own.abreast == abreast
    residual = torch.randn(1, filters, 2, 3).half().contiguous(memory_format=torch.channels_last)
    bias = torch.randn(filters).half()
    y = csr_conv2d(x, weight, bias, padding=1, residual=residual, backend="triton")
    dense, shift = weight.to_dense().double(), bias.double()
    exact = F.conv2d(x.double(), dense, shift, padding=1) + residual.double()
    magnitude = F.conv2d(x.double().abs(), dense.abs(), shift.abs(), padding=1)
    terms = 2 + 9 * channels
    assert_within_rounding(y, exact, magnitude + residual.double().abs(), terms)


def test_gradients_of_sorted_rows():
    weight = by_class(64, 64)
    x = torch.randn(1, 64, 2, 2).half().requires_grad_()
    values = weight.values.clone().requires_grad_()
    y = csr_conv2d(x, weight.with_values(values), padding=1, backend="triton")
    dy = torch.randn(y.shape).half()
    dx, dvalues = torch.autograd.grad(y, (x, values), dy)
    wide = x.detach().double().requires_grad_()
    dense = weight.to_dense().double().requires_grad_()
    exact = torch.autograd.grad(F.conv2d(wide, dense, padding=1), (wide, dense), dy.double())
    torch.testing.assert_close(dx.double(), exact[0], rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(dvalues.double(), weight.gather(exact[1]), rtol=2e-3, atol=2e-3)


def test_rows_that_differ_are_not_sets_of_the_same():
    mask = torch.rand(32, 8, 3, 3) > 0.5
    weight = CSRWeight.pack(torch.ones(mask.shape), mask)
    table = sets.positions(weight.crow_indices, weight.col_indices, 32, 72, weight.nnz)
    assert grouping.by_sameness(table, 1) is None
    # Two kinds, one of them in each group of the convolution.
    kinds = torch.rand(2, 8, 3, 3) > 0.5
    two = CSRWeight.pack(torch.ones(32, 8, 3, 3), kinds.repeat_interleave(16, 0))
    table = sets.positions(two.crow_indices, two.col_indices, 32, 72, two.nnz)
    assert [o.tolist() for o in grouping.by_sameness(table, 2)] == [[*range(16)], [*range(16, 32)]]


def test_narrow_sets_of_the_same_are_merged_where_that_is_less_work():
    # 8 classes of 2 filters each: 16 filters are one instruction, in whatever many sets.
    _, table = table_of(PSD2_P8, (16, 32, 3, 3))
    assert [o.tolist() for o in grouping.by_sameness(table, 1) or []] == []
    _, table = table_of(PSD2_P8, (64, 32, 3, 3))
    found = grouping.by_sameness(table, 1)
    cost = lambda parts: sum(  # noqa: E731
        int((table[o] >= 0).any(0).sum()) * (16 * -(-o.numel() // 16) + 32) for o in parts
    )
    apart = [torch.arange(c, 64, 8) for c in range(8)]
    assert sorted(torch.cat(found).tolist()) == list(range(64))
    assert cost(found) < cost(apart) and cost(found) <= cost([torch.arange(64)])


@pytest.mark.parametrize(
    ("filters", "abreast"),
    [
        ([[*range(8, 24)], [*range(24, 40)]], 8),
        ([[*range(8, 16)] + [-1] * 8], 8),
        ([[*range(4, 20)]], 1),
        ([[*range(8, 15), 16, *range(24, 32)]], 1),
        ([[*range(8, 15), -1, *range(24, 32)]], 1),
    ],
)
def test_filters_abreast(filters, abreast):
    assert sets.abreast_of(torch.tensor(filters, dtype=torch.int32)) == abreast


@pytest.mark.parametrize("columns", [40000, 65535, 65536, 70000])
def test_columns_take_two_bytes_where_they_fit(columns):
    mask = torch.zeros(3, columns, dtype=torch.bool)
    mask[0, [0, 32767, 32768, columns - 1]] = True
    mask[2, 39999] = True
    weight = CSRWeight.pack(torch.randn(3, columns), mask)
    indices = weight.crow_indices, weight.col_indices
    short, order = _triton_structure.linear_rows(*indices, columns)
    assert short.dtype == (torch.int16 if columns <= 65535 else torch.int32)
    assert order.tolist() == [0, 2, 1]
    x = torch.randn(2, columns)
    expected = F.linear(x, weight.to_dense())
    torch.testing.assert_close(csr_linear(x, weight, backend="triton"), expected)


def test_a_single_class_is_a_run_without_sorting():
    p, table = table_of(PSD2_P8, (16, 32, 3, 3))
    own = sets.assemble(table, grouping.by_class(table, 1, 8)[1], 1, 9, p.nnz, 1)
    assert own.run == 32 and own.order is None
    weight, x = p.with_values(torch.randn(p.nnz).half()), torch.randn(1, 32, 2, 3).half()
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        y = periodic_conv2d(given, weight, padding=1, backend="triton")
        exact = F.conv2d(x.double(), weight.to_dense().double(), padding=1)
        torch.testing.assert_close(y.double(), exact, rtol=2e-3, atol=2e-3)


def test_a_change_of_the_weight_is_seen():
    weight = PeriodicWeight.pack(torch.randn(8, 4, 3, 3), PSD2_P8.mask((8, 4, 3, 3)), PSD2_P8)
    x = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        before = periodic_conv2d(x, weight, backend="triton")
        weight.values.mul_(2)
        after = periodic_conv2d(x, weight, backend="triton")
    torch.testing.assert_close(after, 2 * before)
    linear = CSRWeight.pack(torch.ones(1, 3), torch.tensor([[True, False, False]]))
    x = torch.tensor([[1.0, 10.0, 100.0]])
    assert csr_linear(x, linear, backend="triton").item() == 1
    linear.col_indices.fill_(2)
    assert csr_linear(x, linear, backend="triton").item() == 100


def test_columns_in_any_order_give_the_same():
    # `validate` refuses this; a kernel that is called all the same must not mix up the values.
    mask = torch.rand(3, 4, 3, 3) > 0.8
    weight = CSRWeight.pack(torch.randn(3, 4, 3, 3), mask)
    row = slice(int(weight.crow_indices[1]), int(weight.crow_indices[2]))
    col, values = weight.col_indices.clone(), weight.values.clone()
    col[row], values[row] = col[row].flip(0), values[row].flip(0)
    turned = replace(weight, col_indices=col, values=values)
    x = torch.randn(1, 4, 3, 3)
    expected = F.conv2d(x, weight.to_dense(), padding=1)
    torch.testing.assert_close(csr_conv2d(x, turned, padding=1, backend="triton"), expected)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_residual_is_added_before_the_activation(name, last):
    case = ConvCase(2, 6, 20, (5, 4), stride=(2, 1))
    x, weight, bias = problem(name, case)
    residual = torch.randn(2, 20, 3, 4)
    if last:
        residual = residual.contiguous(memory_format=torch.channels_last)
    y = OPERATORS[name][0](
        x,
        weight,
        bias,
        *case.geometry,
        activation="relu",
        residual=residual,
        backend="triton",
    )
    expected = F.relu(F.conv2d(x, weight.to_dense(), bias, *case.geometry) + residual)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("listed", [1, 3, 4, 30])
def test_filling_writes_all_of_a_pixel_or_what_is_listed(listed):
    """Of 48 filters in channels_last: all where one in 16 is listed, and else no others."""
    fill, launch = _kernels.kernels("fill"), _kernels.kernels("_launch")
    y = torch.full((2, 48, 3, 5), torch.nan).contiguous(memory_format=torch.channels_last)
    bias = torch.randn(48)
    others = torch.randperm(48)[:listed].int()
    fill.fill(y, others, 16, launch.epilogue(y, bias, None, 0))
    written = y.isfinite().all((0, 2, 3))
    whole = 16 * listed >= 48
    assert torch.equal(
        written, torch.ones(48).bool() if whole else torch.isin(torch.arange(48), others)
    )
    exact = bias[:, None, None].expand(2, 48, 3, 5)
    assert torch.equal(y[:, written], exact[:, written])
    assert written.all() or y[:, ~written].isnan().all()
