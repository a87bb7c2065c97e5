"""Networks to prune, in plain torch.nn form. Each is a function that builds an `nn.Module`."""

from collections.abc import Callable

from torch import nn

from sparse_ops.models.lenet import lenet5, lenet300
from sparse_ops.models.vgg import small_vgg

# By name, for command lines.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet300": lenet300,
    "lenet5": lenet5,
    "small_vgg": small_vgg,
}

__all__ = ["MODELS", "lenet5", "lenet300", "small_vgg"]
