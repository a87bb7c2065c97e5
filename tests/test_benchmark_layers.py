"""The layers that the benchmarks run on are those of the networks that they are named after."""

from collections import Counter

import pytest
import torch
from torch import nn

from benchmarks import bench_models
from sparse_ops import models

BUILT = {
    "resnet18-cifar": (models.resnet18, 32, 3),
    "vgg16-cifar": (models.vgg16, 32, 3),
    "vgg19-cifar": (models.vgg19, 32, 3),
    "vgg11-gestures": (lambda: models.vgg11(14), 128, 3),
    "resnet32-cifar": (models.resnet32, 32, 3),
    "resnet56-cifar": (models.resnet56, 32, 3),
    "mobilenet_v2-cifar": (models.mobilenet_v2, 32, 1),
}


@pytest.mark.parametrize("name", [n for n in bench_models.NETWORKS if n != "resnet18"])
def test_layers_are_those_of_the_network(name):
    build, side, kernel = BUILT[name]
    found: Counter = Counter()

    def note(layer, inputs, output):
        if layer.kernel_size[0] == kernel and layer.in_channels > 3 and layer.groups == 1:
            size, stride = inputs[0].shape[-1], layer.stride[0]
            found[layer.in_channels, layer.out_channels, size, kernel, stride] += 1

    model = build().eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(note)
    with torch.inference_mode():
        model(torch.zeros(1, 3, side, side))
    listed = {
        (l.channels, l.filters, l.size, l.kernel, l.stride): l.times
        for l in bench_models.NETWORKS[name]
    }
    assert listed == dict(found)


def test_patterns_are_only_for_kernels_that_they_fit():
    for network, kind, *_ in bench_models.SHOWN + bench_models.FULL:
        assert kind != "periodic" or bench_models.NETWORKS[network][0].kernel == 3
