"""channel_pruned_conv2d on real layers, channels removed evenly, against the fastest dense form."""

import pytest

from benchmarks._conv import race_conv
from benchmarks._device import for_card
from benchmarks.layers import RESNET18_CIFAR, RESNET18_IMAGENET
from sparse_ops.formats import ChannelPrunedWeight
from sparse_ops.ops.channel_pruned_conv2d import BACKENDS, channel_pruned_conv2d
from sparse_ops.patterns import Channels

SHOWN = [(layer, 0.8, 1, backend) for layer in RESNET18_CIFAR for backend in BACKENDS[:2]]
FULL = [
    (layer, removed, batch, backend)
    for layer in RESNET18_CIFAR + RESNET18_IMAGENET
    for removed in (0.2, 0.5, 0.8)
    for batch in (1, 8, 32)
    for backend in BACKENDS[:-1]
    if (layer, removed, batch, backend) not in SHOWN
]
CARD = [
    (layer, 0.5, batch, backend)
    for layer in RESNET18_IMAGENET
    for batch in (256, 32)
    for backend in for_card(BACKENDS, ["triton"])
]


def evenly(size: int, removed: float) -> tuple[int, ...]:
    """The channels that stay when a fraction goes, spread over all of them."""
    left = max(1, round(size * (1 - removed)))
    return tuple(int(i * size / left) for i in range(left))


@pytest.mark.parametrize(
    ("layer", "removed", "batch", "backend"),
    SHOWN
    + [pytest.param(*case, marks=pytest.mark.full) for case in FULL]
    + [pytest.param(*case, marks=pytest.mark.on_card) for case in CARD],
)
def bench_channel_pruned_conv2d(race, layer, removed, batch, backend):
    layer, batch = race.place.small(layer, batch)
    pattern = Channels(evenly(layer.filters, removed), evenly(layer.channels, removed))
    mask = pattern.mask((layer.filters, layer.channels, layer.kernel, layer.kernel))
    race_conv(
        race, "channels", backend, channel_pruned_conv2d, ChannelPrunedWeight, layer, mask, batch,
        f"{removed:.0%} removed",
    )  # fmt: skip
