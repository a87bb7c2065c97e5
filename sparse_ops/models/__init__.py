"""Networks to prune, in plain torch.nn form. Each is a function that builds an `nn.Module`."""

from collections.abc import Callable

from torch import nn

from sparse_ops.models.lenet import lenet5, lenet300
from sparse_ops.models.mobilenet import mobilenet_v2
from sparse_ops.models.resnet import resnet18, resnet32, resnet56
from sparse_ops.models.shufflenet import shufflenet_v1
from sparse_ops.models.vgg import small_vgg, vgg11, vgg16, vgg19

# By name, for command lines.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet300": lenet300,
    "lenet5": lenet5,
    "small_vgg": small_vgg,
    "vgg11": vgg11,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "resnet18": resnet18,
    "resnet32": resnet32,
    "resnet56": resnet56,
    "mobilenet_v2": mobilenet_v2,
    "shufflenet_v1": shufflenet_v1,
}

__all__ = [
    "MODELS",
    "lenet5",
    "lenet300",
    "mobilenet_v2",
    "resnet18",
    "resnet32",
    "resnet56",
    "shufflenet_v1",
    "small_vgg",
    "vgg11",
    "vgg16",
    "vgg19",
]
