"""Holding out a part of the training images."""

import pytest
import torch

from sparse_ops.data import Augment, Split, hold_out


def split(counts: list[int]) -> Split:
    labels = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images = torch.arange(len(labels), dtype=torch.float32).view(-1, 1, 1, 1)
    return Split(images, labels[order], augment=Augment())


def test_each_class_gives_its_share_and_no_image_is_on_both_sides():
    whole = split([900] * 14)
    left, out = hold_out(whole, 0.2)
    # The published division of 14,000 gestures, a tenth of which is for the test.
    assert (len(left), len(out)) == (10080, 2520)
    assert out.labels.bincount().tolist() == [180] * 14
    numbers = torch.cat([left.images, out.images]).flatten().sort().values
    assert torch.equal(numbers, whole.images.flatten())
    for part in (left, out):
        assert torch.equal(whole.labels[part.images.flatten().long()], part.labels)
    assert left.augment == Augment() and out.augment is None


def test_the_same_seed_holds_out_the_same_images():
    whole = split([20, 30])
    one, two, other = (hold_out(whole, 0.3, seed)[1].images.flatten() for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_a_fraction_that_leaves_nothing_is_refused(fraction):
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\)"):
        hold_out(split([5, 5]), fraction)
    with pytest.raises(ValueError, match="leaves 2 to learn from and 0 to look at"):
        hold_out(split([1, 1]), 0.2)
