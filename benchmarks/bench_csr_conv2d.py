"""csr_conv2d on real layers, pruned at random, against the fastest dense form."""

import pytest
import torch

from benchmarks._conv import race_conv
from benchmarks._device import for_card
from benchmarks.layers import RESNET18_CIFAR, RESNET18_IMAGENET, VGG16_CIFAR
from sparse_ops.formats import CSRWeight
from sparse_ops.ops.csr_conv2d import BACKENDS, csr_conv2d

SHOWN = [(layer, 0.95, batch, BACKENDS[0]) for layer in RESNET18_CIFAR for batch in (1, 16)]
FULL = [
    (layer, sparsity, batch, backend)
    for layer in RESNET18_CIFAR + VGG16_CIFAR + RESNET18_IMAGENET
    for sparsity in (0.8, 0.9, 0.95, 0.98, 0.995)
    for batch in (1, 8, 32)
    for backend in BACKENDS[:-1]
    if (layer, sparsity, batch, backend) not in SHOWN
]
CARD = [
    (layer, sparsity, batch, backend)
    for layer in RESNET18_IMAGENET
    for sparsity in (0.95, 0.99)
    for batch in (256, 32)
    for backend in for_card(BACKENDS, ["triton"])
]


@pytest.mark.parametrize(
    ("layer", "sparsity", "batch", "backend"),
    SHOWN
    + [pytest.param(*case, marks=pytest.mark.full) for case in FULL]
    + [pytest.param(*case, marks=pytest.mark.on_card) for case in CARD],
)
def bench_csr_conv2d(race, layer, sparsity, batch, backend):
    layer, batch = race.place.small(layer, batch)
    shape = (layer.filters, layer.channels, layer.kernel, layer.kernel)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) >= sparsity
    race_conv(race, "csr", backend, csr_conv2d, CSRWeight, layer, mask, batch, f"{sparsity:.1%}")
