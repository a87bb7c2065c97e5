"""Models of convolutions along lines: planned, packed, saved, trained."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import sparse_ops as so
from sparse_ops.nn import SparseLayer
from sparse_ops.planning import network
from sparse_ops.program.model import programs_of
from tests.convert.planning import planned, row

X = torch.randn(2, 4, 40, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, linear=True):
        super().__init__()
        self.a, self.norm = nn.Conv1d(4, 12, 5, padding=2, bias=False), nn.BatchNorm1d(12)
        self.b = nn.Conv1d(12, 32, 7, stride=2, padding=3)
        self.c = nn.Conv1d(32, 16, 3, padding="same", dilation=2)
        self.fc = nn.Linear(16, 6) if linear else nn.Identity()

    def forward(self, x):
        x = F.relu(self.norm(self.a(x)))
        x = F.relu(self.b(x))
        return self.fc(F.gelu(self.c(x)).mean(-1))


def pruned(linear=True):
    torch.manual_seed(0)
    model = Net(linear).eval()
    with torch.no_grad():
        model.norm.running_mean.normal_()
        for name in ("a", "b", "c", "fc")[: 3 + linear]:
            weight = getattr(model, name).weight
            weight.mul_(torch.rand_like(weight) > 0.6)
        model.b.weight[::2] = model.b.bias[::2] = 0
    return model


def check(fast, model):
    for x in (X, X[:1, :, :29]):
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("linear", [True, False])
def test_they_are_packed_without_their_dead_channels(linear, tmp_path):
    model = pruned(linear)
    plan = planned(model, example=X)
    assert [row(plan, name).becomes for name in "abc"] == ["CSRConv1d"] * 3
    assert row(plan, "b").kind == "Conv1d"
    assert row(plan, "c").left == (16, 16, 3)
    fast = plan.apply(model)
    check(fast, model)
    so.save(fast, tmp_path / "fast")
    loaded = so.load(tmp_path / "fast", Net(linear).eval())
    with torch.no_grad():
        assert torch.equal(loaded(X), fast(X))
    dense = so.convert.to_dense(fast)
    assert not any(isinstance(module, SparseLayer) for module in dense.modules())
    check(dense, model)


def test_they_stand_between_programs(monkeypatch, tmp_path):
    """As with a clock of our own, which decides about them one by one."""
    model = pruned()
    whole = so.convert.Comparison(2, 1, 2, 2, 2, 20)
    monkeypatch.setattr("sparse_ops.planning.context.Context.timed", lambda *_: whole)
    monkeypatch.setattr(network, "against", lambda *_: whole)
    plan = so.plan(model, X, shrink=False, budget_s=1, compile=False, progress=False)
    assert plan.decisions is not None
    assert [row(plan, name).becomes for name in "abc"] == ["CSRConv1d"] * 3
    fast = plan.apply(model)
    assert programs_of(fast) is not None
    check(fast, model)
    so.save(fast, tmp_path / "fast")
    loaded = so.load(tmp_path / "fast", Net().eval())
    assert programs_of(loaded) is not None
    check(loaded, model)


def test_masks_may_be_given_and_what_is_packed_is_trained():
    model = Net().eval()
    masks = {f"{name}.weight": torch.rand_like(getattr(model, name).weight) > 0.5 for name in "bc"}
    fast = planned(model, masks, example=X, shrink=False).apply(model)
    masked = copy.deepcopy(model)
    so.masks.apply_(masked, masks)
    check(fast, masked)
    found = []
    for each in (fast, masked):
        loss = each(X).square().sum()
        grads = torch.autograd.grad(loss, [each.b.bias, each.fc.weight, next(each.c.parameters())])
        found.append(grads)
    torch.testing.assert_close(found[0][:2], found[1][:2], rtol=1e-4, atol=1e-6)
    kept = fast.c.weight.gather(found[1][2].unsqueeze(2))
    torch.testing.assert_close(found[0][2], kept, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ran", [False, True])
def test_weights_that_torch_prunes_and_normalises_are_read(ran):
    torch.manual_seed(0)
    model = Net().eval()
    prune.l1_unstructured(model.b, "weight", 0.6)
    prune.l1_unstructured(model.c, "weight", 0.6)
    torch.nn.utils.parametrizations.weight_norm(model.a)
    if ran:
        model(X).sum().backward()
    plan = planned(model, example=X)
    assert [row(plan, name).becomes for name in "abc"] == [None, "CSRConv1d", "CSRConv1d"]
    check(plan.apply(model), model)
