"""Decisions of the planner for our own networks under a clock to which packed is twice as fast.

python -m tests.convert.golden       adds to golden.json what each layer becomes, and its channels

`test_golden.py` compares with that file, so that a change of decisions is seen and has a reason.
"""

import json
from pathlib import Path

import torch
from torch import nn

import sparse_ops as so
from tests.convert.models import says

FILE = Path(__file__).with_suffix(".json")
IMAGES = {"lenet300": (1, 28, 28), "lenet5": (1, 28, 28), "small_vgg": (1, 28, 28)}
KINDS = ("unstructured", "periodic", "filters")


def network(name):
    """A network in eval mode whose BatchNorms have seen something, and its example."""
    torch.manual_seed(0)
    options = {} if name != "small_vgg" else {"width": 8}
    model = so.models.MODELS[name](num_classes=10, **options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model, torch.randn(1, *IMAGES.get(name, (3, 32, 32)))


def masks_of(model, kind):
    """Masks of one kind for the layers that it fits; every fourth layer stays as it is."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for place, (name, weight) in enumerate(so.masks.weights(model).items()):
        shape = tuple(weight.shape)
        conv = len(shape) == 4
        if place % 4 == 3:
            continue
        if kind == "unstructured":
            found[name] = torch.rand(shape, generator=generator) < 0.1
        elif kind == "periodic" and conv and shape[2:] == (3, 3) and shape[0] >= 8 and shape[1] > 1:
            found[name] = so.patterns.PSD2_P8.mask(shape)
        elif kind == "filters" and conv and shape[0] > 10:
            found[name] = torch.ones(shape, dtype=torch.bool)
            found[name][torch.rand(shape[0], generator=generator) < 0.5] = False
    return found


def decisions(name, kind):
    """Layer -> what it becomes, its weight's shape after shrinking, whether it is a constant."""
    model, example = network(name)
    masks = masks_of(model, kind)
    plan = so.plan(model, example, masks, measure=says(2.0), progress=False)
    return {
        layer.name: [layer.becomes, list(layer.left or layer.shape), layer.constant]
        for layer in plan.layers
    }


CASES = [(name, kind) for name in so.models.MODELS for kind in KINDS]


if __name__ == "__main__":
    # What is recorded stays: a change of decisions has to be looked at.
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name, kind in CASES:
        if f"{name} {kind}" not in found:
            found[f"{name} {kind}"] = decisions(name, kind)
    FILE.write_text(json.dumps(found, separators=(",", ":")) + "\n")
