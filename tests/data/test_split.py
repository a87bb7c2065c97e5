"""Splits and their batches."""

import pytest
import torch

from sparse_ops.data import Split, batches


def numbered(count: int) -> Split:
    """Each image is its label."""
    labels = torch.arange(count)
    return Split(labels.float().reshape(-1, 1, 1, 1), labels)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("count", "size", "number"), [(10, 3, 4), (9, 3, 3), (2, 5, 1), (1, 1, 1)])
def test_each_image_comes_once_an_epoch_with_its_label(count, size, number, shuffle):
    found = list(batches(numbered(count), size, seeded(0), shuffle))
    assert len(found) == number == len(batches(numbered(count), size))
    assert sorted(torch.cat([y for _, y in found]).tolist()) == list(range(count))
    assert all(torch.equal(x.flatten(), y.float()) for x, y in found)
    assert all(len(y) == size for _, y in found[:-1])


def test_each_epoch_has_its_own_order():
    source = batches(numbered(50), 50, seeded(0))
    orders = [next(iter(source))[1].tolist() for _ in range(3)]
    assert orders[0] != orders[1] != orders[2]


def test_generators_of_one_seed_give_the_same_orders():
    sources = [batches(numbered(50), 7, seeded(3)) for _ in range(2)]
    for _ in range(2):
        first, second = ([y.tolist() for _, y in source] for source in sources)
        assert first == second


def test_without_shuffling_the_order_is_that_of_the_split():
    found = torch.cat([y for _, y in batches(numbered(11), 4, shuffle=False)])
    assert found.tolist() == list(range(11))


def test_batches_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no images"):
        batches(numbered(0), 4)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        batches(numbered(3), 0)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(2, 3, 3), torch.zeros(2).long(), r"images must be \(N, C, H, W\)"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.zeros(2).long(), "float32, got .*uint8"),
        (torch.zeros(2, 1, 3, 3), torch.zeros(3).long(), r"labels must be \(2,\)"),
        (torch.zeros(2, 1, 3, 3), torch.zeros(2), "int64, got .*float32"),
    ],
)
def test_a_split_that_does_not_fit_together_is_refused(images, labels, words):
    with pytest.raises(ValueError, match=words):
        Split(images, labels)
