"""Masks and state dicts of pruners, renamed, mixed up, cut off: read right, or refused."""

import copy
import os
import random
import tempfile
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import prune

import sparse_ops as so
from tests.fuzz import NoCase
from tests.sparsifier import sparsify

SIMPLER = {
    "tool": ["zeros", "prune", "structured", "ao", "ao squashed"],
    "wrap": ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."],
    "how": [],
}
# What changes nothing of what a state says, and what may.
HARMLESS = ("order", "half masks", "bool masks", "more names")
HARMFUL = (
    "drop", "rename", "cut", "transposed", "double", "nan", "values", "two masks", "integers",
    "empty", "not a tensor", "swap", "prefix of one", "mask of halves",
)  # fmt: skip
REFUSALS = (ValueError, RuntimeError)


def draw(chance):
    return {
        "seed": chance.randrange(10**6),
        "tool": chance.choice(SIMPLER["tool"]),
        "wrap": chance.choice(SIMPLER["wrap"]),
        "changes": [
            {"how": chance.choice(HARMLESS if chance.random() < 0.5 else HARMFUL),
             "at": chance.randrange(1000), "to": chance.randrange(1000)}
            for _ in range(chance.choice((0, 1, 1, 1, 2, 3)))
        ],
    }  # fmt: skip


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.block = nn.Sequential(nn.Conv2d(6, 4, 1, bias=False), nn.ReLU())
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.block(self.norm(self.conv(x))).mean((2, 3)))


LAYERS = ("conv", "block.0", "fc")


def pruned(case):
    """(a model with its masks left on it, what its state dict says, the plain weights, masks)."""
    model, tool = Net(), case["tool"]
    layers = [model.get_submodule(name) for name in LAYERS]
    if tool.startswith("ao"):
        sparsifier = sparsify(model, [f"{name}.weight" for name in LAYERS], 0.5)
        masks = {f"{n}.weight": m.parametrizations.weight[0].mask.bool().clone()
                 for n, m in zip(LAYERS, layers, strict=True)}  # fmt: skip
        state = model.state_dict() | dict(model.named_buffers())
        plain = {f"{n}.weight": m.weight.detach().clone()
                 for n, m in zip(LAYERS, layers, strict=True)}  # fmt: skip
        if tool == "ao squashed":
            sparsifier.squash_mask()
            state = model.state_dict()
        return state, plain, masks
    for layer in layers:
        if tool == "structured":
            prune.ln_structured(layer, "weight", 0.5, 2, 0)
        else:
            prune.random_unstructured(layer, "weight", 0.5)
    masks = {f"{n}.weight": layer.weight_mask.bool().clone()
             for n, layer in zip(LAYERS, layers, strict=True)}  # fmt: skip
    if tool == "zeros":
        for layer in layers:
            prune.remove(layer, "weight")
    plain = {f"{n}.weight": layer.weight.detach().clone()
             for n, layer in zip(LAYERS, layers, strict=True)}  # fmt: skip
    return model.state_dict(), plain, masks


def is_mask(name, value):
    return name.endswith("mask") and isinstance(value, torch.Tensor)


def changed(state, change):
    """The state with a change, and whether it may say something else now."""
    names, how = list(state), change["how"]
    if not names:
        return state, True
    chance = random.Random(change["to"])
    name = names[change["at"] % len(names)]
    other = names[change["to"] % len(names)]
    value = state[name]
    if how == "order":
        chance.shuffle(names)
        return OrderedDict((name, state[name]) for name in names), False
    if how in ("half masks", "bool masks"):
        dtype = torch.float16 if how == "half masks" else torch.bool
        return {n: t.to(dtype) if is_mask(n, t) else t for n, t in state.items()}, False
    if how == "more names":
        return state | {f"optimizer.{name}": value}, True
    state = dict(state)
    if not isinstance(value, torch.Tensor):
        raise NoCase
    if how == "drop":
        del state[name]
    elif how == "rename":
        del state[name]
        inner = name.replace("weight", "parametrizations.weight.original")
        names = (f"{name}_orig", f"{name}_mask", f"x.{name}", name[:-1], inner)
        state[chance.choice(names)] = value
    elif how == "swap":
        state[name], state[other] = state[other], value
    elif how == "cut":
        state[name] = value[: change["to"] % (len(value) + 1)] if value.dim() else value
    elif how == "transposed":
        state[name] = value.transpose(0, -1).contiguous() if value.dim() > 1 else value
    elif how == "double":
        state[name] = value.double()
    elif how == "integers":
        state[name] = value.to(torch.int64)
    elif how == "empty":
        state[name] = value.new_empty(0)
    elif how == "not a tensor":
        state[name] = chance.choice((None, 3, "x", [1.0], {}))
    elif how == "nan":
        state[name] = torch.full_like(value.float(), float("nan"))
    elif how == "values":
        state[name] = value.float() + 0.5
    elif how == "mask of halves":
        state = {n: t * 0.5 if is_mask(n, t) else t for n, t in state.items()}
    elif how == "two masks":
        state[f"{name.removesuffix('_orig').removesuffix('_mask')}_mask"] = torch.ones_like(value)
    else:
        state[f"module.{name}"] = state.pop(name)
    return state, True


def check(case):
    torch.manual_seed(case["seed"])
    state, plain, masks = pruned(case)
    state = {f"{case['wrap']}{name}": tensor for name, tensor in state.items()}
    open_to = False
    for change in case["changes"]:
        state, other = changed(state, change)
        open_to |= other
    before = {name: copy.deepcopy(value) for name, value in state.items()}
    model = Net().eval()
    try:
        found = so.masks.load_state_(model, state)
    except REFUSALS as error:
        assert len(str(error)) > 10
        assert open_to, f"refused: {error}"
        outcome = "refused"
    else:
        outcome = "read"
        check_read(model, found, None if open_to else plain, masks)
        if open_to:
            outcome = "read changed"
    assert list(before) == list(state), "the state itself was changed"
    return check_masks(case, masks, outcome)


def check_read(model, found, plain, masks):
    """What was read is of one piece; and what was written, where nothing was changed."""
    weights = so.masks.weights(model)
    so.masks.check(model, found)
    for name, mask in found.items():
        left = weights[name][~mask]
        assert not left[~left.isnan()].any(), f"{name} has weights where its mask has none"
    if plain is not None:
        for name, weight in plain.items():
            assert torch.equal(weights[name], weight), name
            assert torch.equal(found[name], masks[name]) or name not in found, name
    x = torch.randn(2, 3, 5, 6)
    with torch.no_grad():
        dense = model(x)
        masked = copy.deepcopy(model)
        so.masks.apply_(masked, found)
        assert torch.equal(masked(x).isnan(), dense.isnan())
        if not dense.isnan().any():
            assert torch.equal(masked(x), dense)


def check_masks(case, masks, outcome):
    """Masks as a file, renamed and cut like the state."""
    given = {f"{case['wrap']}{name}": mask for name, mask in masks.items()}
    open_to = bool(case["wrap"])
    for change in case["changes"]:
        given, other = changed(given, change)
        open_to |= other or change["how"] == "half masks"
    model = Net().eval()
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "masks.safetensors"
        try:
            so.masks.save(given, path)
            again = so.masks.load(path)
            so.masks.apply_(model, again)
        except (*REFUSALS, TypeError, AttributeError) as error:
            kinds = {type(mask) for mask in given.values()} - {torch.Tensor}
            assert isinstance(error, REFUSALS) or kinds, repr(error)
            assert open_to, f"masks refused: {error}"
            return outcome
    for name, mask in again.items():
        assert not model.get_parameter(name)[~mask].any(), name
    return outcome
