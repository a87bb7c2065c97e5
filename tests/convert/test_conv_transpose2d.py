"""Models with transposed convolutions: planned, packed, run as programs, saved, trained."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparse_ops as so
from sparse_ops.nn import CSRConvTranspose2d, SparseLayer
from sparse_ops.planning import network, ways
from sparse_ops.planning.search import possible_forms
from sparse_ops.program.model import programs_of
from sparse_ops.program.network import ProgramModel
from sparse_ops.program.segments import Segment
from tests.convert.planning import masked, planned, row
from tests.packed_files import contents, rewritten


@pytest.fixture(autouse=True)
def _exact_widths(monkeypatch):
    monkeypatch.setattr(ways, "MULTIPLES", ())


X = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(0))
OTHERS = [torch.randn(1, 6, 3, 7), torch.randn(17, 6, 4, 4)]


class Generator(nn.Module):
    """As DCGAN's, and a layer of more than one group."""

    def __init__(self, groups=1):
        super().__init__()
        self.a = nn.ConvTranspose2d(6, 8, 4, 1, 0, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.b = nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=groups)
        self.act = nn.ReLU()
        self.c = nn.ConvTranspose2d(8, 6, (3, 2), (2, 3), (1, 0), (1, 1))
        self.last = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x)))
        x = F.silu(self.c(self.act(self.b(x))))
        return torch.tanh(self.last(x))


def pruned(groups=1, dead=True):
    torch.manual_seed(0)
    model = Generator(groups).eval()
    model.norm.running_mean.normal_(0, 0.1)
    with torch.no_grad():
        for name in ("a", "b", "c", "last"):
            weight = getattr(model, name).weight
            weight.mul_(torch.rand_like(weight) > 0.6)
        if dead:
            model.b.weight[:, ::4] = model.b.bias[::4] = 0
            model.a.weight[2] = 0
    return model


@torch.no_grad()
def check(fast, model):
    for x in (X, *OTHERS):
        exact = copy.deepcopy(model).double()(x.double()).float()
        torch.testing.assert_close(fast(x), exact, rtol=1e-4, atol=1e-6)


def in_programs(model, monkeypatch, **options):
    """The plan that a clock of our own makes, which says that all is faster."""
    whole = so.convert.Comparison(2, 1, 2, 2, 2, 20)
    monkeypatch.setattr(network, "against", lambda *_: whole)
    return so.plan(model, X, budget_s=1, compile=False, progress=False, **options)


def all_packed(monkeypatch):
    """Has every search choose what is packed."""
    monkeypatch.setattr("sparse_ops.planning.search.HOPELESS", float("inf"))
    monkeypatch.setattr(
        "sparse_ops.planning.search._race",
        lambda made, *_: {n: n != "packed, planar" for n in made},
    )


def test_they_are_packed_without_their_dead_channels(tmp_path):
    model = pruned()
    plan = planned(model, example=X)
    assert [row(plan, name).becomes for name in "abc"] == ["CSRConvTranspose2d"] * 3
    assert row(plan, "b").kind == "ConvTranspose2d"
    assert row(plan, "b").left == (8, 6, 4, 4) and row(plan, "c").left == (6, 6, 3, 2)
    assert "2 dead filters" in row(plan, "b").zeros
    # A weight and a pixel each: N · H · W · I · O · kH · kW.
    assert row(plan, "a").macs == 2 * 5 * 4 * 6 * 8 * 16
    fast = plan.apply(model)
    check(fast, model)
    so.save(fast, tmp_path / "fast")
    loaded = so.load(tmp_path / "fast", Generator().eval())
    with torch.no_grad():
        assert torch.equal(loaded(X), fast(X))
    dense = so.convert.to_dense(fast)
    assert not any(isinstance(module, SparseLayer) for module in dense.modules())
    check(dense, model)


@pytest.mark.parametrize("fold", [True, False])
def test_layer_by_layer_they_do_the_activation_after_them(fold, tmp_path, monkeypatch):
    monkeypatch.setattr("sparse_ops.planning.network.refuses", lambda *_: "of this test")
    model = pruned()
    plan = planned(model, example=X, fold=fold)
    assert plan.decisions is None
    fast = plan.apply(model)
    assert fast.b.activation == ("relu" if fold else None)
    check(fast, model)
    so.save(fast, tmp_path / "fast")
    loaded = so.load(tmp_path / "fast", Generator().eval())
    with torch.no_grad():
        assert torch.equal(loaded(X), fast(X))


def test_they_are_steps_of_one_program(monkeypatch, tmp_path):
    all_packed(monkeypatch)
    model = pruned()
    plan = in_programs(model, monkeypatch)
    assert [row(plan, name).becomes for name in "abc"] == ["CSRConvTranspose2d"] * 3
    assert row(plan, "a").measured is not None
    fast = plan.apply(model)
    items = programs_of(fast).items(fast, 2)
    assert [type(item) for item in items] == [Segment]
    kinds = [step.kind for step in items[0].program.steps]
    assert kinds.count("interleave") == 3
    check(fast, model)
    so.save(fast, tmp_path / "fast")
    for loaded in (so.load(tmp_path / "fast"), so.load(tmp_path / "fast", Generator().eval())):
        check(loaded, model)
        check(so.convert.to_dense(loaded), model)


def test_programs_follow_a_bias_that_changes(monkeypatch, tmp_path):
    all_packed(monkeypatch)
    model = pruned()
    fast = in_programs(model, monkeypatch, shrink=False).apply(model)
    so.save(fast, tmp_path / "fast")
    loaded = so.load(tmp_path / "fast")
    assert isinstance(loaded, ProgramModel)
    with torch.no_grad():
        for one in (model, fast, loaded):
            own = dict(one.named_parameters())
            own["b.bias"].add_(torch.arange(8.0))
    check(fast, model)
    check(loaded, model)
    found = []
    for one in (model, fast, loaded):
        own = dict(one.named_parameters())
        found.append(torch.autograd.grad(one(X).square().sum(), [own["b.bias"], own["c.bias"]]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-5)
    again = copy.deepcopy(loaded)
    check(again, model)


HOSTILE = {
    "too often": ({"repeated": "b.bias", "times": 5000}, "must be a tensor's name"),
    "no number": ({"repeated": "b.bias", "times": True}, "must be a tensor's name"),
    "once less": ({"repeated": "b.bias", "times": 3}, "bias must be"),
    "what is not there": ({"repeated": "b.bia", "times": 4}, "is missing"),
    "another tensor": ({"repeated": "c.values", "times": 4}, "bias must be"),
    "a matrix": ({"repeated": "b.bias", "times": 4}, "must be a vector to be repeated"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_file_repeats_is_checked(case, monkeypatch, tmp_path):
    all_packed(monkeypatch)
    model = pruned(dead=False)
    so.save(in_programs(model, monkeypatch).apply(model), tmp_path / "fast")
    wrong, words = HOSTILE[case]

    tensors, metadata, data = contents(tmp_path / "fast")
    constants = data["program"]["whole"]["parts"][0]["constants"]
    constants[constants.index({"repeated": "b.bias", "times": 4})] = wrong
    if case == "a matrix":
        tensors["b.bias"] = tensors["b.bias"][:, None].contiguous()
    rewritten(tmp_path / "fast", tensors, metadata, data)
    with pytest.raises(ValueError, match=words):
        so.load(tmp_path / "fast")


def test_what_has_groups_stays_dense_and_says_so(monkeypatch):
    model = pruned(groups=2, dead=False)
    plan = planned(model, example=X)
    assert "groups is 2, not 1" in row(plan, "b").reason
    assert row(plan, "c").becomes == "CSRConvTranspose2d"
    check(plan.apply(model), model)
    all_packed(monkeypatch)
    plan = in_programs(model, monkeypatch)
    assert row(plan, "b").becomes is None and row(plan, "a").becomes is not None
    fast = plan.apply(model)
    assert len(programs_of(fast).items(fast, 2)) == 3
    check(fast, model)


class Sized(nn.Module):
    """The size of the output is that of the input."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(6, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 6, 3, 2, 1)

    def forward(self, x):
        return self.up(torch.relu(self.down(x)), output_size=x.shape[-2:])


def test_the_size_of_the_output_may_be_asked_for(tmp_path):
    torch.manual_seed(0)
    model = Sized().eval()
    with torch.no_grad():
        model.up.weight.mul_(torch.rand_like(model.up.weight) > 0.5)
    plan = planned(model, example=X)
    assert row(plan, "up").becomes == "CSRConvTranspose2d"
    fast = plan.apply(model)
    check(fast, model)
    so.save(fast, tmp_path / "fast")
    check(so.load(tmp_path / "fast", Sized().eval()), model)


def test_masks_may_be_given_and_what_is_packed_is_trained():
    model = Generator().eval()
    masks = {f"{n}.weight": torch.rand_like(getattr(model, n).weight) > 0.5 for n in "abc"}
    # One number for each filter.
    masks["c.weight"] = torch.tensor([True, False, True, True, False, True])
    fast = planned(model, masks, example=X, shrink=False).apply(model)
    masks["c.weight"] = masks["c.weight"][None, :, None, None].expand(8, 6, 3, 2)
    dense = masked(model, masks)
    check(fast, dense)
    assert isinstance(fast.c, CSRConvTranspose2d)
    found = []
    for one in (fast, dense):
        weights = next(one.b.parameters()), one.c.bias, one.last.weight
        found.append(torch.autograd.grad(one(X).square().sum(), weights))
    kept = fast.b.weight.gather(fast.b.rows_of(found[1][0]))
    torch.testing.assert_close(found[0][0], kept, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0][1:], found[1][1:], rtol=1e-4, atol=1e-5)


def test_a_file_for_another_geometry_is_refused(tmp_path):
    model = pruned(dead=False)
    so.save(planned(model, example=X, fold=False).apply(model), tmp_path / "fast")
    other = Generator().eval()
    other.b = nn.ConvTranspose2d(8, 8, 4, 2, 0)
    with pytest.raises(ValueError, match=r"must be \[32, 8, 2, 2\], as in the model"):
        so.load(tmp_path / "fast", other)


def test_a_form_is_possible_where_programs_could_run_it():
    from sparse_ops.graph.capture import capture

    model = pruned(groups=2, dead=False)
    masks = {f"{n}.weight": getattr(model, n).weight != 0 for n in "abc"}
    assert possible_forms(capture(model, (X,)), masks) == {"a": "csr", "c": "csr"}


def test_multiply_accumulates_are_counted_alike_dense_packed_and_in_files(monkeypatch, tmp_path):
    all_packed(monkeypatch)
    model = pruned(dead=False)
    fast = in_programs(model, monkeypatch).apply(model)
    so.save(fast, tmp_path / "fast")
    counts = [
        {layer.name: (layer.dense, layer.kept, layer.weights, layer.nnz) for layer in found}
        for found in map(so.report.count_macs, (model, fast, so.load(tmp_path / "fast")), [X] * 3)
    ]
    weight = model.b.weight
    # 8 × 7 pixels of two images.
    weights, nnz = weight.numel(), int((weight != 0).sum())
    assert counts[0]["b"] == (112 * weights, 112 * nnz, weights, nnz)
    assert counts[0] == counts[1]
    assert counts[2]["b"] == counts[0]["b"]
