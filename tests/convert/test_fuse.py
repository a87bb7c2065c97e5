"""Residual additions and functions after packed layers become part of one call."""

import copy
import operator
import pickle

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import sparse_ops as so
from sparse_ops.convert import to_dense
from sparse_ops.nn import CSRConv2d, SparseLayer
from sparse_ops.planning import fuse, network
from sparse_ops.planning.fuse import Fusion
from sparse_ops.planning.layout import is_channels_last
from tests.convert.models import says

X = (2, 8, 6, 6)


@pytest.fixture(autouse=True)
def _layer_by_layer(monkeypatch):
    """As on a GPU, or without compiled code: networks do not run as programs."""
    monkeypatch.setattr(network, "refuses", lambda context, graph: "not in this test")


class Block(nn.Module):
    """A residual block as torchvision's: one activation for all of it, additions in place."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.short = nn.Conv2d(8, 8, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.short(x)
        return self.relu(y)


def block():
    model = Block()
    for _ in range(2):
        model(torch.randn(X))
    return model.eval()


def masks_of(model):
    return {name: torch.rand_like(w) > 0.7 for name, w in so.masks.weights(model).items()}


def converted(model, masks=None, **options):
    plan = so.plan(model, torch.randn(X), masks or masks_of(model), measure=says(2.0), **options)
    so.masks.apply_(model, plan.masks)
    return plan, plan.apply(model)


def test_a_residual_block_becomes_calls_of_its_layers_alone():
    model = block()
    plan, fast = converted(model, progress=False)
    assert set(plan.fusions) == {Fusion("conv1", "relu", False), Fusion("short", "relu", True)}
    assert isinstance(fast, fx.GraphModule)
    targets = [node.target for node in fast.graph.nodes]
    assert operator.iadd not in targets and "relu" not in targets
    x = torch.randn(X)
    before = x.clone()
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before)
    assert "residual" in str(plan) and plan.as_data()["fusions"]


def test_what_is_fused_comes_back_from_files_copies_and_pickles(tmp_path):
    model = block()
    _, fast = converted(model, progress=False)
    so.save(fast, tmp_path / "fused.safetensors")
    x = torch.randn(X)
    loaded = so.load(tmp_path / "fused.safetensors", block())
    copies = [loaded, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))]
    for number, other in enumerate(copies):
        assert torch.equal(other(x), fast(x))
        so.save(other, tmp_path / f"{number}.safetensors")
        again = so.load(tmp_path / f"{number}.safetensors", block())
        assert torch.equal(again(x), fast(x))
    fast.load_state_dict(loaded.state_dict())


def test_a_fused_model_compiles_exports_and_has_a_dense_equivalent():
    model = block()
    _, fast = converted(model, progress=False)
    x = torch.randn(X)
    with torch.no_grad():
        compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), fast(x))
        program = torch.export.export(fast, (x,)).module()
        torch.testing.assert_close(program(x), fast(x))
    dense = to_dense(fast)
    assert not any(isinstance(m, CSRConv2d) for m in dense.modules())
    torch.testing.assert_close(dense(x), fast(x), rtol=1e-4, atol=1e-5)


def test_the_channels_last_form_of_a_fused_model_survives_copies():
    model = block()
    plan, fast = converted(model, progress=False)
    assert plan.packed_forms.fastest == "channels_last"
    x = torch.randn(X)
    for other in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert is_channels_last(other)
        assert other(x).is_contiguous(memory_format=torch.channels_last)


class One(nn.Module):
    """One convolution, and what a test does with its output."""

    def __init__(self, then):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.then = then

    def forward(self, x):
        return self.then(self.conv(x), x)


def fusions_of_one(then):
    model = One(then).eval()
    plan, fast = converted(model, progress=False)
    x = torch.randn(X)
    torch.testing.assert_close(fast(x.clone()), model(x.clone()), rtol=1e-4, atol=1e-5)
    return list(plan.fusions)


@pytest.mark.parametrize(
    ("then", "activation", "residual"),
    [
        (lambda y, x: F.relu(y), "relu", False),
        (lambda y, x: F.relu(y, inplace=True), "relu", False),
        (lambda y, x: y.relu_(), "relu", False),
        (lambda y, x: torch.relu(y + x), "relu", True),
        (lambda y, x: F.silu(x + y), "silu", True),
        (lambda y, x: F.hardswish(torch.add(y, x)), "hardswish", True),
        (lambda y, x: F.relu6(y), "relu6", False),
        (lambda y, x: F.gelu(y), "gelu", False),
        (lambda y, x: F.gelu(y + x, approximate="tanh"), "gelu_tanh", True),
        (lambda y, x: F.leaky_relu(y + x, 0.2), "leaky_relu(0.2)", True),
        (lambda y, x: F.leaky_relu(y, inplace=True), "leaky_relu(0.01)", False),
        (lambda y, x: y + x, None, True),
    ],
)
def test_functions_and_additions_are_fused(then, activation, residual):
    assert fusions_of_one(then) == [Fusion("conv", activation, residual)]


@pytest.mark.parametrize(
    "then",
    [
        lambda y, x: F.relu(y) + y,
        lambda y, x: y + 1,
        lambda y, x: y + y,
        lambda y, x: torch.add(y, x, alpha=2),
        lambda y, x: y + x.mean((2, 3), keepdim=True),
        lambda y, x: y - x,
        lambda y, x: F.mish(y),
        lambda y, x: x.add_(1) + y.mul(x.relu_()),
    ],
)
def test_what_is_something_else_is_left_alone(then):
    assert fusions_of_one(then) == []


def test_a_layer_is_not_moved_past_a_change_of_its_input():
    def then(y, x):
        x.mul_(3)
        return F.relu(y + x)

    assert fusions_of_one(then) == []


def test_of_two_layers_added_to_each_other_the_later_takes_the_sum():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)

        def forward(self, x):
            return F.relu(self.a(x) + self.b(x))

    model = Two().eval()
    plan, fast = converted(model, progress=False)
    assert plan.fusions == (Fusion("b", "relu", True),)
    x = torch.randn(X)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_chain_of_blocks_is_fused_throughout():
    model = nn.Sequential(block(), block(), block()).eval()
    plan, fast = converted(model, progress=False)
    assert len(plan.fusions) == 6
    x = torch.randn(X)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("approximate", "name"), [("none", "gelu"), ("tanh", "gelu_tanh")])
def test_gelu_modules_are_folded_kept_in_files_and_undone(approximate, name, tmp_path):
    def build():
        gelu = nn.GELU(approximate)
        return nn.Sequential(nn.Conv2d(8, 8, 3), gelu, nn.Flatten(), nn.Linear(128, 8), gelu)

    model = build().eval()
    plan, fast = converted(model, progress=False)
    assert [layer.activation for layer in plan.layers] in ([name, None], [None, None])
    assert {fusion.activation for fusion in plan.fusions} <= {name}
    packed = [m for m in fast.modules() if isinstance(m, SparseLayer)]
    assert [layer.activation for layer in packed] == [name, name]
    x = torch.randn(X)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(to_dense(fast)(x), model(x), rtol=1e-4, atol=1e-5)
        so.save(fast, tmp_path / "x.safetensors")
        assert torch.equal(so.load(tmp_path / "x.safetensors", build())(x), fast(x))


def test_fold_false_fuses_nothing():
    plan, fast = converted(block(), progress=False, fold=False)
    assert not plan.fusions and isinstance(fast, Block)


def test_in_training_mode_nothing_is_fused():
    plan, fast = converted(block().train(), progress=False)
    assert not plan.fusions and isinstance(fast, Block)


@pytest.mark.parametrize(
    "change",
    [
        {"short": {"activation": "silu", "residual": True}},
        {"short": {"activation": "relu", "residual": False}},
        {"short": {"activation": None, "residual": True}},
        {"conv2": {"activation": "relu", "residual": True}},
        {"bn1": {"activation": "relu", "residual": False}},
        {"nowhere": {"activation": "relu", "residual": False}},
        {"short": {"activation": 3, "residual": True}},
        {"short": {"activation": "relu", "residual": 1}},
        {"short": 3},
        [],
    ],
    ids=str,
)
def test_a_file_that_fuses_what_the_model_does_not_do_is_refused(tmp_path, change):
    import json

    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    _, fast = converted(block(), progress=False)
    path = tmp_path / "x.safetensors"
    so.save(fast, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    about = json.loads(metadata["model"])
    assert about["fused"].keys() == {"conv1", "short"}
    about["fused"] = {**about["fused"], **change} if isinstance(change, dict) else change
    save_file(load_file(path), path, {**metadata, "model": json.dumps(about)})
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        so.load(path, block())


def test_find_gives_what_can_be_fused_and_leaves_the_model_alone():
    model = One(lambda y, x: F.relu(y)).eval()
    mask = torch.rand(8, 8, 3, 3) > 0.5
    model.conv = CSRConv2d.from_dense(model.conv, mask)
    assert fuse.find(model) == [Fusion("conv", "relu", False)]
    assert model.conv.activation is None and not model.conv.fused
    with pytest.raises(ValueError, match="no place"):
        fuse.fused(model, [Fusion("conv", "silu", False)])


def test_a_graph_that_cannot_be_made_is_a_note_and_the_model_is_packed_all_the_same(monkeypatch):
    def fails(*arguments):
        raise TypeError("no graph today")

    model = block()
    with torch.no_grad():
        for weight in so.masks.weights(model).values():
            weight.mul_(torch.rand_like(weight) > 0.7)
    monkeypatch.setattr(fuse, "find", fails)
    plan = so.plan(model, torch.randn(X), measure=says(2.0), shrink=False, progress=False)
    assert plan.packed and not plan.fusions
    assert any(note.endswith("TypeError: no graph today") for note in plan.notes)
