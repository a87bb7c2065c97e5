"""Plans find stretches, time them, and say what they do; files bring them back."""

import copy
import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._pytree import tree_leaves

import sparse_ops as so
from sparse_ops.convert import stretch, stretch_settle
from sparse_ops.nn import ChannelPrunedConv2d, SparseLayer
from tests.convert.models import says
from tests.convert.stretches import (
    MODELS,
    Branches,
    Gates,
    Residual,
    Twice,
    assert_same,
    blocked,
    calls_stretches,
    clock,
    conv,
    images,
    masks_of,
    model_of,
    packed,
)

kinds = pytest.mark.parametrize("kind", MODELS)


@pytest.fixture(autouse=True)
def _vectors(monkeypatch):
    """As if this machine had compiled kernels, so that stretches are tried."""
    monkeypatch.setattr(stretch_settle, "best_isa", lambda: "avx2")


def planned(model, masks, measure, count=16, **options):
    plan = so.plan(model, images(count), masks, measure=measure, progress=False, **options)
    masked = copy.deepcopy(model)
    so.masks.apply_(masked, masks)
    return plan, masked


def packed_layers(plan):
    return {layer.name: layer for layer in plan.packed}


def assert_equal_models(one, other, x):
    with torch.no_grad():
        assert_same(one(x), other(x))


@kinds
@pytest.mark.parametrize("shrink", [False, True])
def test_a_plan_takes_stretches_where_they_are_faster(kind, shrink, tmp_path):
    model = model_of(kind)
    plan, masked = planned(model, masks_of(model), clock(1.5), shrink=shrink)
    assert plan.stretches and "stretch: " in str(plan) and "blocked" in str(plan)
    assert json.loads(plan.to_json())["stretches"][0]["nodes"] == list(plan.stretches[0].nodes)
    fast = plan.apply(model)
    assert stretch.stretches_of(fast) == list(plan.stretches)
    for count in (1, 16, 19, 33):
        assert_equal_models(fast, masked, images(count))
    so.save(fast, tmp_path / "x.safetensors")
    loaded = so.load(tmp_path / "x.safetensors", kind().eval())
    for other in (loaded, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert stretch.stretches_of(other) == list(plan.stretches)
        assert other.state_dict().keys() == fast.state_dict().keys()
        x = images()
        with torch.no_grad():
            for a, b in zip(tree_leaves(other(x)), tree_leaves(fast(x)), strict=True):
                assert torch.equal(a, b)
        so.save(other, tmp_path / "again.safetensors")
        again = so.load(tmp_path / "again.safetensors", kind().eval())
        assert stretch.stretches_of(again) == list(plan.stretches)


@kinds
def test_a_plan_leaves_them_where_they_are_slower(kind):
    model = model_of(kind)
    plan, masked = planned(model, masks_of(model), clock(0.9))
    assert plan.packed and not plan.stretches and "stretch" not in str(plan)
    fast = plan.apply(model)
    assert not stretch.stretches_of(fast)
    assert_equal_models(fast, masked, images())


def test_dense_layers_are_packed_where_that_is_faster_and_the_plan_says_so():
    model = model_of(Residual)
    plan, masked = planned(model, masks_of(model, dense=("stem", "down")), clock(1.5))
    layers = packed_layers(plan)
    for name in ("stem", "down"):
        assert layers[name].becomes == ChannelPrunedConv2d.__name__
        assert "because of the stretch" in layers[name].reason
        assert "it stays dense: it" in layers[name].reason
        assert layers[name].name in plan.stretches[0].nodes
    assert "because of the stretch" not in layers["a"].reason
    assert_equal_models(plan.apply(model), masked, images())


def test_only_what_was_packed_before_is_where_that_is_faster_still():
    model = model_of(Residual)

    def fewer_is_better(one, two, seconds):
        if calls_stretches(two):
            dense = "stem" not in {
                name for name, m in two.func.named_modules() if isinstance(m, SparseLayer)
            }
            return says(3.0 if dense else 1.5)(one, two, seconds)
        return says(2.0)(one, two, seconds)

    plan, masked = planned(model, masks_of(model, dense=("stem",)), fewer_is_better)
    assert plan.stretches and "stem" not in packed_layers(plan)
    assert "stem" not in plan.stretches[0].nodes and "a" in plan.stretches[0].nodes
    assert_equal_models(plan.apply(model), masked, images())


def test_a_model_of_which_no_layer_is_faster_alone_may_be_faster_with_stretches():
    model = model_of(Residual)

    def only_stretches(one, two, seconds):
        new = calls_stretches(two) and not calls_stretches(one)
        return says(1.5 if new else 0.5)(one, two, seconds)

    plan, masked = planned(model, masks_of(model), only_stretches)
    assert plan.whole is not None and plan.whole.speedup == 1.5
    layers = packed_layers(plan)
    assert set(layers) == {"stem", "a", "b", "c", "d", "down"}
    assert all("not surely faster here" in layer.reason for layer in layers.values())
    assert_equal_models(plan.apply(model), masked, images())


def test_what_was_faster_than_packed_must_be_faster_than_the_best_dense_form_too():
    model = model_of(Residual)

    def never_faster_than_dense(one, two, seconds):
        if calls_stretches(two):
            sparse = any(isinstance(module, SparseLayer) for module in one.func.modules())
            return says(1.5 if sparse else 0.9)(one, two, seconds)
        return says(2.0)(one, two, seconds)

    plan, _ = planned(model, masks_of(model), never_faster_than_dense)
    assert plan.packed and not plan.stretches


def test_depthwise_convolutions_stay_outside_unless_they_were_packed():
    class Depthwise(nn.Sequential):
        def __init__(self):
            super().__init__(
                conv(3, 8), conv(8, 8), conv(8, 8, groups=8), conv(8, 8, 1), conv(8, 8, groups=2)
            )

    model = model_of(Depthwise)
    masks = masks_of(model, dense=("2", "4"))
    plan, masked = planned(model, masks, clock(1.5), shrink=False)
    assert [each.nodes for each in plan.stretches] == [("0", "1"), ("3", "4")]
    assert_equal_models(plan.apply(model), masked, images())
    plan, _ = planned(model, masks_of(model), clock(1.5), shrink=False)
    assert [each.nodes for each in plan.stretches] == [("0", "1", "2", "3", "4")]


def test_a_dense_layer_outside_of_stretches_stays_dense():
    model = model_of(Gates)
    model.far = nn.Conv2d(8, 8, 1)
    gates = type(model).forward

    class Far(Gates):
        def __init__(self):
            super().__init__()
            self.far = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return gates(self, self.far(x).sin())

    model = model_of(Far)
    plan, _ = planned(model, masks_of(model, dense=("far", "a")), clock(1.5), shrink=False)
    layers = packed_layers(plan)
    assert plan.stretches and "far" not in layers and "a" in layers


@pytest.mark.parametrize("count", [1, 7])
def test_small_batches_are_not_asked(count):
    model = model_of(Residual)
    plan, _ = planned(model, masks_of(model), clock(1.5), count)
    assert plan.packed and not plan.stretches


def test_without_vector_instructions_nobody_asks(monkeypatch):
    model = model_of(Residual)
    for isa in (None, "scalar"):
        monkeypatch.setattr(stretch_settle, "best_isa", lambda isa=isa: isa)
        plan, _ = planned(model, masks_of(model), clock(1.5))
        assert plan.packed and not plan.stretches


def test_nothing_is_rewritten_where_nothing_may_be_folded():
    model = model_of(Twice)
    plan, _ = planned(model, masks_of(model), clock(1.5), fold=False)
    assert plan.packed and not plan.stretches


def test_a_failure_on_the_way_is_told_and_leaves_the_plan_as_it_was(monkeypatch):
    def broken(*_):
        raise RuntimeError("no more today")

    monkeypatch.setattr(stretch_settle.stretch, "find", broken)
    model = model_of(Residual)
    plan, masked = planned(model, masks_of(model), clock(1.5))
    assert plan.packed and not plan.stretches
    assert "no layer runs on blocked tensors: it failed: RuntimeError: no more today" in str(plan)
    assert_equal_models(plan.apply(model), masked, images())


def test_a_wrong_stretch_is_no_answer(monkeypatch):
    right = stretch.blocked

    def wrong(model, stretches):
        made = right(model, stretches)
        with torch.no_grad():
            made.get_submodule("d").values.mul_(1.1)
        return made

    monkeypatch.setattr(stretch_settle.stretch, "blocked", wrong)
    model = model_of(Residual)
    with pytest.raises(so.convert.Mismatch):
        planned(model, masks_of(model), clock(1.5))


@pytest.fixture
def path(tmp_path):
    model = model_of(Branches)
    plan, _ = planned(model, masks_of(model), clock(1.5), shrink=False)
    so.save(plan.apply(model), tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def change_of(path, change):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    about = json.loads(metadata["model"])
    change(about)
    save_file(load_file(path), path, {**metadata, "model": json.dumps(about)})


def one(*nodes, room=1.5):
    return [{"nodes": list(nodes), "room": room}]


@pytest.mark.parametrize(
    "change",
    [
        7,
        {"nodes": ["one"]},
        ["one"],
        [["one"]],
        [{}],
        [{"nodes": ["one"]}],
        [{"nodes": "one", "room": 1.5}],
        one(),
        one(1),
        one(None),
        one(["one"]),
        one("nowhere"),
        one("one", "one"),
        one("one") + one("one"),
        one("torch.nothing"),
        one("torch.cat (2)"),
        one("x"),
        one("output"),
        one("one", room=0.5),
        one("one", room=-1),
        one("one", room=1e9),
        one("one", room="1.5"),
        one("one", room=None),
        one("one", room=True),
        one("one", room=float("nan")),
        one("one", room=float("inf")),
        one("one", room=10**400),
    ],
    ids=lambda change: str(change)[:60],
)
def test_a_file_of_stretches_that_the_model_has_not_is_refused(path, change):
    change_of(path, lambda about: about.update(blocked=change))
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        so.load(path, Branches().eval())


def test_a_file_may_name_other_stretches_that_the_model_has(path):
    expected = so.load(path, Branches().eval())
    x = images()
    for change in (one("one", "three"), one("torch.cat"), one("torch.max_pool2d", room=3), []):
        change_of(path, lambda about, change=change: about.update(blocked=change))
        loaded = so.load(path, Branches().eval())
        assert bool(stretch.stretches_of(loaded)) == bool(change)
        assert_equal_models(loaded, expected, x)
    change_of(path, lambda about: about.pop("blocked"))
    assert not stretch.stretches_of(so.load(path, Branches().eval()))


def test_a_model_that_is_blocked_is_not_blocked_again():
    fast = blocked(packed(model_of(Branches)))
    shapes = so.convert.fuse.shapes_of(fast, (images(),))
    assert stretch.find(fast, shapes) == []


@pytest.mark.parametrize("kind", [Residual, Gates])
def test_whatever_the_clock_says_it_computes_the_same(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSE_OPS_CACHE", str(tmp_path))
    model = model_of(kind)
    masks = masks_of(model)
    masked = copy.deepcopy(model)
    so.masks.apply_(masked, masks)
    for _ in range(2):
        fast = so.sparsify(model, images(), masks, budget_s=0.5, progress=False)
        assert_equal_models(fast, masked, images(33))


def test_it_is_compared_with_dense_as_it_is():
    from sparse_ops.report.versus import dense_against_packed

    model = model_of(Residual)
    plan, masked = planned(model, masks_of(model), clock(1.5))
    row = dense_against_packed(
        masked, plan.apply(model), (images(),), compile_s=None, seconds=0.01, measure=says(2.0)
    )
    kept = sum(layer.kept_macs for layer in plan.layers)
    dense = sum(layer.macs for layer in plan.layers)
    assert row.packed_layers == len(plan.packed) and row.ideal == pytest.approx(
        dense / kept, rel=0.01
    )
