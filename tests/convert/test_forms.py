"""Layouts and forms: what the whole model is compared with, and what the fast model is given as."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.planning import fastest, forms, network, planner
from sparse_ops.planning.layout import is_channels_last, take_channels_last_
from tests.convert.models import EXAMPLE, masks_of_net, net, says


@pytest.fixture(autouse=True)
def _layer_by_layer(monkeypatch):
    """As on a GPU, or without compiled code: networks do not run as programs."""
    monkeypatch.setattr(network, "refuses", lambda context, graph: "not in this test")


@pytest.fixture
def planar():
    """A converted model whose plan found channels_last to be faster."""
    plan = so.plan(net(), torch.randn(EXAMPLE), masks_of_net(), measure=says(2.0), progress=False)
    assert plan.packed_forms.fastest == "channels_last"
    return plan.apply(net())


def test_a_model_in_channels_last_computes_the_same_for_any_input():
    model = net()
    x = torch.randn(EXAMPLE)
    expected = model(x)
    moved = take_channels_last_(copy.deepcopy(model))
    for given in (x, x.contiguous(memory_format=torch.channels_last), x.flip(0).flip(0)):
        torch.testing.assert_close(moved(given), expected, rtol=1e-4, atol=1e-5)
    assert moved.stem.weight.is_contiguous(memory_format=torch.channels_last)
    assert model.stem.weight.is_contiguous()


def test_the_layout_survives_files_copies_and_pickles(planar, tmp_path):
    x = torch.randn(EXAMPLE)
    so.save(planar, tmp_path / "planar.safetensors")
    loaded = so.load(tmp_path / "planar.safetensors", net())
    for other in (loaded, copy.deepcopy(planar), pickle.loads(pickle.dumps(planar))):
        assert is_channels_last(other) and torch.equal(other(x), planar(x))
        assert other.plain.weight.is_contiguous(memory_format=torch.channels_last)


def test_weights_that_two_layers_share_are_still_shared():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    model[1].weight = model[0].weight
    take_channels_last_(model)
    assert model[1].weight is model[0].weight
    assert len(list(model.named_parameters())) == 3


def test_without_a_compiler_or_time_the_plan_says_that_compile_was_left_out(monkeypatch):
    model, masks = net(), masks_of_net()
    options = {"budget_s": 0.5, "progress": False}
    plan = so.plan(model, torch.randn(EXAMPLE), masks, **options)
    if plan.whole is not None:
        assert "needs a budget of" in plan.dense_forms.skipped["torch.compile"]
    monkeypatch.setenv("CXX", "there-is-none")
    plan = so.plan(model, torch.randn(EXAMPLE), masks, **options)
    for own in (plan.dense_forms, plan.packed_forms):
        assert "torch.compile" not in own.milliseconds


@pytest.mark.slow
def test_a_compiled_dense_model_is_beaten_by_a_compiled_packed_one_or_the_answer_is_dense(
    monkeypatch,
):
    monkeypatch.setattr(fastest, "COMPILE_S", 0.0)
    monkeypatch.setattr(fastest, "no_compiler", lambda: None)
    model, masks = net(), masks_of_net()
    answers = []

    def measure(dense, packed, seconds):
        dense(), packed()
        compiled = isinstance(packed, fastest.Compiled)
        answers.append(compiled)
        # Compiled is fastest; of two compiled ones the packed one.
        slow = isinstance(dense, fastest.Compiled) and not compiled
        ratio = 0.5 if slow else 2.0
        return so.convert.Comparison(ratio, 1, ratio, 0.9 * ratio, ratio, 20)

    monkeypatch.setattr(planner, "compare", measure)
    plan = so.plan(model, torch.randn(EXAMPLE), masks, progress=False)
    assert plan.dense_forms.fastest == plan.packed_forms.fastest == "torch.compile"
    assert plan.whole is not None and any("torch.compile" in note for note in plan.notes)
    x = torch.randn(EXAMPLE)
    so.masks.apply_(model, masks)
    torch.testing.assert_close(plan.apply(model)(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_plan_names_each_refused_candidate_and_why():
    masks = masks_of_net()
    plan = so.plan(net(), torch.randn(EXAMPLE), masks, measure=says(2.0), progress=False)
    layer = next(layer for layer in plan.layers if layer.name == "anything")
    assert any(words == "PeriodicConv2d: its mask is not periodic" for words in layer.refused)
    assert "refused: " in str(plan)
    assert plan.as_data()["layers"][0]["floor_reached"] is None


@pytest.mark.parametrize("on_card", [True, False])
def test_on_a_card_torch_compile_is_asked_for_graphs_of_its_own(on_card, monkeypatch):
    asked = []

    def compile(function, **options):
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(forms, "tensors_in", lambda _: [SimpleNamespace(is_cuda=on_card)])
    forms.compiled_call(nn.Linear(3, 2), (torch.randn(1, 3),))
    # As torch's own mode, and with weights as constants, which that mode does not ask for.
    own = torch._inductor.list_mode_options("reduce-overhead") if on_card else {}
    assert asked == [{"dynamic": False, "options": {"freezing": True, **own}}]
    assert ("triton.cudagraphs" in own) == on_card
