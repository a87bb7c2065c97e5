"""On a GPU, plans have channels put side by side where that is faster."""

import pytest
import torch

import sparse_ops as so
from sparse_ops.convert import variants
from sparse_ops.convert.prepare import copied
from tests.convert.planning import planned
from tests.passes.networks import Block

X = (2, 3, 6, 6)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(variants, "SORTING", "cpu")


def test_on_a_cpu_nothing_is_sorted():
    model = Block().eval()
    plan = planned(model, example=torch.randn(X))
    assert not plan.sorts and not plan.as_data()["sorts"]
    assert {layer.becomes for layer in plan.packed} == {"PeriodicConv2d"}


def test_a_plan_on_a_gpu_sorts_where_that_is_faster(as_on_a_gpu, tmp_path):
    model, x = Block().eval(), torch.randn(X)
    plan = planned(model, example=x)
    assert plan.sorts and any("another order" in note for note in plan.notes)
    assert {layer.becomes for layer in plan.packed} == {"CSRConv2d"}
    fast = plan.apply(model)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    so.save(fast, tmp_path / "fast.safetensors")
    loaded = so.load(tmp_path / "fast.safetensors", Block().eval())
    torch.testing.assert_close(loaded(x), fast(x))
    # A plan is applied to a model that is in training, too: nothing of a mode is in the order.
    torch.testing.assert_close(plan.apply(copied(model)).eval()(x), fast(x))


def test_shrunk_channels_are_sorted_afterwards(as_on_a_gpu):
    model, x = Block(72).eval(), torch.randn(X)
    with torch.no_grad():
        model.stem.weight[64:], model.norm.bias[64:] = 0, 0
        model.norm.running_mean[64:] = model.stem.bias[64:]
        for conv, own in ((model.conv2, model.norm2), (model.conv1, model.norm1)):
            conv.weight[64:], own.bias[64:] = 0, 0
            own.running_mean[64:] = 0 if conv.bias is None else conv.bias[64:]
    plan = planned(model, example=x)
    assert plan.sorts and plan.shrinking.changes
    torch.testing.assert_close(plan.apply(model)(x), model(x), rtol=1e-4, atol=1e-4)


def test_without_shrinking_nothing_is_sorted(as_on_a_gpu):
    assert not planned(Block().eval(), example=torch.randn(X), shrink=False).sorts
