"""Layers as timm writes them: BatchNorms with activations inside, a Linear with its own forward."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparse_ops as so
from sparse_ops.graph import spelling
from sparse_ops.nn._folded import Folded
from tests.convert.planning import planned

X = torch.randn(2, 3, 10, 10)


class NormAct(nn.BatchNorm2d):
    def __init__(self, channels, act):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act
        self.running_mean.normal_()
        self.running_var.uniform_(0.5, 2)

    def forward(self, x):
        about = self.weight, self.bias, self.training, self.momentum, self.eps
        return self.act(self.drop(F.batch_norm(x, self.running_mean, self.running_var, *about)))


class Net(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3), NormAct(16, act)
        self.second, self.last = nn.Conv2d(16, 16, 3), NormAct(16, nn.Identity())

    def forward(self, x):
        return self.last(self.second(self.norm(self.first(x))))


def made(act, pruned=("second",)):
    torch.manual_seed(0)
    model = Net(act).eval()
    with torch.no_grad():
        for name in pruned:
            weight = model.get_submodule(name).weight
            weight.mul_(torch.rand(weight.shape) > 0.9)
    plan = planned(model, example=X)
    fast = plan.apply(model)
    assert type(fast.norm) is Folded and plan.memory().programs == 1
    return model, fast


@torch.inference_mode()
def check(model, fast):
    torch.testing.assert_close(fast(X), model(X), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("act", [nn.SiLU(inplace=True), nn.ReLU(), nn.Hardswish()], ids=repr)
def test_the_activation_runs_in_the_program(act):
    model, fast = made(act)
    check(model, fast)
    # Outside of a program, too.
    torch.testing.assert_close(
        fast.train(False)(X.requires_grad_()), model(X), rtol=1e-4, atol=1e-6
    )


def test_a_packed_layer_does_both():
    model, fast = made(nn.SiLU(), ("first", "second"))
    assert type(fast.norm.act) is Folded
    check(model, fast)


def test_its_slope_and_what_takes_its_place_are_looked_at_in_each_call():
    model, fast = made(nn.LeakyReLU(0.2))
    check(model, fast)
    model.norm.act.negative_slope = fast.norm.act.negative_slope = 0.5
    check(model, fast)
    model.norm.act, fast.norm.act = nn.Sigmoid(), nn.Sigmoid()
    check(model, fast)


def test_hooks_on_it_are_called():
    model, fast = made(nn.ReLU())
    for each in (model, fast):
        each.norm.act.register_forward_hook(lambda module, args, y: y + 1)
    check(model, fast)


class OwnLinear(nn.Linear):
    def forward(self, x):
        if torch.jit.is_scripting():
            return F.linear(x, self.weight.to(x.dtype), self.bias)
        return F.linear(x, self.weight, self.bias)


@pytest.mark.parametrize("known", [True, False])
def test_a_linear_with_a_known_forward_is_a_layer(monkeypatch, known):
    if known:
        name = f"{__name__}.OwnLinear.forward"
        monkeypatch.setattr(spelling, "KNOWN_FORWARDS", {name: nn.Linear})
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), OwnLinear(16, 4)).eval()
    with torch.no_grad():
        model[2].weight.mul_(torch.rand(4, 16) > 0.7)
    x = torch.randn(3, 8)
    plan = planned(model, example=x)
    assert {row.name: row.becomes for row in plan.rows}["2"] == ("CSRLinear" if known else None)
    if known:
        fast = plan.apply(model)
        assert type(fast[2]) is so.nn.CSRLinear
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-6)
