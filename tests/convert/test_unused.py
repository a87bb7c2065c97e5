"""What a model's code works out and does not use runs all the same, with narrower layers."""

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.graph.capture import capture
from sparse_ops.planning import ways
from sparse_ops.planning.differences import Mismatch
from sparse_ops.planning.masked import find_masks
from tests.convert.models import says

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Auxiliary(nn.Module):
    """A head that is computed and given out in training only, behind a depthwise layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 20, 3, padding=1)
        self.apart = nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.norm = nn.BatchNorm2d(20)
        self.head, self.other = nn.Conv2d(20, 4, 1), nn.Conv2d(20, 4, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        other = self.other(torch.relu(self.norm(self.apart(x))))
        y = self.head(x)
        return (y, other) if self.training else y


def pruned(model):
    torch.manual_seed(0)
    with torch.no_grad():
        model.first.weight[::2] = 0
        model.first.weight[3] = 0
        model.first.bias.zero_()
    return model.eval()


def planned(model, ratio=2.0):
    return so.plan(model, X, measure=says(ratio), progress=False)


@pytest.mark.parametrize("multiples", [(), (4,), (3, 8)])
def test_layers_whose_output_nobody_uses_lose_channels_with_those_before_them(
    monkeypatch, multiples
):
    monkeypatch.setattr(ways, "MULTIPLES", multiples)
    model = pruned(Auxiliary())
    plan = planned(model)
    width = {(): 9, (4,): 12, (3, 8): 16}[multiples]
    rows = {row.name: row for row in plan.layers}
    assert rows["first"].left[0] == width and rows["apart"].left[0] == width
    assert rows["other"].left[1] == width and not plan.failed
    fast = plan.apply(model)
    with torch.no_grad():
        torch.testing.assert_close(fast(X), model(X), rtol=1e-4, atol=1e-5)


def test_programs_do_not_compute_it():
    model = pruned(Auxiliary())
    names = [node.name for node in capture(model, (X,)).nodes]
    assert names == ["first", "relu", "head"]
    kept = [node.name for node in capture(model, (X,), keep_unused=True).nodes]
    assert [name for name in kept if name in ("apart", "norm", "other")] == [
        "apart",
        "norm",
        "other",
    ]
    way = ways.plain_way(model, capture(model, (X,), keep_unused=True), find_masks(model), True)
    assert [node.name for node in way.graph.nodes] == ["first", "relu", "head"]


def test_rounded_widths_that_compute_something_else_are_told_and_left_out(monkeypatch):
    model = pruned(Auxiliary())
    real = ways.check_against

    def check(known, packed):
        if packed.first.out_channels == 16:
            raise Mismatch("it is off by 1")
        return real(known, packed)

    monkeypatch.setattr(ways, "MULTIPLES", (8,))
    monkeypatch.setattr(ways, "check_against", check)
    with pytest.warns(UserWarning, match="widths rounded up computes something else"):
        plan = planned(model)
    assert {row.name: row for row in plan.layers}["first"].left[0] == 9
    assert "off by 1" in plan.failed[0]
    assert any("widths were not rounded up" in note for note in plan.notes)


def test_a_shrunk_model_that_computes_something_else_is_told_and_left_out(monkeypatch):
    def check(known, packed):
        raise Mismatch("it is off by 1")

    monkeypatch.setattr(ways, "check_against", check)
    with pytest.warns(UserWarning, match="without channels that nothing needs computes something"):
        plan = planned(pruned(Auxiliary()))
    assert all(row.left is None for row in plan.layers) and "off by 1" in plan.failed[0]
