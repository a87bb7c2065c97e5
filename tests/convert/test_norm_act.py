"""A BatchNorm that has its activation in it, as timm's: once folded, the activation is a step."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

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


def made(act):
    torch.manual_seed(0)
    model = Net(act).eval()
    with torch.no_grad():
        model.second.weight.mul_(torch.rand(16, 16, 3, 3) > 0.9)
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
