"""What cannot be traced does not stop the rest: the largest parts that can be are planned alone."""

import copy

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.nn import SparseLayer
from sparse_ops.planning import ways
from sparse_ops.program.model import programs_of
from tests.convert.models import says

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _exact_widths(monkeypatch):
    monkeypatch.setattr(ways, "MULTIPLES", ())


def block(before, after):
    return nn.Sequential(
        nn.Conv2d(before, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, after, 3, padding=1),
    )


class Choosing(nn.Module):
    """What it does depends on numbers: one of two blocks, and a layer of its own."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([block(6, 6), block(6, 6)])
        self.last = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        y = self.blocks[0](x)
        if float(y.abs().mean()) > 1e9:
            return y
        return self.last(self.blocks[1](y) + x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = block(3, 6), Choosing(), block(6, 4)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


def pruned(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight[torch.rand(module.weight.shape) < 0.5] = 0
            if isinstance(module, nn.Conv2d) and module.out_channels == 16:
                module.weight[[1, 5, 6, 11]] = 0
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1)
                module.bias.uniform_(-1, 0)
                module.bias[[1, 5, 6, 11]] = module.running_mean[[1, 5, 6, 11]].clamp(max=0) - 1
    return model.eval()


def planned(model, ratio=2.0):
    return so.plan(model, EXAMPLE, measure=says(ratio), progress=False)


def assert_same(fast, model):
    for x in (EXAMPLE, torch.randn(3, 3, 10, 12)):
        with torch.no_grad():
            exact = copy.deepcopy(model).double()(x.double()).float()
            torch.testing.assert_close(fast(x), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Net, lambda: nn.Sequential(nn.Conv2d(3, 6, 1), Choosing())])
def test_what_is_inside_of_what_cannot_be_traced_is_planned_by_itself(kind, tmp_path):
    model = pruned(kind())
    plan = planned(model)
    where = "body" if isinstance(model, Net) else "1"
    assert {f"{where}.blocks.0", f"{where}.blocks.1"} <= plan.pieces.keys()
    assert "what is around them cannot be traced" in str(plan)
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert {row.name for row in plan.layers} == layers
    fast = plan.apply(model)
    inner = fast.get_submodule(f"{where}.blocks.0")
    assert inner[0].weight.shape[0] == 12 and isinstance(inner[3], SparseLayer)
    assert programs_of(inner) is not None
    assert_same(fast, model)
    so.save(fast, tmp_path / "x.safetensors")
    loaded = so.load(tmp_path / "x.safetensors", kind().eval())
    assert programs_of(loaded.get_submodule(f"{where}.blocks.0")) is not None
    assert torch.equal(loaded(EXAMPLE), fast(EXAMPLE))
    dense = so.convert.to_dense(fast)
    assert not any(programs_of(m) or isinstance(m, SparseLayer) for m in dense.modules())
    assert_same(dense, model)
    assert_same(copy.deepcopy(fast), model)


def test_a_model_whose_own_code_cannot_be_traced_is_planned_in_pieces():
    model = pruned(Choosing())
    x = torch.randn(2, 6, 8, 8)
    plan = so.plan(model, x, measure=says(2.0), progress=False)
    assert plan.pieces.keys() == {"blocks.0", "blocks.1"}
    assert "the model cannot be traced" in str(plan)
    fast = plan.apply(model)
    # The layer that stands alone is packed as well.
    assert isinstance(fast.last, SparseLayer) and fast.blocks[1][0].out_channels == 12
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_pieces_are_left_out_where_the_whole_is_not_faster_with_them():
    model = pruned(Net())
    # Everything is faster alone, and nothing together.
    plan = planned(model)
    ratios = []

    def measure(one, other, budget_s):
        result = says(2.0)(one, other, budget_s)
        inside = getattr(other, "func", None)
        ratios.append(isinstance(inside, Net))
        return so.convert.Comparison(1, 2, 0.5, 0.5, 0.5, 20) if ratios[-1] else result

    plan = so.plan(model, EXAMPLE, measure=measure, progress=False)
    assert plan.whole is None and not plan.pieces and any(ratios)
    assert "was not faster as a whole" in str(plan) and not plan.packed
    assert_same(plan.apply(model), model)
