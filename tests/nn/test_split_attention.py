"""Attention of separate projections is nn.MultiheadAttention."""

import copy
import itertools

import pytest
import torch
from torch import fx, nn

from sparse_ops.nn import CSRLinear, SplitMultiheadAttention

OPTIONS = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False, "batch_first": True},
    "learned keys": {"add_bias_kv": True, "add_zero_attn": True},
    "zero attention": {"add_zero_attn": True, "batch_first": True},
    "other widths": {"kdim": 6, "vdim": 10},
}


def pair(seed=0, packed=True, **options):
    """(an nn.MultiheadAttention whose weights are half zeros, the split one with packed layers)."""
    torch.manual_seed(seed)
    dense = nn.MultiheadAttention(8, 2, **options).eval()
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.uniform_(-1, 1)
            if parameter.dim() == 2:
                parameter.mul_(torch.rand_like(parameter) > 0.5)
    split = SplitMultiheadAttention(copy.deepcopy(dense))
    for name in ("q_proj", "k_proj", "v_proj", "out_proj") if packed else ():
        layer = split.get_submodule(name)
        setattr(split, name, CSRLinear.from_dense(layer, layer.weight != 0))
    return dense, split.eval()


def inputs(dense, rows=5, columns=7, batch=3):
    shapes = [(rows, dense.embed_dim), (columns, dense.kdim), (columns, dense.vdim)]
    if batch:
        place = 0 if dense.batch_first else 1
        shapes = [(*s[:place], batch, *s[place:]) for s in shapes]
    return tuple(torch.randn(shape) for shape in shapes)


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("packed", [False, True])
def test_it_gives_what_the_dense_one_gives_with_any_masks(name, packed):
    dense, split = pair(packed=packed, **OPTIONS[name])
    attend = torch.rand(5, 7) > 0.7
    attend[:, 0] = False
    masks = [None, attend, torch.randn(5, 7), torch.randn(6, 5, 7)]
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 5:] = True
    for attn_mask, with_padding, weights, average in itertools.product(
        masks, (False, True), (False, True), (False, True)
    ):
        given = dict(need_weights=weights, average_attn_weights=average, attn_mask=attn_mask)
        if with_padding:
            kind = None if attn_mask is None else attn_mask.dtype
            given["key_padding_mask"] = (
                padding
                if kind in (None, torch.bool)
                else torch.zeros(3, 7).masked_fill(padding, -9)
            )
        x = inputs(dense)
        same(split(*x, **given), dense(*x, **given))
        with torch.inference_mode():
            same(split(*x, **given), dense(*x, **given))
    x = inputs(dense, batch=0)
    for weights in (False, True):
        same(split(*x, None, weights, attend), dense(*x, None, weights, attend))


def test_self_attention_in_inference_mode_is_that_of_the_fast_path():
    dense, split = pair(batch_first=True)
    x = torch.randn(3, 5, 8)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    with torch.inference_mode():
        for given in ({}, {"need_weights": False}, {"key_padding_mask": padding}):
            same(split(x, x, x, **given), dense(x, x, x, **given))


def test_the_hint_that_a_mask_is_causal_is_taken_as_the_dense_one_takes_it():
    dense, split = pair()
    x = torch.randn(5, 3, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    padding = torch.zeros(3, 5)
    for given in ({}, {"key_padding_mask": padding}, {"need_weights": False}):
        given = dict(attn_mask=mask, is_causal=True, **given)
        same(split(x, x, x, **given), dense(x, x, x, **given))
    with pytest.raises(ValueError, match="hint about attn_mask"):
        split(x, x, x, is_causal=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_are_those_of_the_dense_one(name):
    dense, split = pair(packed=False, **OPTIONS[name])
    x = inputs(dense)
    for module in (dense, split):
        module(*x)[0].square().sum().backward()
    whole = {n: p.grad for n, p in dense.named_parameters()}
    back = split.to_dense()
    assert back.state_dict().keys() == dense.state_dict().keys()
    rows = [split.get_submodule(n).weight.grad for n in ("q_proj", "k_proj", "v_proj")]
    theirs = (
        whole["in_proj_weight"].chunk(3)
        if "in_proj_weight" in whole
        else [whole[f"{n}_proj_weight"] for n in "qkv"]
    )
    for one, other in zip(rows, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_back_to_dense_and_checkpoints_both_ways(name):
    dense, split = pair(**OPTIONS[name])
    back = split.to_dense()
    assert type(back) is nn.MultiheadAttention and not back.training
    for key, value in dense.state_dict().items():
        torch.testing.assert_close(back.state_dict()[key], value, rtol=0, atol=0)
    # A checkpoint of the dense one: of its weights, what is kept.
    other, _ = pair(seed=1, **OPTIONS[name])
    masks = {n: split.get_submodule(f"{n}_proj").mask() for n in "qkv"}
    split.load_state_dict(other.state_dict())
    state = other.state_dict()
    for number, letter in enumerate("qkv"):
        whole = state.get("in_proj_weight")
        weight = state[f"{letter}_proj_weight"] if whole is None else whole.chunk(3)[number]
        kept = split.get_submodule(f"{letter}_proj").to_dense().weight
        torch.testing.assert_close(kept, weight * masks[letter], rtol=0, atol=0)
    twin = copy.deepcopy(split)
    twin.load_state_dict(split.state_dict())
    x = inputs(dense)
    same(twin(*x), split(*x))


def test_a_checkpoint_inside_of_a_model_is_read_too_and_what_is_missing_is_told():
    dense, split = pair()
    model = nn.ModuleDict({"a": split, "b": nn.Linear(2, 2)})
    theirs = nn.ModuleDict({"a": dense, "b": nn.Linear(2, 2)}).state_dict()
    model.load_state_dict(theirs)
    del theirs["a.in_proj_bias"]
    with pytest.raises(RuntimeError, match=r"a\.q_proj\.bias"):
        model.load_state_dict(theirs)


def test_dropout_is_that_of_the_mode():
    _, split = pair(dropout=0.5)
    x = torch.randn(5, 3, 8)
    assert torch.equal(split(x, x, x)[0], split(x, x, x)[0])
    split.train()
    assert not torch.equal(split(x, x, x)[0], split(x, x, x)[0])
    assert not torch.equal(*(split(x, x, x, need_weights=False)[0] for _ in range(2)))


def test_what_it_refuses_is_said_in_words():
    class Own(nn.MultiheadAttention):
        pass

    _, split = pair(batch_first=True)
    assert "Own is not" in SplitMultiheadAttention.refuses(Own(8, 2))
    hooked = nn.MultiheadAttention(8, 2)
    hooked.register_forward_hook(lambda *_: None)
    assert "hooks" in SplitMultiheadAttention.refuses(hooked)
    exchanged = nn.MultiheadAttention(8, 2)
    exchanged.forward = exchanged.forward
    assert "exchanged" in SplitMultiheadAttention.refuses(exchanged)
    assert SplitMultiheadAttention.refuses(nn.MultiheadAttention(8, 2, kdim=3)) is None
    x = torch.randn(3, 5, 8)
    nested = torch.nested.nested_tensor([torch.randn(4, 8), torch.randn(2, 8)])
    with pytest.raises(ValueError, match="enable_nested_tensor=False"):
        split(nested, nested, nested)
    for given, words in (
        ({"attn_mask": torch.zeros(1, 5)}, "attn_mask must be"),
        ({"key_padding_mask": torch.zeros(5, 3)}, "key_padding_mask must be"),
        ({"attn_mask": torch.zeros(5, 5, dtype=torch.int)}, "bool or floating point"),
    ):
        with pytest.raises(ValueError, match=words):
            split(x, x, x, **given)
    with pytest.raises(ValueError, match="2 or 3 dimensions"):
        split(x, x[0], x[0])


def test_it_is_one_node_to_tracers_of_others():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = pair(batch_first=True)[1]

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    model, x = Model(), torch.randn(3, 5, 8)
    traced = fx.symbolic_trace(model)
    assert [n.target for n in traced.graph.nodes if n.op == "call_module"] == ["attention"]
    torch.testing.assert_close(traced(x), model(x))


def test_torch_compile_and_export_take_it():
    _, split = pair(batch_first=True)
    x = torch.randn(3, 5, 8)
    exported = torch.export.export(split, (x, x, x)).module()
    same(exported(x, x, x), split(x, x, x))
