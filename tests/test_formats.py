"""Formats: exact round trips, and no index out of range gets past validate()."""

from dataclasses import replace

import pytest
import torch

from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.patterns import PSD2_P8, Channels, Periodic

SHAPE = (8, 10, 3, 3)
RANDOM = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) > 0.8
CASES = {
    "csr": (CSRWeight, RANDOM),
    "csr linear": (CSRWeight, RANDOM.flatten(1)),
    "csr nothing kept": (CSRWeight, torch.zeros(SHAPE).bool()),
    "csr everything kept": (CSRWeight, torch.ones(SHAPE).bool()),
    "periodic": (PeriodicWeight, PSD2_P8.mask(SHAPE)),
    "periodic, tall": (PeriodicWeight, PSD2_P8.mask((33, 3, 3, 3))),
    "periodic 5x5": (PeriodicWeight, Periodic(((0, 24), (12,)), (5, 5)).mask((7, 6, 5, 5))),
    "channels": (ChannelPrunedWeight, Channels((0, 3, 7), (1, 2, 9)).mask(SHAPE)),
    "channels, all kept": (ChannelPrunedWeight, torch.ones(SHAPE).bool()),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def packed(request):
    kind, mask = request.param
    weight = torch.randn(mask.shape)
    return weight, mask, kind.pack(weight, mask)


def test_unpacking_gives_exactly_the_masked_weight(packed):
    weight, mask, packed = packed
    assert torch.equal(packed.to_dense(), weight * mask)
    assert packed.nnz == packed.values.numel() == int(mask.sum())
    packed.validate()


def test_gather_is_the_inverse_of_scatter(packed):
    weight, mask, packed = packed
    values = torch.randn_like(packed.values)
    assert torch.equal(packed.gather(packed.scatter(values)), values)
    assert torch.equal(packed.scatter(packed.gather(weight)), weight * mask)


def test_values_stand_in_the_order_of_the_mask(packed):
    weight, mask, packed = packed
    assert torch.equal(packed.values.flatten(), weight[mask])


@pytest.mark.parametrize("kind", [CSRWeight, PeriodicWeight, ChannelPrunedWeight])
@pytest.mark.parametrize(
    ("weight", "mask", "words"),
    [
        (
            torch.randn(4, 4, 3, 3),
            torch.ones(4, 4, 3, 2).bool(),
            r"mask must be bool \(4, 4, 3, 3\)",
        ),
        (torch.randn(4, 4, 3, 3), torch.ones(4, 4, 3, 3), "mask must be bool"),
        (torch.ones(4, 4, 3, 3).int(), torch.ones(4, 4, 3, 3).bool(), "weight must be floating"),
        (torch.randn(4, 4, 3), torch.ones(4, 4, 3).bool(), "dimensions, got"),
        (torch.randn(0, 4, 3, 3), torch.ones(0, 4, 3, 3).bool(), "numbers above 0"),
    ],
)
def test_what_cannot_be_packed_is_refused(kind, weight, mask, words):
    with pytest.raises(ValueError, match=words):
        kind.pack(weight, mask)


def test_masks_without_the_regularity_are_refused():
    with pytest.raises(ValueError, match="mask is not periodic"):
        PeriodicWeight.pack(torch.randn(SHAPE), RANDOM)
    with pytest.raises(ValueError, match="mask is not that of the pattern given, of period 8"):
        PeriodicWeight.pack(torch.randn(SHAPE), RANDOM, PSD2_P8)
    with pytest.raises(ValueError, match="mask removes other than whole channels"):
        ChannelPrunedWeight.pack(torch.randn(SHAPE), RANDOM)


def i32(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"col_indices": i32(0, 9, 5)}, r"col_indices must be in \[0, 9\), got 0 to 9"),
        ({"col_indices": i32(0, -1, 5)}, r"col_indices must be in \[0, 9\), got -1 to 5"),
        ({"col_indices": i32(5, 5, 5)}, "must rise within each row"),
        ({"col_indices": torch.tensor([0, 4, 5])}, "col_indices must be int32, got torch.int64"),
        ({"col_indices": i32(0, 4)}, r"values must be \(2,\), got \(3,\)"),
        ({"crow_indices": i32(0, 2, 4)}, r"crow_indices must go from 0 to 3, got \[0, 4\]"),
        ({"crow_indices": i32(1, 2, 3)}, r"crow_indices must go from 0 to 3, got \[1, 3\]"),
        ({"crow_indices": i32(0, 4, 3)}, "crow_indices must never fall"),
        ({"crow_indices": i32(0, 3)}, r"crow_indices must be \(3\), got \(2,\)"),
        ({"values": torch.ones(3).int()}, "values must be floating point"),
        ({"shape": (2, 0, 3, 3)}, "numbers above 0"),
        ({"shape": (2, 1, 3, 2**31)}, "rows longer than"),
    ],
)
def test_hostile_csr_does_not_validate(change, words):
    good = CSRWeight(i32(0, 2, 3), i32(0, 4, 5), torch.ones(3), (2, 1, 3, 3))
    good.validate()
    with pytest.raises(ValueError, match=words):
        replace(good, **change).validate()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"in_channels": i32(0, 5)}, r"in_channels must be in \[0, 5\), got 0 to 5"),
        ({"out_channels": i32(-1, 1, 2)}, r"out_channels must be in \[0, 4\), got -1 to 2"),
        ({"out_channels": i32(0, 2, 2)}, "out_channels must rise, without repeats"),
        ({"out_channels": i32(0, 2)}, r"values must be \(2, 2, 3, 3\), got \(3, 2, 3, 3\)"),
        ({"values": torch.ones(3, 2, 3)}, r"values must be \(3, 2, 3, 3\)"),
    ],
)
def test_hostile_channels_do_not_validate(change, words):
    good = ChannelPrunedWeight(torch.ones(3, 2, 3, 3), i32(0, 1, 3), i32(0, 4), (4, 5, 3, 3))
    good.validate()
    with pytest.raises(ValueError, match=words):
        replace(good, **change).validate()


def test_hostile_periodic_does_not_validate():
    good = PeriodicWeight.pack(torch.randn(SHAPE), PSD2_P8.mask(SHAPE))
    with pytest.raises(ValueError, match=r"values must be \(.*\), got"):
        replace(good, values=good.values[:-1]).validate()
    with pytest.raises(ValueError, match="class columns do not follow"):
        replace(good, class_col_indices=good.class_col_indices + 1).validate()
    with pytest.raises(ValueError, match="class columns do not follow"):
        replace(good, shape=(8, 11, 3, 3)).validate()
