"""A network that gains nothing as a program is packed layer by layer, if that is faster."""

import time

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.planning import way_planner
from sparse_ops.planning.fastest import Forms
from sparse_ops.planning.measure import Comparison
from sparse_ops.planning.swap import Chosen

GAIN = Comparison(2.0, 1.0, 2.0, 1.9, 2.1, 20)


@pytest.mark.parametrize("there_is_time", [True, False])
def test_layers_are_tried_one_by_one_while_there_is_time(monkeypatch, there_is_time):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    with torch.no_grad():
        model[2].weight.mul_(torch.rand(8, 8, 3, 3) > 0.9)

    def as_program(context, graph, rows, *rest):
        if not there_is_time:
            monkeypatch.setattr(way_planner.time, "perf_counter", lambda: now() + 1000)
        return Chosen(rows, None, Forms(), Forms())

    def by_layers(context, rows, *rest):
        return Chosen(rows, GAIN, Forms(), Forms())

    now = time.perf_counter
    monkeypatch.setattr(way_planner.network, "planned", as_program)
    monkeypatch.setattr(way_planner, "_measured", by_layers)
    plan = so.plan(model, torch.randn(1, 8, 12, 12), budget_s=20, shrink=False, progress=False)
    assert (plan.whole is GAIN) == there_is_time
    left_out = "left out for want of time: layers packed one by one"
    assert (left_out in plan.notes) != there_is_time


def test_a_network_whose_work_no_program_does_is_not_searched_for_one(monkeypatch):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = (
                nn.Linear(16, 64),
                nn.Linear(64, 16),
                nn.Linear(16, 2),
            )

        def forward(self, x):
            return self.last(self.second(torch.relu(self.first(x))).mean(1))

    torch.manual_seed(0)
    model = Tokens().eval()
    with torch.no_grad():
        for layer in model.children():
            layer.weight.mul_(torch.rand_like(layer.weight) > 0.9)

    def searched(*given):
        raise AssertionError("nearly all of its work is in layers of three dimensions")

    monkeypatch.setattr(way_planner.network, "planned", searched)
    plan = so.plan(model, torch.randn(2, 30, 16), budget_s=5, progress=False, compile=False)
    assert any("100% of its work is in layers that cannot" in note for note in plan.notes)
    rows = {row.name: row for row in plan.layers}
    assert rows["first"].measured is not None and rows["second"].measured is not None
