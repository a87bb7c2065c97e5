"""periodic_conv2d on real layers, in each published pattern, against the fastest dense form.

On a card, also with the channels of each class side by side, as in a model whose channels the
converter has sorted: the weight is a CSRWeight then.
"""

import pytest

from benchmarks._conv import race_conv
from benchmarks._device import ON_CARD, for_card
from benchmarks._gpu_packs import side_by_side
from benchmarks.layers import RESNET18_CIFAR, RESNET18_IMAGENET, VGG16_CIFAR
from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.ops import csr_conv2d
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

CARD = [
    (layer, pattern, batch, backend)
    for layer in RESNET18_IMAGENET
    for name in ("PSD2_P8", "PSD1_P8", "PSD4_P16")
    for pattern in (name, f"{name} sorted")
    for batch in (256, 32)
    for backend in for_card(csr_conv2d.BACKENDS if "sorted" in pattern else BACKENDS, ON_CARD[:-1])
]


@pytest.mark.parametrize(
    ("layer", "pattern", "batch", "backend"),
    SHOWN
    + [pytest.param(*case, marks=pytest.mark.full) for case in FULL]
    + [pytest.param(*case, marks=pytest.mark.on_card) for case in CARD],
)
def bench_periodic_conv2d(race, layer, pattern, batch, backend):
    layer, batch = race.place.small(layer, batch)
    name, _, beside = pattern.partition(" ")
    mask = NAMED[name].mask((layer.filters, layer.channels, 3, 3))
    if beside:
        mask, run = side_by_side(mask, NAMED[name].period), csr_conv2d.csr_conv2d
        race_conv(race, "periodic", backend, run, CSRWeight, layer, mask, batch, pattern)
        return
    race_conv(
        race, "periodic", backend, periodic_conv2d, PeriodicWeight, layer, mask, batch, pattern
    )
