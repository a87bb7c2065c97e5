"""The selection among many numbers: the same value as a full one, whatever the numbers are."""

import pytest
import torch

from sparse_ops import _selection
from sparse_ops._selection import SAMPLE, keep_only_, kth_smallest, parts, picked

COUNT = 4 * SAMPLE + 17


def many(kind: str, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(COUNT, dtype=dtype, generator=generator)
    if kind == "pruned":
        values[torch.rand(COUNT, generator=generator) < 0.9] = 0
    elif kind == "alike":
        values.fill_(0.25)
    elif kind == "few":
        values = (values * 2).round()
    elif kind == "tiny":
        values *= 1e-42
    elif kind == "periodic":
        # What the sample sees is unlike all the rest.
        values = torch.arange(COUNT, dtype=dtype).flip(0)
        values[:: COUNT // SAMPLE] -= 3 * COUNT
    elif kind == "nan":
        values[:: COUNT // SAMPLE + 1] = float("nan")
    elif kind == "infinite":
        values[5::7] = float("inf")
        values[6::7] = float("-inf")
    return values


KINDS = ("random", "pruned", "alike", "few", "tiny", "periodic", "nan", "infinite")


@pytest.mark.parametrize("of_size", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_value_of_a_full_selection(kind, dtype, of_size):
    values = many(kind, dtype)
    whole = values.abs() if of_size else values
    for k in (1, 2, COUNT // 2, int(0.9 * COUNT), int(0.998 * COUNT), COUNT - 1, COUNT):
        expected = whole.kthvalue(k).values
        found = kth_smallest(values, k, of_size=of_size)
        assert found.dtype == dtype and found.shape == ()
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_several_tensors_are_one_whatever_their_layout():
    values = many("random")
    pieces = list(values[: COUNT - 1].split([1, 2304, COUNT - 2306]))
    image = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)
    gaps = torch.randn(6, 10)[:, ::3]
    flat = torch.cat([piece.flatten() for piece in (*pieces, image, gaps)])
    for k in (1, 1000, len(flat) // 3, len(flat)):
        assert kth_smallest([*pieces, image, gaps], k) == flat.kthvalue(k).values
        assert (
            kth_smallest([image, gaps], min(k, 300))
            == torch.cat([image.flatten(), gaps.flatten()]).kthvalue(min(k, 300)).values
        )


def test_a_few_numbers_of_any_type_are_selected_too():
    for dtype in (torch.bfloat16, torch.float16, torch.int64):
        values = torch.arange(9, 0, -1).to(dtype)
        assert kth_smallest([values[:4], values[4:]], 3) == 3
    assert kth_smallest(torch.tensor([-3.0, 2.0, 1.0]), 3, of_size=True) == 3
    with pytest.raises(ValueError, match="k must be from 1 to 9, got 0"):
        kth_smallest(values, 0)
    with pytest.raises(ValueError, match="k must be from 1 to 9, got 10"):
        kth_smallest([values], 10)


def test_the_numbers_are_not_put_in_order_one_by_one(monkeypatch):
    values = many("random")
    expected = values.kthvalue(COUNT // 2).values
    sorted_ = []
    partition = _selection.np.partition

    def counting(array, where):
        sorted_.append(len(array))
        return partition(array, where)

    monkeypatch.setattr(_selection.np, "partition", counting)
    assert kth_smallest(values, COUNT // 2) == expected
    # The sample, and what is between its bounds: 4 · √(n/4) on either side of n = 65,540.
    assert max(sorted_) < SAMPLE + 1000 and sum(sorted_) < SAMPLE + COUNT // 20


def test_what_is_not_kept_becomes_zero_even_if_it_is_infinite():
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        values = torch.tensor([1.5, float("inf"), float("nan"), -2.0, -0.0, 3.0], dtype=dtype)
        kept = torch.tensor([True, False, False, True, True, False])
        keep_only_(values, kept)
        assert values.tolist() == [1.5, 0, 0, -2, 0, 0]
        assert torch.signbit(values).tolist() == [False, False, False, True, True, False]
    image = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    before, kept = image.clone(), torch.rand(2, 4, 3, 3) > 0.5
    keep_only_(image, kept)
    assert torch.equal(image, before * kept)
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_parts_are_views_of_all_of_it_and_go_together():
    for layout in (torch.contiguous_format, torch.channels_last):
        first = torch.zeros(300, 64, 3, 3).to(memory_format=layout)
        second = torch.arange(first.numel()).view(first.shape).to(memory_format=layout)
        seen = 0
        for a, b in parts(first, second):
            seen += a.numel()
            a.copy_(b)
        assert seen == first.numel() and torch.equal(first, second.float())
    # Not laid out alike: whole.
    (pair,) = parts(first, second.contiguous())
    assert pair[0] is first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True])
def test_what_is_picked_out_comes_in_the_order_of_indexing(dtype, last):
    weight = torch.randn(5, 4, 3, 2).to(dtype)
    if last:
        weight = weight.to(memory_format=torch.channels_last)
    kept = weight.abs() > 0.5
    found = picked(weight.requires_grad_(), kept)
    assert torch.equal(found, weight[kept]) and not found.requires_grad
