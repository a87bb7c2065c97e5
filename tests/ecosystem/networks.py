"""Other people's networks, without weights, and random masks for them."""

import importlib

import pytest
import torch

import sparse_ops as so

TORCHVISION = (
    "resnet18",
    "resnet50",
    "vgg16_bn",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "densenet121",
    "efficientnet_b0",
    "convnext_tiny",
)
TIMM = (
    "resnet18",
    "resnet50",
    "vgg16_bn",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "densenet121",
    "efficientnet_b0",
    "convnext_tiny",
)
NAMES = [f"torchvision.{name}" for name in TORCHVISION] + [f"timm.{name}" for name in TIMM]
# By turns; everything removed comes late and seldom, or nothing would reach the output.
SPARSITIES = (0.0, 0.5, 0.9, 0.99, 0.5, 0.9, 0.0, 0.99, 0.5, 0.9, 1.0)


def torchvision():
    """torchvision, or a skip. Its compiled operators may be for another torch: none is needed."""
    pytest.importorskip("PIL", reason="torchvision needs pillow")
    for name in ("nms", "qnms"):
        # Its import gives these operators fakes, and fails where they are not defined.
        if not hasattr(torch.ops.torchvision, name):
            schema = f"torchvision::{name}(Tensor dets, Tensor scores, float t) -> Tensor"
            torch.library.define(schema.split("(")[0], f"({schema.split('(', 1)[1]}")
    return pytest.importorskip("torchvision", reason='needs the extra "ecosystem": torchvision')


def build(name, **options):
    """A network in eval mode, by "package.name"; skips the test if the package is not there."""
    package, _, model = name.partition(".")
    torch.manual_seed(0)
    vision = torchvision()
    if package == "torchvision":
        return vision.models.get_model(model, weights=None, **options).eval()
    pytest.importorskip("timm", reason='needs the extra "ecosystem": timm')
    return importlib.import_module("timm").create_model(model, **options).eval()


@torch.no_grad()
def lively_(model):
    """Gives every norm statistics, scales and shifts that are not those it starts with."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)
        elif isinstance(module, torch.nn.LayerNorm):
            module.bias.normal_(0, 0.3)
    return model


def random_masks(model, kind, density=0.1):
    """Masks for all Conv2d and Linear: "unstructured", "channels", or "mixed" by turns; or "every"
    sparsity by turns, from nothing to everything."""
    masks = {}
    found = so.masks.weights(model)
    for number, (name, weight) in enumerate(found.items()):
        if kind == "every":
            # The last layer keeps something: without it there is nothing to compare.
            last = number == len(found) - 1
            sparsity = 0.5 if last else SPARSITIES[number % len(SPARSITIES)]
            masks[name] = torch.rand_like(weight) >= sparsity
            continue
        this = kind if kind != "mixed" else ("unstructured", "channels", "dense")[number % 3]
        if this == "dense":
            continue
        if this == "unstructured":
            mask = torch.rand_like(weight) < density
        else:
            mask = torch.ones_like(weight, dtype=torch.bool)
            mask[torch.rand(len(weight)) > 0.5] = False
            mask[:, torch.rand(weight.shape[1]) > 0.5] = False
        # Something is left: what a layer without weights becomes is another test's.
        mask.view(-1)[0] = True
        masks[name] = mask
    return masks
