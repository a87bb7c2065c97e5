"""Outputs that are concatenated are written where they belong."""

import copy
import json
import pickle

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import sparse_ops as so
from sparse_ops.convert import to_dense
from sparse_ops.nn import SparseLayer
from sparse_ops.planning import concat, network
from sparse_ops.planning.concat import Concatenation
from tests.convert.models import says

X = (2, 8, 6, 6)


@pytest.fixture(autouse=True)
def _layer_by_layer(monkeypatch):
    """As on a GPU, or without compiled code: networks do not run as programs."""
    monkeypatch.setattr(network, "refuses", lambda context, graph: "not in this test")


class Fire(nn.Module):
    """SqueezeNet's block, with BatchNorm and in torchvision's words."""

    def __init__(self):
        super().__init__()
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.expand1 = nn.Conv2d(8, 12, 1)
        self.expand3 = nn.Conv2d(8, 20, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(20)
        self.relu1, self.relu3 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return torch.cat([self.relu1(self.expand1(x)), self.relu3(self.norm3(self.expand3(x)))], 1)


class Inception(nn.Module):
    """Branches of one, two and no convolutions, and a pooled one; and an addition."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(8, 8, 1)
        self.two, self.three = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 16, 3, padding=1)
        self.pool = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        three = F.relu(self.three(F.relu(self.two(x))))
        pooled = self.pool(F.max_pool2d(x, 3, stride=1, padding=1))
        return torch.cat((x, self.one(x) + x, three, pooled.sigmoid()), dim=-3).mul(2)


class Nested(nn.Module):
    """A concatenation of a concatenation."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(16, 8, 1)

    def forward(self, x):
        inner = torch.cat([self.a(x), self.b(x)], axis=1)
        return torch.concat([self.c(inner), inner], 1)


WANTED = {
    Fire: [(("expand1", 12), ("expand3", 20))],
    Inception: [((None, 8), ("one", 8), ("three", 16), (None, 8))],
    Nested: [(("a", 8), ("b", 8)), (("c", 8), (None, 16))],
}


def model_of(kind):
    model = kind()
    for _ in range(2):
        model(torch.randn(X))
    return model.eval()


def converted(model, measure=None):
    masks = {name: torch.rand_like(w) > 0.6 for name, w in so.masks.weights(model).items()}
    plan = so.plan(
        model,
        torch.randn(X),
        masks,
        measure=measure or says(2.0),
        shrink=False,
        progress=False,
    )
    so.masks.apply_(model, plan.masks)
    return plan, plan.apply(model)


@pytest.mark.parametrize("kind", WANTED)
def test_packed_convolutions_write_their_part(kind):
    model = model_of(kind)
    plan, fast = converted(model)
    assert [each.parts for each in plan.concatenations] == WANTED[kind]
    assert concat.concatenations_of(fast) == list(plan.concatenations)
    assert isinstance(fast, fx.GraphModule)
    assert not any(node.target in concat.FUNCTIONS for node in fast.graph.nodes)
    for x in (torch.randn(X), torch.randn(1, 8, 9, 4)):
        before = x.clone()
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
        # Where a gradient is wanted there is one, in either.
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
        assert torch.equal(x, before)
    assert " cat" in str(plan) and plan.as_data()["concatenations"]


@pytest.mark.parametrize("kind", WANTED)
def test_it_is_trainable(kind):
    model = model_of(kind)
    _, fast = converted(model)
    x = torch.randn(X)
    fast(x).square().sum().backward()
    values = [layer.values for layer in fast.modules() if isinstance(layer, SparseLayer)]
    assert values and all(v.grad is not None and bool(v.grad.any()) for v in values)


@pytest.mark.parametrize("kind", WANTED)
def test_it_comes_back_from_files_copies_and_pickles(kind, tmp_path):
    model = model_of(kind)
    _, fast = converted(model)
    so.save(fast, tmp_path / "x.safetensors")
    x = torch.randn(X)
    loaded = so.load(tmp_path / "x.safetensors", model_of(kind))
    with torch.no_grad():
        for other in (loaded, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert torch.equal(other(x), fast(x))
            assert concat.concatenations_of(other) == concat.concatenations_of(fast)
            so.save(other, tmp_path / "again.safetensors")
            again = so.load(tmp_path / "again.safetensors", model_of(kind))
            assert torch.equal(again(x), fast(x))


@pytest.mark.parametrize("kind", WANTED)
def test_it_compiles_exports_and_has_a_dense_equivalent(kind):
    model = model_of(kind)
    _, fast = converted(model)
    x = torch.randn(X)
    with torch.no_grad():
        compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), fast(x))
        torch.testing.assert_close(torch.export.export(fast, (x,)).module()(x), fast(x))
        dense = to_dense(fast)
        assert not any(isinstance(module, SparseLayer) for module in dense.modules())
        torch.testing.assert_close(dense(x), fast(x), rtol=1e-4, atol=1e-5)


def test_where_it_is_slower_it_is_left():
    def slower_if_concatenated(dense, packed, budget_s):
        model = getattr(packed, "func", None)
        slower = isinstance(model, nn.Module) and concat.concatenations_of(model)
        return says(0.9 if slower else 2.0)(dense, packed, budget_s)

    plan, fast = converted(model_of(Fire), slower_if_concatenated)
    assert plan.packed and plan.fusions and not plan.concatenations
    assert not concat.concatenations_of(fast)


class One(nn.Module):
    def __init__(self, then):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.then = then

    def forward(self, x):
        return self.then(self.a(x), self.b(x), x)


@pytest.mark.parametrize(
    "then",
    [
        lambda a, b, x: torch.cat([a, b], 2),
        lambda a, b, x: torch.cat([a, b]),
        lambda a, b, x: torch.cat([a, a], 1) + torch.cat([b, b], 1),
        lambda a, b, x: torch.cat([a, b], 1).sum() + a.sum() + b.sum(),
        lambda a, b, x: torch.cat([a.flatten(1), b.flatten(1)], 1),
        lambda a, b, x: torch.cat([a.mul_(2), b.sin()], 1),
        lambda a, b, x: torch.stack([a, b], 1),
    ],
)
def test_what_is_something_else_is_left_alone(then):
    model = One(then).eval()
    plan, fast = converted(model)
    assert plan.concatenations == ()
    x = torch.randn(X)
    torch.testing.assert_close(fast(x.clone()), model(x.clone()), rtol=1e-4, atol=1e-5)


def test_a_layer_that_is_called_twice_is_copied():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return torch.cat([self.a(self.a(x)), self.b(x)], 1)

    model = Twice().eval()
    plan, fast = converted(model)
    assert [each.parts for each in plan.concatenations] == [((None, 8), ("b", 8))]
    x = torch.randn(X)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_part_of_another_width_is_refused():
    with pytest.raises(ValueError, match="a part must have 3 channels, got"):
        concat.put(torch.zeros(1, 8, 2, 2), torch.zeros(1, 1, 2, 2), 0, 3)


def test_find_leaves_the_model_alone_and_joined_wants_a_place():
    _, fast = converted(model_of(Fire))
    model = model_of(Fire)
    assert concat.find(model) == []
    with pytest.raises(ValueError, match="no place"):
        concat.joined(model, [Concatenation((("expand1", 12), ("expand3", 20)))])
    with pytest.raises(ValueError, match="no place"):
        concat.joined(fast, [Concatenation((("expand1", 12), ("expand3", 20)))])


@pytest.mark.parametrize(
    "change",
    [
        [[["expand1", 12]]],
        [[["expand1", 20], ["expand3", 12]]],
        [[["expand3", 20], ["expand1", 12]]],
        [[["expand1", 12], ["squeeze", 8]]],
        [[["expand1", 12], [None, 20]]],
        [[["expand1", 12], ["expand3", 20]]] * 2,
        [[["expand1", 12.0], ["expand3", 20]]],
        [[["expand1", -12], ["expand3", 20]]],
        [[["expand1", True], ["expand3", 20]]],
        [[[1, 12], ["expand3", 20]]],
        [[["expand1", 2**40], ["expand3", 20]]],
        [["expand1", "expand3"]],
        [[]],
        {"expand1": 12},
        7,
    ],
    ids=str,
)
def test_a_file_that_concatenates_what_the_model_does_not_is_refused(tmp_path, change):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    _, fast = converted(model_of(Fire))
    path = tmp_path / "x.safetensors"
    so.save(fast, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    about = json.loads(metadata["model"])
    assert about["concatenated"] == [[["expand1", 12], ["expand3", 20]]]
    about["concatenated"] = change
    save_file(load_file(path), path, {**metadata, "model": json.dumps(about)})
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        so.load(path, model_of(Fire))
