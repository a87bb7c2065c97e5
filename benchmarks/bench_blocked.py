"""Packed layers on images in blocks, as they are within a stretch of a network.

`bench_layer`: one layer, whose input is blocked already and whose output stays so; against the
fastest dense form in its own layout. `bench_chain`: all 3×3 convolutions of a network one after
the other on each other's outputs, ReLU and pooling between them, the way into blocks and out of
them included; against the dense ones, likewise.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.bench_models import mask_of
from benchmarks.dense import conv2d_forms, conv2d_runs
from benchmarks.layers import RESNET18_CIFAR, RESNET18_IMAGENET, VGG16_CIFAR, Conv
from sparse_ops.nn import ChannelPrunedConv2d, CSRConv2d, PeriodicConv2d
from sparse_ops.ops import _native, blocked

Call = Callable[[], Tensor]
pytestmark = pytest.mark.skipif(_native.MISSING is not None, reason=str(_native.MISSING))

KINDS = {"periodic": PeriodicConv2d, "csr": CSRConv2d, "channels": ChannelPrunedConv2d}
WHAT = [
    ("periodic", "PS1_P9"),
    ("periodic", "PSD1_P8"),
    ("periodic", "PSD2_P8"),
    ("periodic", "PSD4_P16"),
    ("csr", "90.0%"),
    ("csr", "95.0%"),
    ("csr", "98.0%"),
    ("channels", "50% removed"),
    ("channels", "0% removed"),
]
LAYERS = [RESNET18_CIFAR[i] for i in (0, 1, 2, 4, 6)]
NETWORKS = {
    layers[0].network: layers for layers in (RESNET18_CIFAR, VGG16_CIFAR, RESNET18_IMAGENET)
}

SHOWN = [("resnet18-cifar", 16), ("vgg16-cifar", 16)]


def packed_layer(kind: str, what: str, layer: Conv, generator: torch.Generator) -> nn.Module:
    """A packed layer with random weights of which ReLU keeps the scale, ReLU after it."""
    conv = nn.Conv2d(layer.channels, layer.filters, layer.kernel, layer.stride, layer.kernel // 2)
    mask = mask_of(kind, what, layer, generator)
    with torch.no_grad():
        each = mask.sum((1, 2, 3)).clamp(min=1).rsqrt().mul(2**0.5)
        conv.weight.copy_(torch.randn(mask.shape, generator=generator) * mask)
        conv.weight.mul_(each[:, None, None, None])
        conv.bias.copy_(torch.randn(layer.filters, generator=generator) * 0.1)
    made: nn.Module = KINDS[kind].from_dense(conv, mask, activation="relu")
    return made.requires_grad_(False)


def row_of(kind: str, what: str, batch: int, layers: list[Conv], packed: list) -> dict:
    total = sum(layer.macs * layer.times for layer in layers)
    pairs = list(zip(layers, packed, strict=True))
    kept = sum(layer.macs * layer.times * (1 - own.sparsity) for layer, own in pairs)
    weights = sum(layer.times * own.mask().numel() for layer, own in pairs)
    return {
        "operator": kind,
        "network": layers[0].network,
        "layer": layers[0].label if len(layers) == 1 else f"chain of {layers[0].network}",
        "what": what,
        "backend": "auto",
        "batch": batch,
        "kept": sum(layer.times * own.nnz for layer, own in pairs) / weights,
        "ideal": total / kept,
    }


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.label)
@pytest.mark.parametrize(("kind", "what"), WHAT)
def bench_layer(race, kind, what, layer, batch=16):
    generator = torch.Generator().manual_seed(0)
    packed = packed_layer(kind, what, layer, generator)
    conv = packed.to_dense()[0].requires_grad_(False)
    x = torch.randn(batch, layer.channels, layer.size, layer.size, generator=generator)
    padding = layer.kernel // 2
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), layer.stride, padding)
    with torch.inference_mode():
        inside = blocked.to_blocked(x, padding)
        ours = packed(inside, halos=(padding, padding, 0))
        error = blocked.from_blocked(ours, padding, batch).double() - exact.relu()
        assert error.abs().max() < 1e-4 * exact.abs().max()
    macs = layer.macs * batch * (1 - packed.sparsity)
    race(
        row_of(kind, what, batch, [layer], [packed]),
        conv2d_forms(x, conv.weight, conv.bias, layer.stride, padding, "relu"),
        {"blocked": lambda: packed(inside, halos=(padding, padding, 0))},
        ours.double(),
        int(macs),
        4 * (x.numel() + exact.numel() + packed.nnz),
    )


def dense_chain(x: Tensor, steps: list, form: str) -> Tensor:
    """The convolutions, each with its ReLU, pooling before those whose images are smaller."""
    for pools, run in steps:
        x = run[form](F.max_pool2d(x, 2) if pools else x)
    return x


def packed_chain(x: Tensor, steps: list) -> Tensor:
    y = blocked.enter(x, 1)
    for pools, layer in steps:
        y = blocked.max_pool2d(y, (2, 2), (2, 2), (0, 0), 1, 1) if pools else y
        y = layer(y, halos=(1, 1, 0))
    return blocked.leave(y, 1, x)


@pytest.mark.parametrize(
    ("network", "batch"),
    [
        *SHOWN,
        *(
            pytest.param(network, batch, marks=pytest.mark.full)
            for network in NETWORKS
            for batch in (16, 32, 64)
            if (network, batch) not in SHOWN
        ),
    ],
)
@pytest.mark.parametrize(("kind", "what"), WHAT)
def bench_chain(race, network, kind, what, batch):
    generator = torch.Generator().manual_seed(0)
    layers = NETWORKS[network]
    packed = [packed_layer(kind, what, layer, generator) for layer in layers]
    x = torch.randn(batch, layers[0].channels, layers[0].size, layers[0].size, generator=generator)
    last = x.contiguous(memory_format=torch.channels_last)
    ours: list = []
    theirs: list = []
    exact, size, moved = x.double(), layers[0].size, 0
    for layer, own in zip(layers, packed, strict=True):
        conv = own.to_dense()[0].requires_grad_(False)
        example = torch.randn(batch, layer.channels, layer.size, layer.size, generator=generator)
        padding = layer.kernel // 2
        runs = conv2d_runs(example, conv.weight, conv.bias, layer.stride, padding, "relu")
        for _ in range(layer.times):
            pools, size = layer.size < size, layer.out
            ours.append((pools, own))
            theirs.append((pools, runs))
            exact = F.max_pool2d(exact, 2) if pools else exact
            moved += 4 * (exact.numel() + own.nnz)
            weight, bias = conv.weight.double(), conv.bias.double()
            exact = F.conv2d(exact, weight, bias, layer.stride, padding).relu()
            moved += 4 * exact.numel()
    given = {"eager": x, "channels_last": last, "prepacked": last}
    row = row_of(kind, what, batch, layers, packed)
    race(
        row,
        {form: partial(dense_chain, given[form], theirs, form) for form in theirs[0][1]},
        {
            "blocked": partial(packed_chain, x, ours),
            "blocked, channels_last": partial(packed_chain, last, ours),
        },
        exact,
        int(sum(layer.macs * layer.times for layer in layers) * batch / row["ideal"]),
        moved,
    )
