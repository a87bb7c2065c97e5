"""State dicts as others name them: their layers, in their order, come to ours, or are refused.

What the authors call their layers, and in which order they define them, was read in their code.
"""

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sparse_ops.models import MODELS, lenet5, lenet300, resnet18, resnet32, resnet56, vgg16
from sparse_ops.models.names import gsm_state, matched


def drawn(model: nn.Module) -> nn.Module:
    """With numbers that tell every parameter and buffer from every other."""
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.rand(value.shape) if value.is_floating_point() else torch.tensor(3))
    return model


def theirs(model: nn.Module, rename: Callable[[str], str]) -> dict[str, torch.Tensor]:
    return {rename(name): value.clone() for name, value in model.state_dict().items()}


def hypersparse_resnet(name: str) -> str:
    """layer1.0.conv1.weight, layer1.0.bn1.weight, layer2.0.downsample.0.weight, fc.weight."""
    name = name.replace("stage", "layer").replace("linear", "fc")
    name = re.sub(r"conv(\d)\.conv\.", r"conv\1.", name)
    name = re.sub(r"conv(\d)\.bn\.", r"bn\1.", name)
    return name.replace("shortcut.conv", "downsample.0").replace("shortcut.bn", "downsample.1")


def kuangliu_mobilenet(name: str) -> str:
    """layers.3.conv2.weight, layers.3.bn2.weight, layers.3.shortcut.0.weight, linear.weight."""
    inner = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
    if name.startswith("features.0."):
        return name.replace("features.0.0", "conv1").replace("features.0.1", "bn1")
    if name.startswith("classifier.1"):
        return name.replace("classifier.1", "linear")
    head, tail = re.match(r"features\.(\d+)\.(.*)", name).groups()
    if head == "18":
        return tail.replace("0.", "conv2.", 1) if tail.startswith("0.") else "bn2" + tail[1:]
    tail = re.sub(r"^body\.(\d)", lambda m: inner[m[1]], tail)
    return f"layers.{int(head) - 1}.{tail}"


def plain_classifier(name: str) -> str:
    return name.replace("classifier.0", "classifier")


AUTHORS = {
    "GSM, LeNet-300-100": (lenet300, lambda n: n.replace("fc", "linear")),
    "GSM, LeNet-5": (lenet5, lambda n: n.replace("fc", "linear").replace("conv", "stem.conv")),
    "GSM, ResNet-56": (resnet56, lambda n: n),
    "HyperSparse, ResNet32": (resnet32, hypersparse_resnet),
    "HyperSparse, VGG19": (MODELS["vgg19"], plain_classifier),
    "pre-defined, VGG16": (vgg16, plain_classifier),
    "pre-defined, MobileNetV2": (MODELS["mobilenet_v2"], kuangliu_mobilenet),
    "SABR, VGG11": (lambda: MODELS["vgg11"](14, hidden=16), lambda n: n),
    "SABR, MobileNetV2": (lambda: MODELS["mobilenet_v2"](14, variant="imagenet"), lambda n: n),
    "kuangliu, ResNet18": (
        resnet18,
        lambda n: n.replace("downsample", "shortcut").replace("fc", "linear"),
    ),
    "in processes": (resnet18, lambda n: f"module.{n}"),
    "compiled": (lenet300, lambda n: f"_orig_mod.{n}"),
}


@pytest.mark.parametrize("case", AUTHORS)
def test_checkpoints_of_authors_come_to_our_names(case):
    make, rename = AUTHORS[case]
    model = drawn(make())
    match = matched(make(), theirs(model, rename))
    assert list(match.state) == list(model.state_dict()) or match.how == "by name"
    for name, value in model.state_dict().items():
        assert torch.equal(match.state[name], value), name
    named_alike = {"GSM, ResNet-56", "SABR, VGG11", "SABR, MobileNetV2", "in processes", "compiled"}
    assert (match.how == "by name") == (case in named_alike) == (not match.renamed)


def test_a_file_in_the_order_of_the_alphabet_is_read_by_its_names():
    """As HDF5 gives its entries: linear1 before stem.conv1."""
    model = drawn(lenet5())
    state = gsm_state("lenet5", model.state_dict())
    assert sorted(state)[0] == "linear1.bias" and "stem.conv2.weight" in state
    match = matched(lenet5(), {name: state[name] for name in sorted(state)})
    assert match.how == "by GSM's names" and match.renamed["stem.conv1"] == "conv1"
    assert all(torch.equal(match.state[n], v) for n, v in model.state_dict().items())
    # Networks whose names are theirs already, and those they have no names for.
    other = resnet56().state_dict()
    assert list(gsm_state("resnet56", other)) == list(other)


def test_a_shortcut_may_be_defined_before_the_rest_of_its_block():
    model = drawn(resnet18())
    state = model.state_dict()
    # Block by block, which a name begins with; sorting keeps the order of the rest.
    blocks = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in state))
    order = sorted(
        state, key=lambda n: (blocks.index(".".join(n.split(".")[:2])), "downsample" not in n)
    )
    assert order != list(state)
    match = matched(resnet18(), {n.replace("downsample", "side"): state[n] for n in order})
    assert match.how.startswith("by shape")
    assert all(torch.equal(match.state[n], value) for n, value in state.items())


def test_batch_norms_that_count_nothing_are_read():
    model = drawn(resnet32())
    state = {n: v for n, v in theirs(model, hypersparse_resnet).items() if "num_batches" not in n}
    match = matched(resnet32(), state)
    for name, value in match.state.items():
        assert torch.equal(value, model.state_dict()[name])
    assert {n for n in model.state_dict() if n not in match.state} == {
        n for n in model.state_dict() if "num_batches" in n
    }


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lambda: lenet5().state_dict(), r"has no layer for fc1 of \(300, 784\)"),
        (
            lambda: {**lenet300().state_dict(), "more.weight": torch.ones(2)},
            "no place for more.weight .1 of 7 entries",
        ),
        (lambda: lenet300(5).state_dict(), r"no layer for fc3 of \(10, 100\)"),
        (dict, "no layer for fc1"),
    ],
)
def test_a_state_of_another_network_is_refused(state, words):
    with pytest.raises(ValueError, match=words):
        matched(lenet300(), state())
