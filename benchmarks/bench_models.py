"""All sparse layers of a network one after the other, each as often as the network has it.

The sum that a whole network gains from its 3×3 convolutions (MobileNetV2 and ShuffleNet: its 1×1;
LeNet: all but the first, and the linear layers): both sides run every layer, alone, in the form
that is fastest for it. What lies between layers is not in it; `sparse-ops bench` and
`sparse-ops claims` measure whole networks.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks._conv import packed_forms
from benchmarks.bench_channel_pruned_conv2d import evenly
from benchmarks.conftest import fastest
from benchmarks.dense import conv2d_forms, linear_forms
from benchmarks.layers import (
    LENET5,
    LENET300,
    MOBILENET_V2_CIFAR,
    MOBILENET_V2_GESTURES,
    RESNET18_CIFAR,
    RESNET18_IMAGENET,
    RESNET32_CIFAR,
    RESNET56_CIFAR,
    SHUFFLENET_CIFAR,
    VGG11_GESTURES,
    VGG16_CIFAR,
    VGG19_CIFAR,
    Conv,
    Linear,
)
from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.functional import channel_pruned_conv2d, csr_conv2d, csr_linear, periodic_conv2d
from sparse_ops.patterns import NAMED, Channels
from sparse_ops.planning.measure import denormals_flushed

Call = Callable[[], Tensor]

NETWORKS = {
    layers[0].network: layers
    for layers in (
        RESNET18_CIFAR,
        VGG16_CIFAR,
        RESNET18_IMAGENET,
        VGG19_CIFAR,
        VGG11_GESTURES,
        RESNET32_CIFAR,
        RESNET56_CIFAR,
        MOBILENET_V2_CIFAR,
        MOBILENET_V2_GESTURES,
        SHUFFLENET_CIFAR,
        LENET5,
        LENET300,
    )
}
KINDS = {
    "periodic": (periodic_conv2d, PeriodicWeight),
    "csr": (csr_conv2d, CSRWeight),
    "channels": (channel_pruned_conv2d, ChannelPrunedWeight),
}
WHAT = [
    ("periodic", "PSD2_P8"),
    ("periodic", "PSD1_P8"),
    ("csr", "90.0%"),
    ("csr", "95.0%"),
    ("csr", "98.0%"),
    ("channels", "50% removed"),
    ("channels", "80% removed"),
]


def takes(kind: str, layer: Conv | Linear) -> bool:
    """Whether there is a format of the kind for the layer: the patterns are for kernels of 3×3."""
    if kind == "csr":
        return True
    ungrouped = isinstance(layer, Conv) and layer.groups == 1
    return ungrouped and (kind != "periodic" or layer.kernel == 3)


SHOWN = [("resnet18-cifar", kind, what, batch) for kind, what in WHAT for batch in (1, 16)]
FULL = [
    (network, kind, what, batch)
    for network in NETWORKS
    for kind, what in WHAT
    for batch in (1, 16, 64)
    if (network, kind, what, batch) not in SHOWN and all(takes(kind, l) for l in NETWORKS[network])
]


def mask_of(kind: str, what: str, layer: Conv | Linear, generator: torch.Generator) -> Tensor:
    """The layer's mask: a named pattern, a sparsity, or a part of the channels removed."""
    shape = layer.shape
    if kind == "periodic":
        return NAMED[what].mask(shape)
    part = float(what.split("%")[0]) / 100
    if kind == "csr":
        return torch.rand(shape, generator=generator) >= part
    filters, channels = shape[:2]
    return Channels(evenly(filters, part), evenly(channels, part)).mask(shape)


def in_turn(calls: list[Call]) -> Call:
    """Runs all calls; the output is the last one's."""

    def run() -> Tensor:
        for call in calls:
            y = call()
        return y

    return run


def sides(
    kind: str, what: str, layer: Conv | Linear, batch: int, generator: torch.Generator
) -> tuple[Call, Call, Tensor, Tensor, int]:
    """(dense, packed) calls of a layer, each in its fastest form; the mask, the float64 result, and
    how many elements the packed one moves.

    Raises:
        AssertionError: a packed form is off by more than 1e-4 of the largest output.
    """
    mask = mask_of(kind, what, layer, generator)
    weight = torch.randn(mask.shape, generator=generator) * mask
    bias = torch.randn(len(weight), generator=generator)
    if isinstance(layer, Linear):
        x = torch.randn(batch, layer.in_features, generator=generator)
        exact = F.linear(x.double(), weight.double(), bias.double())
        packed = CSRWeight.pack(weight, mask)
        ours: dict[str, Call] = {"rows": lambda: csr_linear(x, packed, bias)}
        theirs = linear_forms(x, weight, bias)
    else:
        x = torch.randn(batch, layer.channels, layer.size, layer.size, generator=generator)
        steps = layer.stride, layer.padding
        exact = F.conv2d(x.double(), weight.double(), bias.double(), *steps, groups=layer.groups)
        run, form = KINDS[kind]
        ours = packed_forms(run, x, form.pack(weight, mask), bias, layer, "auto")
        theirs = conv2d_forms(x, weight, bias, *steps, groups=layer.groups)
    for call in ours.values():
        assert (call().double() - exact).abs().max() < 1e-4 * exact.abs().max(), layer
    moved = x.numel() + exact.numel() + int(mask.sum())
    return theirs[fastest(theirs)], ours[fastest(ours)], mask, exact, moved


@pytest.mark.parametrize(
    ("network", "kind", "what", "batch"),
    SHOWN + [pytest.param(*case, marks=pytest.mark.full) for case in FULL],
)
def bench_models(race, network, kind, what, batch):
    generator = torch.Generator().manual_seed(0)
    dense: list[Call] = []
    packed: list[Call] = []
    kept = weights = macs = bytes_moved = 0
    for layer in NETWORKS[network]:
        with torch.inference_mode(), denormals_flushed():
            theirs, ours, mask, exact, moved = sides(kind, what, layer, batch, generator)
        dense += [theirs] * layer.times
        packed += [ours] * layer.times
        kept += int(mask.sum()) * layer.times
        weights += mask.numel() * layer.times
        macs += layer.times * layer.macs * batch * mask.float().mean().item()
        bytes_moved += layer.times * 4 * moved
    total = sum(layer.macs * layer.times for layer in NETWORKS[network]) * batch
    race(
        {
            "operator": kind,
            "network": network,
            "layer": f"all of {network}",
            "what": what,
            "backend": "auto",
            "batch": batch,
            "kept": kept / weights,
            "ideal": total / macs,
        },
        {"each its fastest": in_turn(dense)},
        {"each its fastest": in_turn(packed)},
        exact,
        int(macs),
        bytes_moved,
    )
