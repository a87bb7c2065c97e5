"""The layers that the benchmarks run on are those of the networks that they are named after."""

from collections import Counter

import pytest
import torch
from torch import nn

from benchmarks import bench_models
from benchmarks.layers import Conv, Linear
from sparse_ops import models

# name -> what builds it, an image, and the side of the kernels that are listed.
BUILT = {
    "resnet18-cifar": (models.resnet18, (3, 32, 32), 3),
    "vgg16-cifar": (models.vgg16, (3, 32, 32), 3),
    "vgg19-cifar": (models.vgg19, (3, 32, 32), 3),
    "vgg11-gestures": (lambda: models.vgg11(14), (3, 128, 128), 3),
    "resnet32-cifar": (models.resnet32, (3, 32, 32), 3),
    "resnet56-cifar": (models.resnet56, (3, 32, 32), 3),
    "mobilenet_v2-cifar": (models.mobilenet_v2, (3, 32, 32), 1),
    "mobilenet_v2-gestures": (
        lambda: models.mobilenet_v2(14, variant="imagenet"),
        (3, 128, 128),
        1,
    ),
    "shufflenet-cifar": (models.shufflenet_v1, (3, 32, 32), 1),
    "lenet5": (models.lenet5, (1, 28, 28), 5),
    "lenet300": (models.lenet300, (1, 28, 28), 0),
}
# Their linear layers are listed too; the others' are a hundredth of the work.
LINEAR = ("lenet5", "lenet300")


@pytest.mark.parametrize("name", [n for n in bench_models.NETWORKS if n != "resnet18"])
def test_layers_are_those_of_the_network(name):
    build, shape, kernel = BUILT[name]
    found: Counter = Counter()

    def note(layer, inputs, output):
        if isinstance(layer, nn.Linear):
            found[layer.weight.shape] += 1
        # Neither the first layer nor depthwise ones.
        elif layer.kernel_size[0] == kernel and 3 < layer.in_channels != layer.groups:
            size, stride = inputs[0].shape[-1], layer.stride[0]
            found[layer.weight.shape, size, stride, layer.padding[0], output.shape[-1]] += 1

    model = build().eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) or (isinstance(layer, nn.Linear) and name in LINEAR):
            layer.register_forward_hook(note)
    with torch.inference_mode():
        model(torch.zeros(1, *shape))
    listed = {
        (l.shape, l.size, l.stride, l.padding, l.out) if isinstance(l, Conv) else l.shape: l.times
        for l in bench_models.NETWORKS[name]
    }
    assert listed == dict(found)


def test_kinds_are_only_for_layers_that_they_fit():
    found = {(network, kind) for network, kind, *_ in bench_models.SHOWN + bench_models.FULL}
    of = {network: {k for n, k in found if n == network} for network in bench_models.NETWORKS}
    assert of["vgg16-cifar"] == {"periodic", "csr", "channels"}
    assert of["mobilenet_v2-gestures"] == {"csr", "channels"}
    assert of["shufflenet-cifar"] == of["lenet5"] == of["lenet300"] == {"csr"}


@pytest.mark.parametrize(
    ("kind", "what", "layer"),
    [
        ("csr", "90.0%", Conv("shufflenet-cifar", 12, 24, 6, kernel=1, groups=3)),
        ("csr", "90.0%", Conv("lenet5", 4, 6, 9, kernel=5, given=0)),
        ("csr", "95.0%", Linear("lenet300", 30, 20)),
        ("periodic", "PSD2_P8", Conv("vgg16-cifar", 16, 16, 6, stride=2)),
        ("channels", "50% removed", Conv("mobilenet_v2-gestures", 8, 16, 5, kernel=1)),
    ],
)
def test_both_sides_compute_the_layer(kind, what, layer):
    dense, packed, mask, exact, moved = bench_models.sides(
        kind, what, layer, 2, torch.Generator().manual_seed(0)
    )
    for call in (dense, packed):
        torch.testing.assert_close(call().double(), exact, rtol=1e-4, atol=1e-4)
    assert mask.shape == layer.shape and 0 < mask.sum() < mask.numel()
    assert moved > exact.numel() + mask.sum()
    if isinstance(layer, Conv):
        assert exact.shape == (2, layer.filters, layer.out, layer.out)
