"""The penalties of spred's recipes, in the few steps that a command line gives them."""

from functools import cache

import pytest
import torch
from torch import nn

from sparse_ops.data import Dataset, Split, load
from sparse_ops.training.factors import factorized, norms, weight_of
from sparse_ops.training.recipes import Pace, read, run, shortened
from sparse_ops.training.recipes.small import fresh

# A recipe of whole groups for each level, with an optimizer of its own.
LEVELS = {
    0.2: "spred-resnet18-cifar100-sgd-20",
    0.4: "spred-resnet18-cifar100-adam-40",
    0.6: "spred-resnet18-cifar100-adagrad-60",
    0.8: "spred-resnet18-cifar10-filter-80",
}
GATES = {"bn": {}, "weight": {"spred.options.gate": "weight", "spred.options.mode": "weight"}}
# Cut once, after the last epoch: what the penalty has done by then is looked at before.
AT_ONCE = [f"spred.options.{key}" for key in ("begin", "end", "fine_tune")]


def small_net() -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    layers = [*block(1, 8), *block(8, 20), *block(20, 20)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 10))


@cache
def some() -> Dataset:
    """2,500 images of 14×14 to learn from."""
    data = load("fashion-mnist-subset")
    train, test = (
        Split(split.images[::step, :, ::2, ::2].contiguous(), split.labels[::step])
        for split, step in ((data.train, 4), (data.test, 20))
    )
    return Dataset("some", train, test, data.classes)


@cache
def sizes(name: str, gate: str, strength: float | None) -> list[torch.Tensor]:
    """Of the groups of each layer, from the smallest to the largest, before the cut."""
    given = {"data.name": "fashion-mnist-subset", "data.batch_size": 32} | GATES[gate]
    if strength is not None:
        given["spred.options.strength"] = strength
    recipe = read(name, given, AT_ONCE)
    # 474 steps, as of the images that come with the package in batches of 128.
    short = shortened(recipe, 0.2, Pace.of(read(name), recipe, len(some().train)), given=given)
    found = []

    def look(phase, model):
        for layer in factorized(model):
            found.append(norms(weight_of(model.get_submodule(layer)), "weight").sort().values)

    run(short, some(), model=fresh(small_net, 0), progress=False, before_cut=look)
    return found


def left(level: float, gate: str, strength: float | None = None) -> float:
    """The squares of the groups that would go, over those of the others; mean over the layers."""
    shares = []
    for size in sizes(LEVELS[level], gate, strength):
        squares, count = size.square(), int(level * len(size))
        shares.append(float(squares[:count].sum() / squares[count:].sum()))
    return sum(shares) / len(shares)


# Of what it is without the penalty: 0.56 to 0.85 for gates, from three first weights; weights 0 to
# 0.43. At the published rates, Adam's and Adagrad's gates were at 1.00.
@pytest.mark.parametrize(("gate", "most"), [("bn", 0.9), ("weight", 0.6)])
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_to_go_is_smaller_than_without_the_penalty(level, gate, most):
    assert left(level, gate) < most * left(level, gate, 0.0)


def test_gates_learn_faster_in_fewer_steps_unless_a_rate_was_given():
    for level, published, most in ((0.4, 1e-3, 1e-2), (0.6, 1e-2, 0.1), (0.2, 0.1, 0.1)):
        recipe = read(LEVELS[level])
        for factor, expected in ((0.5, min(most, 2 * published)), (0.1, most)):
            fit = shortened(recipe, factor).phases[0].fit
            assert fit["lr"] == pytest.approx(expected)
        given = {"spred.lr": published}
        assert shortened(recipe, 0.1, given=given).phases[0].fit["lr"] == published
    weights = read(LEVELS[0.4], GATES["weight"])
    assert shortened(weights, 0.1).phases[0].fit["lr"] == 1e-3
