"""Models that a demanding user brings: conversion has to take them as they are."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparse_ops as so
from sparse_ops.convert import Mismatch
from sparse_ops.nn import CSRLinear, SparseLayer
from sparse_ops.planning.verify_model import check_model
from tests.convert.planning import planned


def pruned(model):
    model.eval()
    so.masks.apply_(
        model, {n: torch.rand_like(w) > 0.7 for n, w in so.masks.weights(model).items()}
    )
    return model


class Viewed(nn.Module):
    """Takes images for vectors with `view`, which only the usual layout allows."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(128, 4)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).view(len(x), -1))


def test_a_layout_in_which_the_model_fails_is_left_out_and_the_plan_says_why():
    model, x = pruned(Viewed()), torch.randn(2, 3, 6, 6)
    plan = planned(model, example=x)
    assert "view size is not compatible" in plan.dense_forms.skipped["channels_last"]
    assert "view size is not compatible" in plan.packed_forms.skipped["channels_last"]
    fast = plan.apply(model)
    assert isinstance(fast.conv, SparseLayer)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_feed_forward_layers_of_transformers_are_packed(norm_first, tmp_path):
    def build():
        layer = nn.TransformerEncoderLayer(
            16, 4, 32, activation="gelu", batch_first=True, norm_first=norm_first
        )
        return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()

    model, x = pruned(build()), torch.randn(2, 5, 16)
    plan = planned(model, example=x)
    assert len(plan.packed) == 6
    fast = plan.apply(model)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-5)
        compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
        so.save(fast, tmp_path / "x.safetensors")
        assert torch.equal(so.load(tmp_path / "x.safetensors", build())(x), fast(x))


def test_a_packed_weight_is_no_tensor_to_torch_and_says_so():
    layer = CSRLinear.from_dense(nn.Linear(4, 4), torch.ones(4, 4).bool())
    with pytest.raises(TypeError, match=r"linear takes no CSRWeight: to_dense\(\) gives a tensor"):
        F.linear(torch.randn(1, 4), layer.weight)


class Optional(nn.Module):
    """Has its activation only where another argument is given."""

    def __init__(self, wanted):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)
        self.wanted = wanted

    def forward(self, x, mask=None):
        y = self.a(x)
        if (mask is None) == self.wanted:
            y = self.act(y)
        return self.b(y)


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("given", [1, 2])
def test_what_only_some_calls_do_is_not_folded(wanted, given):
    model, inputs = pruned(Optional(wanted)), (torch.randn(2, 8), torch.randn(2, 8))
    plan = planned(model, example=inputs[:given])
    assert not plan.folding.activations and not plan.fusions and len(plan.packed) == 2
    assert any("does something else without mask" in note for note in plan.notes)
    fast = plan.apply(model)
    for many in (1, 2):
        torch.testing.assert_close(fast(*inputs[:many]), model(*inputs[:many]))


class Weighted(nn.Module):
    """Its optional argument changes numbers, not what is done; it stands for most of them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x, scale=2.0):
        return self.b(F.relu(self.a(x))) * scale


def test_arguments_that_change_no_branch_do_not_stand_against_a_graph():
    model, x = pruned(Weighted()), torch.randn(2, 8)
    plan = planned(model, example=x)
    fast = plan.apply(model)
    assert not any("without scale" in note for note in plan.notes) and plan.decisions
    for scale in ((), (3.0,)):
        torch.testing.assert_close(fast(x, *scale), model(x, *scale))


@dataclasses.dataclass
class Output:
    logits: torch.Tensor


class Listed(nn.Module):
    """Takes a list, as detectors do, and gives a dataclass."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, xs):
        return Output(self.fc(xs[0] + xs[1]["x"]))


def test_nested_inputs_and_outputs_are_seen():
    model, example = pruned(Listed()), ([torch.randn(2, 8), {"x": torch.randn(2, 8)}],)
    plan = planned(model, example=example)
    assert len(plan.packed) == 1
    fast = plan.apply(model)
    torch.testing.assert_close(fast(*example).logits, model(*example).logits)
    with torch.no_grad():
        fast.fc.values[0] += 1
    with pytest.raises(Mismatch, match="output 0"):
        check_model(model, fast, example)


class Narrow(nn.Module):
    """Runs in float32 only, so that nothing exact can be had, and writes to its input."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(x.mul_(0.5).float())


def test_without_float64_a_wrong_model_is_found_all_the_same():
    model, x = pruned(Narrow()), torch.randn(2, 8)
    fast = planned(model, example=x).apply(model)
    assert "float64" in check_model(model, fast, (x,))
    wrong = copy.deepcopy(fast)
    with torch.no_grad():
        wrong.fc.values[0] += 1
    with pytest.raises(Mismatch, match="output 0"):
        check_model(model, wrong, (x,))
