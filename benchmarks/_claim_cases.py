"""The networks that the claims speak of, each with the masks it is measured with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import _claim_masks as masks_
from benchmarks import _claim_training as training
from benchmarks._claim_masks import MakeMasks
from benchmarks._claim_measure import Pace
from benchmarks._claim_steps import filters_beside_weights
from sparse_ops import models
from sparse_ops.data import Dataset
from sparse_ops.masks import Masks
from sparse_ops.patterns import NAMED, PSD1_P16, PSD2_P8, Periodic
from sparse_ops.report import count_macs

COLOUR, GREY, GESTURE = (3, 32, 32), (1, 28, 28), (3, 128, 128)
Made = tuple[nn.Module, Masks, dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One sparse network.

    Attributes:
        network: a name in NETWORKS.
        masks: what makes its masks; None: it is trained.
        masked: how the masks came about, in words.
        batches: at which it is measured, the first of them as the claim has it.
        train: makes the network and its masks from images.
        steps: measures what training takes.
    """

    network: str
    masked: str
    batches: tuple[int, ...] = (1, 16)
    masks: MakeMasks | None = None
    train: Callable[[Callable[[], nn.Module], Dataset, Pace, Path], Made] | None = None
    steps: (
        Callable[[str, Callable[[], nn.Module], tuple[int, ...], Pace], dict[str, Any]] | None
    ) = None


def as_large_as(make: Callable[..., nn.Module], macs: int, shape: tuple[int, ...]) -> nn.Module:
    """What `make(in_channels=, width=)` builds of the width whose operations are nearest to `macs`.

    A network of so many multiply-accumulates on one image of the shape, as near as rounding lets.
    """
    example = torch.zeros(1, *shape)

    def built(width: float) -> nn.Module:
        return make(in_channels=shape[0], width=width)

    def off(width: float) -> int:
        return _macs(built(width), example) - macs

    # As the square of the width, but for what rounding does and the stem that stays.
    low = 0.9 * (macs / (off(1.0) + macs)) ** 0.5
    high = 1.15 * low / 0.9
    for _ in range(7):
        middle = (low + high) / 2
        low, high = (middle, high) if off(middle) < 0 else (low, middle)
    return built(min((low, high), key=lambda w: abs(off(w))))


def _macs(model: nn.Module, example: Tensor) -> int:
    return sum(layer.dense for layer in count_macs(model.eval(), example))


def as_large_as_resnet18(make: Callable[..., nn.Module], pattern: Periodic) -> nn.Module:
    """Of as many operations as ResNet18 keeps under the pattern, on grey images of 28×28."""
    resnet, example = models.resnet18(in_channels=1), torch.zeros(1, *GREY)
    masks_.on_pattern(pattern)(resnet, example)
    kept = sum(layer.kept for layer in count_macs(resnet.eval(), example))
    return as_large_as(make, kept, GREY)


# name -> what builds it, and what one of its images is. A test puts small ones here.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18": (models.resnet18, COLOUR),
    "vgg16": (models.vgg16, COLOUR),
    "vgg19": (models.vgg19, COLOUR),
    "resnet32": (models.resnet32, COLOUR),
    "resnet56": (models.resnet56, COLOUR),
    "lenet300": (models.lenet300, GREY),
    "lenet5": (models.lenet5, GREY),
    "vgg11-gestures": (partial(models.vgg11, 14), GESTURE),
    "mobilenet_v2-gestures": (partial(models.mobilenet_v2, 14, variant="imagenet"), GESTURE),
    "resnet18-grey": (partial(models.resnet18, in_channels=1), GREY),
    "mobilenet_v2-grey": (partial(models.mobilenet_v2, in_channels=1), GREY),
    "shufflenet-grey": (partial(as_large_as_resnet18, models.shufflenet_v1, PSD1_P16), GREY),
    "mobilenet_v2-wide-grey": (
        partial(as_large_as_resnet18, models.mobilenet_v2, PSD2_P8),
        GREY,
    ),
    "shufflenet-wide-grey": (partial(as_large_as_resnet18, models.shufflenet_v1, PSD2_P8), GREY),
}

ERK = "random, layer densities by ERK: the trained masks are not published"
# Dense networks that are as large as ResNet18 under a pattern. MobileNetV2 has about as many
# operations as under PSD1_P16 as it is, and is compared as it is, as published.
EQUALS = ("mobilenet_v2", "shufflenet")
# What names of cases have in them -> the pattern of ResNet18.
WIDTHS = {"": "PSD1_P16", "-wide": "PSD2_P8"}
# What a step of training takes is the same at all levels, and is measured with this one.
STEPS_WITH = "levels-weight-80"
SPRED = "by spred on Fashion-MNIST, {mode}s removed after training with {optimizer}"


def _cases() -> dict[str, Case]:
    found = {
        "psconv-resnet18": Case(
            "resnet18", "PSD1_P16, as published", masks=masks_.on_pattern(PSD1_P16)
        ),
        "psconv-vgg16": Case("vgg16", "PSD1_P16, as published", masks=masks_.on_pattern(PSD1_P16)),
        "sabr-vgg11": Case(
            "vgg11-gestures",
            "random, with the published sparsity of each layer",
            (1,),
            masks_.by_layer(masks_.SABR_VGG11),
        ),
        # Of 2,207,680 weights of convolutions and linear layers 85,939 are kept: what is left of
        # 97,747 without the 11,808 scales of BatchNorm among them.
        "sabr-mobilenet_v2": Case(
            "mobilenet_v2-gestures",
            "random, densities by the size of layers so that both published totals are met",
            (1,),
            masks_.by_totals(85_939 / 2_207_680, 14_339_101 / 97_811_968),
        ),
    }
    for mode in ("filter", "weight"):
        for level in training.LEVELS:
            name = f"levels-{mode}-{round(100 * level)}"
            found[name] = Case(
                "resnet18",
                f"the smallest {mode}s of each layer removed, not trained",
                masks=masks_.smallest(mode, level),
                steps=filters_beside_weights if name == STEPS_WITH else None,
            )
    for network in ("resnet32", "vgg19"):
        for percent in (90, 98, 99.5):
            made = masks_.erk(percent / 100)
            found[f"hypersparse-{network}-{percent}"] = Case(network, ERK, masks=made)
    for network, factor in (("resnet56", 10), ("lenet300", 60), ("lenet5", 125), ("lenet5", 300)):
        made = masks_.erk(1 - 1 / factor)
        found[f"gsm-{network}-{factor}x"] = Case(network, ERK, (1, 64), made)
    for mode, optimizers in (("filter", training.OPTIMIZERS), ("weight", ("sgd",))):
        for optimizer in optimizers:
            for level in training.LEVELS:
                found[f"spred-{mode}-{optimizer}-{round(100 * level)}"] = Case(
                    "resnet18-grey",
                    SPRED.format(mode=mode, optimizer=optimizer),
                    (16,),
                    train=_spred(mode, optimizer, level),
                )
    for wide, pattern in WIDTHS.items():
        found[f"equal{wide}-resnet18"] = Case(
            "resnet18-grey",
            f"{pattern}, trained on Fashion-MNIST",
            train=_predefined(NAMED[pattern], f"equal{wide}-resnet18"),
        )
        for name in EQUALS:
            found[f"equal{wide}-{name}"] = Case(
                f"{name}{wide}-grey",
                "none: trained dense",
                train=_predefined(None, f"equal{wide}-{name}"),
            )
    return found


def _spred(mode: str, optimizer: str, level: float) -> Any:
    return lambda build, *rest: training.spred(build, mode, optimizer, level, *rest)


def _predefined(pattern: Any, name: str) -> Any:
    return lambda build, *rest: training.predefined(build, pattern, name, *rest)


CASES = _cases()
