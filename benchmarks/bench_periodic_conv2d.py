"""periodic_conv2d on real layers, in each published pattern, against the fastest dense form."""

import pytest

from benchmarks._conv import race_conv
from benchmarks.layers import RESNET18_CIFAR, RESNET18_IMAGENET, VGG16_CIFAR
from sparse_ops.formats import PeriodicWeight
from sparse_ops.ops.periodic_conv2d import BACKENDS, periodic_conv2d
from sparse_ops.patterns import NAMED

SHOWN = [(layer, "PSD2_P8", 8, BACKENDS[0]) for layer in RESNET18_CIFAR]
FULL = [
    (layer, pattern, batch, backend)
    for layer in RESNET18_CIFAR + VGG16_CIFAR + RESNET18_IMAGENET
    for pattern in NAMED
    for batch in (1, 8, 32)
    for backend in BACKENDS[:-1]
    if (layer, pattern, batch, backend) not in SHOWN
]


@pytest.mark.parametrize(
    ("layer", "pattern", "batch", "backend"),
    SHOWN + [pytest.param(*case, marks=pytest.mark.full) for case in FULL],
)
def bench_periodic_conv2d(race, layer, pattern, batch, backend):
    mask = NAMED[pattern].mask((layer.filters, layer.channels, 3, 3))
    race_conv(
        race, "periodic", backend, periodic_conv2d, PeriodicWeight, layer, mask, batch, pattern
    )
