"""Shrinking as a step of planning: measured, applied, explained, saved and loaded."""

import json
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import sparse_ops as so
from sparse_ops.nn._constant import Constant
from sparse_ops.planning import network, ways


class Small(nn.Module):
    """A residual network with dead channels, a layer without weights, scattered zeros."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.wide = nn.Conv2d(8, 16, 3)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.mixed = nn.Conv2d(16, 12, 1)
        self.branch = nn.Conv2d(12, 12, 3, padding=1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        x = torch.relu(self.depthwise(torch.relu(self.wide(x))))
        x = self.mixed(x)
        x = x + self.branch(x)
        return self.fc(x.mean((2, 3)))


def small():
    torch.manual_seed(0)
    model = Small()
    for _ in range(2):
        model(torch.randn(4, 3, 8, 8))
    with torch.no_grad():
        model.norm.bias.uniform_(-1, 1)
        model.stem.weight[[1, 4]] = 0
        model.wide.weight[3:9] = 0
        model.mixed.weight[torch.rand(12, 16, 1, 1) < 0.5] = 0
        model.branch.weight.zero_()
    return model.eval()


EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def clock(layers=2.0, factor=1.0):
    """Times whole models by their parameters, the second one `factor` faster; layers as told."""

    def measure(one, other, budget_s):
        both = [getattr(side, "func", None) for side in (one, other)]
        ratio = layers
        if other.__class__.__name__ == "function":
            # The dense model in channels_last.
            ratio = 0.5
        elif all(isinstance(model, Small | Scaled | nn.Sequential) for model in both):
            sizes = [sum(p.numel() for p in model.parameters()) for model in both]
            ratio = factor * sizes[0] / sizes[1]
        return so.convert.Comparison(ratio, 1, ratio, ratio, ratio, 20)

    return measure


def planned(model=None, measure=None, **options):
    model = small() if model is None else model
    return so.plan(model, EXAMPLE, measure=measure or clock(), progress=False, **options)


def row(plan, name):
    return next(layer for layer in plan.layers if layer.name == name)


def test_a_mixed_layer_is_shrunk_first_and_then_packed():
    model, x = small(), torch.randn(3, 3, 9, 9)
    plan = planned(model)
    fast = plan.apply(model)
    assert row(plan, "mixed").left == (12, 10, 1, 1) and row(plan, "mixed").becomes
    assert fast.mixed.shape == (12, 10, 1, 1)
    assert (fast.stem.out_channels, fast.wide.out_channels) == (6, 10)
    assert isinstance(fast.branch, Constant) and row(plan, "branch").constant
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    assert model.wide.out_channels == 16 and type(model.branch) is nn.Conv2d


def test_the_plan_tells_what_was_removed_and_what_stays():
    model = small()
    with torch.no_grad():
        model.fc.weight[1] = 0
    plan = planned(model)
    text = str(plan)
    assert "16×8×3×3→10×6 " in text and "constant" in text
    assert ", channels removed in " in text.splitlines()[0]
    assert row(plan, "fc").dead_kept == 1 and "gives it out" in row(plan, "fc").dead_why
    assert "2 dead filters" in row(plan, "stem").zeros
    data = json.loads(plan.to_json())["layers"]
    assert next(d for d in data if d["name"] == "wide")["left"] == [10, 6, 3, 3]


def test_nothing_is_removed_where_the_shrunk_model_is_not_faster():
    plan = planned(measure=clock(0.5, 0.1))
    assert plan.whole is None and not plan.shrinking.changes
    assert any("not faster" in note for note in plan.notes)
    model = small()
    assert torch.equal(plan.apply(model)(EXAMPLE), model(EXAMPLE))


def test_nothing_is_removed_on_request_or_in_training_mode():
    assert planned(shrink=False).apply(small()).wide.out_channels == 16
    plan = planned(small().train())
    assert not plan.shrinking.changes
    assert any("nothing was folded and shrunk" in note for note in plan.notes)


def test_a_plan_that_removes_channels_is_not_applied_to_what_needs_them():
    plan = planned()
    with pytest.raises(ValueError, match="eval"):
        plan.apply(small().train())
    other = small()
    # Now the constants of the dead filters are others: one is zero, the other has to stay.
    other.norm.bias.data[:] = 1
    other.norm.bias.data[[1, 4]] = 100
    other.wide.padding, other.wide.padding_mode = (1, 1), "zeros"
    other.wide._reversed_padding_repeated_twice = [1, 1, 1, 1]
    with pytest.raises(ValueError, match="plan it anew"):
        plan.apply(other)


def test_a_pattern_that_shrinking_would_break_is_kept_where_that_is_faster(monkeypatch):
    monkeypatch.setattr(ways, "MULTIPLES", ())
    # As on a GPU: networks do not run as programs, whose layers cannot be told by this clock.
    monkeypatch.setattr(network, "refuses", lambda context, graph: "not in this test")

    def net():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)
        )
        with torch.no_grad():
            model[0].weight[2] = 0
            model[2].weight.mul_(so.patterns.PSD2_P8.mask((8, 8, 3, 3)))
        return model.eval()

    def measure(prefers_pattern):
        def compare(one, other, budget_s):
            first, second = (
                isinstance(getattr(getattr(side, "func", None), "2", None), so.nn.PeriodicConv2d)
                for side in (one, other)
            )
            ratio = 2.0 if first == second else 1.5 if second == prefers_pattern else 0.5
            shrunk = getattr(getattr(one, "func", None), "0", None)
            if not first and type(shrunk) is nn.Conv2d and shrunk.out_channels == 8:
                # Against dense each of the two is faster.
                ratio = 2.0
            return so.convert.Comparison(ratio, 1, ratio, ratio, ratio, 20)

        return compare

    for prefers, outputs in ((True, 8), (False, 7)):
        plan = so.plan(net(), EXAMPLE, measure=measure(prefers), progress=False)
        layer = plan.apply(net())[2]
        assert isinstance(layer, so.nn.PeriodicConv2d) is prefers
        assert (layer.shape if isinstance(layer, so.nn.SparseLayer) else layer.weight.shape)[1] == (
            outputs
        )


@pytest.mark.parametrize(("factor", "width"), [(1.0, 10), (9.0, 16)])
def test_widths_are_rounded_up_only_where_that_is_measured_faster(factor, width):
    plan = planned(measure=clock(0.5, factor))
    assert plan.apply(small()).wide.out_channels == width
    assert (plan.shrinking.multiple > 1) is (width == 16)
    assert any("rounded up" in note for note in plan.notes) is (width == 16)


def test_the_masks_given_decide_not_the_weights():
    model = small()
    masks = {"wide.weight": torch.ones(16, 8, 3, 3, dtype=torch.bool)}
    masks["wide.weight"][:4] = False
    plan = so.plan(model, EXAMPLE, masks, measure=clock(), progress=False)
    fast = plan.apply(model)
    so.masks.apply_(model, masks)
    torch.testing.assert_close(fast(EXAMPLE), model(EXAMPLE), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_masks_of_any_sparsity_are_planned(sparsity):
    model, x = so.models.small_vgg().eval(), torch.randn(1, 1, 28, 28)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.bias.data.uniform_(-1, 1)
    masks = {n: torch.rand_like(w) >= sparsity for n, w in so.masks.prunable(model).items()}
    fast = so.plan(model, x, masks, measure=clock(), progress=False).apply(model)
    so.masks.apply_(model, masks)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.fixture
def path(tmp_path):
    so.save(planned().apply(small()), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_a_shrunk_model_is_saved_and_loaded(path):
    fast = planned().apply(small())
    loaded = so.load(path, Small().eval())
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(loaded(x), fast(x)) and repr(loaded) == repr(fast)
    so.save(loaded, path)
    assert torch.equal(so.load(path, Small().eval())(x), fast(x))


def test_a_model_that_is_shrunk_and_not_packed_is_saved_and_loaded(tmp_path):
    model = planned(measure=clock(layers=0.5)).apply(small())
    assert type(model.mixed) is nn.Conv2d and model.mixed.in_channels == 10
    so.save(model, tmp_path / "x.safetensors")
    loaded = so.load(tmp_path / "x.safetensors", Small().eval())
    assert torch.equal(loaded(EXAMPLE), model(EXAMPLE))


def changed(name, **values):
    return lambda shrunk: shrunk[name].update(values)


HOSTILE = {
    "an unknown module": (lambda s: s.update(nowhere={"shape": [1]}), "does not have"),
    "a module without sizes": (lambda s: s.update(act={"shape": [1]}), "it must have the sizes"),
    "more channels": (changed("wide", shape=[17, 6, 3, 3]), "at most"),
    "no channels": (changed("wide", shape=[0, 6, 3, 3]), "at most"),
    "another kernel": (changed("wide", shape=[10, 6, 5, 3]), "at most"),
    "a huge width": (changed("wide", shape=[2**70, 6, 3, 3]), "at most"),
    "words": (changed("wide", shape="10"), "at most"),
    "truth": (changed("wide", shape=[True, 6, 3, 3]), "at most"),
    "groups that do not divide": (changed("depthwise", groups=3), "divide"),
    "more groups": (changed("depthwise", groups=32), "groups"),
    "wider groups": (changed("depthwise", groups=1), "more than the model has"),
    "no bias": (changed("wide", bias=False), "bias must stay"),
    "a bias of words": (changed("wide", bias="yes"), "bias must be"),
    "a constant of numbers": (changed("wide", constant=1), "constant must be"),
    "a packed constant": (changed("mixed", constant=True), "cannot be packed"),
    "a constant more": (changed("wide", constant=True), r"missing|no place"),
    "a constant less": (changed("branch", constant=False), "missing"),
    "a key too many": (changed("wide", more=1), "it must have"),
    "one layer not shrunk": (lambda s: s.pop("wide"), "must be"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_description_of_shrunk_modules_is_refused(path, case):
    change, words = HOSTILE[case]
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    description = json.loads(metadata["model"])
    change(description["shrunk"])
    save_file(load_file(path), path, {**metadata, "model": json.dumps(description)})
    with pytest.raises(ValueError, match=words):
        so.load(path, Small().eval())


def test_a_shrunk_model_is_exported_and_compiled():
    fast = planned().apply(small())
    want = fast(EXAMPLE)
    with torch.no_grad():
        program = torch.export.export(fast, (EXAMPLE,)).module()
        assert torch.equal(program(EXAMPLE), want)
        compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(EXAMPLE), want)


def test_planning_with_real_timing_removes_channels_and_keeps_to_its_time():
    model = so.models.vgg16(10, 3).eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight[layer.out_channels // 2 :] = 0
    x = torch.randn(1, 3, 32, 32)
    start = time.perf_counter()
    plan = so.plan(model, x, budget_s=2, progress=False)
    fast = plan.apply(model)
    assert time.perf_counter() - start < 60
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


class Scaled(nn.Module):
    """Divides by a size of one of its layers."""

    def __init__(self, layer, size):
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.c = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 4)
        self.layer, self.size = layer, size

    def forward(self, x):
        x = torch.relu(self.n(self.a(x))) / getattr(self.get_submodule(self.layer), self.size)
        return self.fc(torch.relu(self.c(torch.relu(self.b(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    ("layer", "size"),
    [("a", "out_channels"), ("n", "num_features"), ("b", "in_channels"), ("fc", "in_features")],
)
def test_a_layer_whose_size_the_code_asks_for_keeps_its_channels_and_others_do_not(layer, size):
    torch.manual_seed(0)
    model, x = Scaled(layer, size).eval(), torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        for conv in (model.a, model.b, model.c):
            conv.weight[::2] = conv.bias[::2] = 0
    plan = so.plan(model, x, measure=clock(), progress=False)
    fast = plan.apply(model)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-6)
    assert plan.shrinking.cuts
    if layer != "n":
        assert any(f"asks {layer} for sizes" in note for note in plan.notes)
        assert getattr(fast.get_submodule(layer), size) == 8


class Conv3x3(nn.Conv2d):
    """A subclass that only says how it is made."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 3, padding=1)


class Norm(nn.BatchNorm2d):
    pass


def of_subclasses():
    return nn.Sequential(
        Conv3x3(3, 16), Norm(16), nn.ReLU(), Conv3x3(16, 16), nn.Flatten(), nn.Linear(1024, 4)
    ).eval()


def test_subclasses_that_change_nothing_are_packed_shrunk_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    model, x = of_subclasses(), EXAMPLE
    with torch.no_grad():
        for weight in (model[0].weight, model[3].weight):
            weight.mul_(torch.rand_like(weight) > 0.7)
        model[0].weight[::2] = model[0].bias[::2] = 0
    plan = so.plan(model, x, measure=clock(), fold=False, progress=False)
    fast = plan.apply(model)
    assert row(plan, "3").becomes == "CSRConv2d" and row(plan, "3").left == (16, 8, 3, 3)
    so.save(fast, tmp_path / "fast")
    loaded = so.load(tmp_path / "fast", of_subclasses())
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
        assert torch.equal(loaded(x), fast(x))
