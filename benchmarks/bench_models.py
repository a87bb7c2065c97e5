"""All sparse layers of a network one after the other, each as often as the network has it.

The sum that a whole network gains from its 3×3 convolutions (MobileNetV2: its 1×1): both sides run
every layer, alone, in the form that is fastest for it. What lies between layers is not in it;
`sparse-ops bench` and `sparse-ops claims` measure whole networks.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks._conv import packed_forms
from benchmarks.bench_channel_pruned_conv2d import evenly
from benchmarks.conftest import fastest
from benchmarks.dense import conv2d_forms
from benchmarks.layers import (
    MOBILENET_V2_CIFAR,
    RESNET18_CIFAR,
    RESNET18_IMAGENET,
    RESNET32_CIFAR,
    RESNET56_CIFAR,
    VGG11_GESTURES,
    VGG16_CIFAR,
    VGG19_CIFAR,
    Conv,
)
from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.functional import channel_pruned_conv2d, csr_conv2d, periodic_conv2d
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
SHOWN = [("resnet18-cifar", kind, what, batch) for kind, what in WHAT for batch in (1, 16)]
FULL = [
    (network, kind, what, batch)
    for network in NETWORKS
    for kind, what in WHAT
    for batch in (1, 16, 64)
    if (network, kind, what, batch) not in SHOWN
    # The patterns are for kernels of 3×3.
    and (kind != "periodic" or NETWORKS[network][0].kernel == 3)
]


def mask_of(kind: str, what: str, layer: Conv, generator: torch.Generator) -> Tensor:
    """The layer's mask: a named pattern, a sparsity, or a part of the channels removed."""
    shape = (layer.filters, layer.channels, layer.kernel, layer.kernel)
    if kind == "periodic":
        return NAMED[what].mask(shape)
    part = float(what.split("%")[0]) / 100
    if kind == "csr":
        return torch.rand(shape, generator=generator) >= part
    return Channels(evenly(layer.filters, part), evenly(layer.channels, part)).mask(shape)


def in_turn(calls: list[Call]) -> Call:
    """Runs all calls; the output is the last one's."""

    def run() -> Tensor:
        for call in calls:
            y = call()
        return y

    return run


@pytest.mark.parametrize(
    ("network", "kind", "what", "batch"),
    SHOWN + [pytest.param(*case, marks=pytest.mark.full) for case in FULL],
)
def bench_models(race, network, kind, what, batch):
    generator = torch.Generator().manual_seed(0)
    run, form = KINDS[kind]
    dense: list[Call] = []
    packed: list[Call] = []
    kept = weights = macs = moved = 0
    for layer in NETWORKS[network]:
        mask = mask_of(kind, what, layer, generator)
        padding = layer.kernel // 2
        x = torch.randn(batch, layer.channels, layer.size, layer.size, generator=generator)
        weight = torch.randn(mask.shape, generator=generator) * mask
        bias = torch.randn(layer.filters, generator=generator)
        exact = F.conv2d(x.double(), weight.double(), bias.double(), layer.stride, padding)
        with torch.inference_mode(), denormals_flushed():
            ours = packed_forms(run, x, form.pack(weight, mask), bias, layer, "auto")
            for call in ours.values():
                assert (call().double() - exact).abs().max() < 1e-4 * exact.abs().max(), layer
            theirs = conv2d_forms(x, weight, bias, layer.stride, padding)
            packed += [ours[fastest(ours)]] * layer.times
            dense += [theirs[fastest(theirs)]] * layer.times
        density = mask.float().mean().item()
        kept += int(mask.sum()) * layer.times
        weights += mask.numel() * layer.times
        macs += layer.times * layer.macs * batch * density
        moved += layer.times * 4 * (x.numel() + exact.numel() + int(mask.sum()))
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
        moved,
    )
