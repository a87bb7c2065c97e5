"""The two recipes: small runs of them always, the real ones where there is time."""

import pytest
import torch

from sparse_ops.data import Dataset, Split, load
from sparse_ops.masks import check, sparsity
from sparse_ops.patterns import PSD4_P16
from sparse_ops.training.recipes import RECIPES, lenet300_gsm, small_vgg_predefined


@pytest.fixture(scope="module")
def some() -> Dataset:
    """A tenth of the subset, evenly over the classes' order."""
    data = load("fashion-mnist-subset")
    train, test = (Split(s.images[::10], s.labels[::10]) for s in (data.train, data.test))
    return Dataset("some", train, test, data.classes)


def test_lenet300_gsm_leaves_a_network_that_is_sixty_times_smaller(some):
    outcome = lenet300_gsm(some, dense_epochs=3, epochs=3, progress=False)
    check(outcome.sparse, outcome.masks)
    assert sparsity(outcome.masks) == pytest.approx(1 - 1 / 60, abs=1e-4)
    assert outcome.dense_accuracy.top1 > 0.5
    assert outcome.dense_accuracy.count == outcome.sparse_accuracy.count == len(some.test)


def test_small_vgg_predefined_gives_two_networks_of_one_form(some):
    outcome = small_vgg_predefined(some, pattern=PSD4_P16, width=8, epochs=1, progress=False)
    assert list(outcome.masks) == [f"conv{n}.weight" for n in (2, 3, 4, 5)]
    for name, mask in outcome.masks.items():
        weight = outcome.sparse.get_parameter(name)
        assert torch.equal(mask, PSD4_P16.mask(tuple(weight.shape)))
        assert torch.equal(weight != 0, mask)
        assert weight.is_contiguous()
        assert bool(outcome.dense.get_parameter(name).all())
    assert not outcome.dense.training
    assert not outcome.sparse.training


def test_a_recipe_gives_the_same_networks_again(some):
    state = torch.get_rng_state()
    first, second = (
        small_vgg_predefined(some, width=4, epochs=1, seed=3, progress=False) for _ in range(2)
    )
    assert torch.equal(first.sparse.conv5.weight, second.sparse.conv5.weight)
    assert torch.equal(first.dense.conv5.weight, second.dense.conv5.weight)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dense", "drop"),
    [
        ("lenet300-gsm", 0.86, 0.03),
        ("small-vgg-predefined", 0.88, 0.02),
    ],
)
def test_the_real_recipes_are_as_accurate_as_they_claim(name, dense, drop):
    outcome = RECIPES[name](progress=False)
    assert outcome.dense_accuracy.top1 >= dense
    assert outcome.sparse_accuracy.top1 >= outcome.dense_accuracy.top1 - drop
