"""Attention's projections are packed, where that is faster; where it cannot be, words say why."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

import sparse_ops as so
from sparse_ops.graph.capture import capture
from sparse_ops.nn import CSRLinear, SplitMultiheadAttention
from sparse_ops.planning import planner
from sparse_ops.planning.attention import refuses, split_copy, split_masks, to_split
from tests.convert.models import says

WIDTH, HEADS = 16, 2
X = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)
        self.last = nn.Linear(WIDTH, 4)

    def forward(self, x):
        y = self.norm(x)
        return self.last(x + self.attention(y, y, y, need_weights=False)[0])


def encoder(nested=False, layers=2, **options):
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True, **options)
    return nn.Sequential(
        nn.TransformerEncoder(layer, layers, enable_nested_tensor=nested), nn.Linear(WIDTH, 4)
    )


def pruned(model, seed=0, which=""):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.uniform_(-0.5, 0.5)
                if which in name:
                    parameter.mul_(torch.rand_like(parameter) > 0.8)
    return model.eval()


def planned(model, example=X, ratio=2.0, **options):
    return so.plan(model, example, measure=says(ratio), progress=False, **options)


def same(fast, model, *x):
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            torch.testing.assert_close(fast(*x), model(*x), rtol=1e-4, atol=1e-5)


PROJECTIONS = ["q_proj", "k_proj", "v_proj", "out_proj"]


@pytest.mark.parametrize("model", [Block(), encoder()], ids=["alone", "encoder"])
def test_projections_are_packed_applied_saved_loaded_and_turned_back(tmp_path, model):
    pruned(model)
    plan = planned(model)
    names = [n for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)]
    wanted = {f"{name}.{each}" for name in names for each in PROJECTIONS}
    rows = {row.name: row for row in plan.rows}
    assert wanted <= {row.name for row in plan.packed} and not set(names) & rows.keys()
    assert all(rows[name].measured is not None for name in wanted)
    assert plan.split == tuple(names) and "projections apart" in str(plan)
    fast = plan.apply(model)
    for name in wanted:
        assert isinstance(fast.get_submodule(name), CSRLinear)
    same(fast, model, X)
    same(fast, model, torch.randn(3, 7, WIDTH))
    same(copy.deepcopy(fast), model, X)
    so.save(fast, tmp_path / "fast.safetensors")
    again = so.load(tmp_path / "fast.safetensors", copy.deepcopy(model))
    same(again, model, X)
    assert again.state_dict().keys() == fast.state_dict().keys()
    dense = so.convert.to_dense(fast)
    for name in names:
        assert type(dense.get_submodule(name)) is nn.MultiheadAttention
    same(dense, model, X)


@pytest.mark.parametrize("model", [Block(), encoder()], ids=["alone", "encoder"])
def test_what_gains_nothing_keeps_the_attention_that_it_had(model):
    pruned(model)
    plan = planned(model, ratio=0.5)
    assert plan.whole is None and not plan.split
    names = [n for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)]
    rows = {row.name: row for row in plan.others}
    assert [name for name in names if rows[name].reason == planner.NOT_FASTER] == names
    assert type(plan.apply(model).get_submodule(names[0])) is nn.MultiheadAttention


def test_layers_beside_a_fast_path_are_packed_though_the_attention_has_no_zeros():
    model = pruned(encoder(), which="linear")
    plan = planned(model)
    packed = {row.name for row in plan.packed}
    assert packed == {f"0.layers.{i}.linear{j}" for i in range(2) for j in (1, 2)}
    fast = plan.apply(model)
    assert isinstance(fast[0].layers[0].self_attn, SplitMultiheadAttention)
    same(fast, model, X)


def test_masks_are_of_the_names_that_the_model_has():
    model = pruned(Block(), which="nothing")
    masks = {
        "attention.in_proj_weight": torch.rand(3 * WIDTH, WIDTH) > 0.8,
        "attention.out_proj.weight": torch.rand(WIDTH, WIDTH) > 0.8,
    }
    plan = planned(model, masks=masks)
    assert len(plan.packed) == 4 and plan.masks.keys() == masks.keys()
    fast = plan.apply(model)
    so.masks.apply_(model, masks)
    same(fast, model, X)
    apart = split_masks(masks, ["attention"])
    assert apart.keys() == {f"attention.{each}.weight" for each in PROJECTIONS}


def test_pruned_by_torch_and_with_other_widths_of_keys():
    model = nn.MultiheadAttention(WIDTH, HEADS, kdim=6, vdim=10).eval()
    for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        prune.random_unstructured(model, name, 0.8)
    prune.random_unstructured(model.out_proj, "weight", 0.8)
    x = torch.randn(5, 2, WIDTH), torch.randn(7, 2, 6), torch.randn(7, 2, 10)
    plan = planned(model, x)
    assert [row.name for row in plan.packed] == PROJECTIONS
    fast = plan.apply(model)
    for one, other in zip(fast(*x), model(*x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Both(nn.Module):
    """An encoder and a decoder, of which torch.fx can trace each, or nn.Transformer, which not."""

    def __init__(self, apart):
        super().__init__()
        self.both, self.apart = nn.Transformer(WIDTH, HEADS, 1, 1, 32), apart

    def forward(self, x, y):
        if self.apart:
            return self.both.decoder(y, self.both.encoder(x))
        return self.both(x, y)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("apart", [True, False])
def test_encoders_and_decoders_are_captured_and_packed(apart):
    model = pruned(Both(apart))
    x, y = torch.randn(5, 2, WIDTH), torch.randn(3, 2, WIDTH)
    names = [n for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)]
    if apart:
        graph = capture(split_copy(model, names), (x, y))
        assert sum(node.op == "linear" for node in graph.nodes) == 3 * 4 + 4
    plan = planned(model, (x, y))
    assert plan.split == tuple(names) and len(plan.packed) == 16
    same(plan.apply(model), model, x, y)


def test_masks_of_padding_given_later_are_taken_as_pytorch_takes_them():
    model = pruned(encoder(layers=1)[0])
    fast = planned(model).apply(model)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    for given in ({"src_key_padding_mask": padding}, {"mask": causal, "is_causal": True}):
        with torch.no_grad():
            torch.testing.assert_close(fast(X, **given), model(X, **given), rtol=1e-4, atol=1e-5)


def test_zeros_where_padding_is_are_those_of_nested_tensors():
    model = pruned(encoder(nested=True)[0])
    model.norm = nn.LayerNorm(WIDTH).eval()
    nn.init.uniform_(model.norm.bias)
    plan = planned(model)
    assert len(plan.packed) == 12
    fast = plan.apply(model)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    scattered = torch.zeros(2, 5, dtype=torch.bool)
    scattered[0, 2] = True
    for given in (padding, padding * -1e4, scattered, torch.ones(2, 5).bool() & padding):
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                ours, theirs = (m(X, src_key_padding_mask=given) for m in (fast, model))
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        zeros = model(X, src_key_padding_mask=padding)[1, 3:]
        torch.testing.assert_close(zeros, model.norm.bias.expand(2, -1))
        dense = so.convert.to_dense(fast)
        assert type(dense) is nn.TransformerEncoder
        torch.testing.assert_close(
            dense(X, src_key_padding_mask=padding), model(X, src_key_padding_mask=padding)
        )


class Encoder(nn.TransformerEncoder):
    """Of somebody's own."""


def test_somebodys_encoder_that_makes_nested_tensors_is_left_alone_in_words():
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)
    model = pruned(nn.Sequential(Encoder(layer, 2), nn.Linear(WIDTH, 4)))
    plan = planned(model)
    assert not plan.split and [row.name for row in plan.packed] == ["1"]
    reasons = {row.name: row.reason for row in plan.rows}
    for name in ("0.layers.1.self_attn", "0.layers.0.linear1"):
        assert "enable_nested_tensor=False" in reasons[name]
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    fast = plan.apply(model)
    with torch.no_grad():
        ours, theirs = (m[0](X, src_key_padding_mask=padding) for m in (fast, model))
    assert not theirs[1, 3:].any()
    torch.testing.assert_close(ours, theirs)


class Reads(Block):
    """It reads the weight that a split attention does not have."""

    def forward(self, x):
        return super().forward(x) + self.attention.in_proj_weight.mean()


def test_what_cannot_be_split_is_told_in_words():
    def reason_of(model):
        _, refused = to_split(model, {"attention.in_proj_weight": torch.zeros(1).bool()}, (X,))
        return refused["attention"]

    assert "another with its projections apart" in reason_of(Reads().eval())
    twice = Block().eval()
    twice.again = twice.attention
    assert "stands in the model 2 times" in reason_of(twice)
    shared = Block().eval()
    shared.other = nn.Linear(WIDTH, 3 * WIDTH)
    shared.other.weight = shared.attention.in_proj_weight
    assert "shares a weight or bias with other" in reason_of(shared)
    hooked = Block().eval()
    hooked.attention.register_forward_hook(lambda *_: None)
    assert "hooks" in reason_of(hooked)
    assert refuses(Block(), "attention") is None
    model = pruned(Reads())
    plan = planned(model)
    assert not plan.split and [row.name for row in plan.packed] == ["last"]
    same(plan.apply(model), model, X)


def test_a_file_that_splits_what_is_no_attention_is_refused(tmp_path):
    model = pruned(Block())
    so.save(planned(model).apply(model), tmp_path / "fast")
    with safe_open(tmp_path / "fast", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    about = json.loads(metadata["model"])
    assert about["split"] == ["attention"]
    for split, words in (
        (["norm"], "splits the attention 'norm'"),
        (["attention", "attention"], "is not MultiheadAttention"),
        (["nowhere"], "there is none"),
        ([3], "split must be a list of names"),
        ({}, "split must be a list of names"),
        ([], r"layer 'attention\.q_proj'"),
    ):
        changed = {**metadata, "model": json.dumps({**about, "split": split})}
        save_file(tensors, tmp_path / "other", changed)
        with pytest.raises(ValueError, match=words):
            so.load(tmp_path / "other", Block().eval())


def test_a_plan_of_a_split_attention_is_for_models_that_have_one():
    model = pruned(Block())
    plan = planned(model)
    other = copy.deepcopy(model)
    other.attention = nn.Identity()
    with pytest.raises(ValueError, match=r"nn\.MultiheadAttention 'attention'"):
        plan.apply(other)
    wider = copy.deepcopy(model)
    wider.attention = nn.MultiheadAttention(2 * WIDTH, HEADS)
    with pytest.raises(ValueError, match="q_proj"):
        plan.apply(wider)


def test_the_fast_model_in_training_learns_what_the_dense_one_would():
    model = pruned(Block(dropout=0.3))
    fast = planned(model, fold=False, shrink=False).apply(model).train()
    assert fast.attention.training and fast.attention.q_proj.training
    fast.eval()
    model(X).square().sum().backward()
    fast(X).square().sum().backward()
    dense = model.attention.in_proj_weight.grad[:WIDTH]
    mask = fast.attention.q_proj.mask()
    torch.testing.assert_close(fast.attention.q_proj.values.grad, dense[mask], rtol=1e-3, atol=1e-5)
