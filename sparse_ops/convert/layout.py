"""Layout: whether a model's images lie in memory channel by channel, or pixel by pixel.

The second is torch's channels_last. A model takes it on at its entrance, once, and its convolutions
keep it from there.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

CHANNELS_LAST = "channels_last"


def in_channels_last(x: Any) -> Any:
    """Images (N, C, H, W), pixel by pixel; everything else as it is."""
    images = isinstance(x, Tensor) and x.dim() == 4
    return x.contiguous(memory_format=torch.channels_last) if images else x


def _bring(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """What runs before the forward of a model in channels_last."""
    return tuple(in_channels_last(x) for x in inputs)


def is_channels_last(model: nn.Module) -> bool:
    """Whether `take_channels_last_` was applied to the model."""
    return any(hook is _bring for hook in model._forward_pre_hooks.values())


def take_channels_last_(model: nn.Module) -> nn.Module:
    """Gives dense convolutions weights in channels_last, and the model a hook for its input.

    The weights are new parameters, so that those of a model that shares them stay as they are.
    """
    if is_channels_last(model):
        return model
    new: dict[int, nn.Parameter] = {}
    for module in model.modules():
        weight = module._parameters.get("weight")
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and weight is not None:
            if id(weight) not in new:
                moved = in_channels_last(weight.detach())
                new[id(weight)] = nn.Parameter(moved, weight.requires_grad)
            module._parameters["weight"] = new[id(weight)]
    model.register_forward_pre_hook(_bring)
    return model


def sharing_copy(model: nn.Module) -> nn.Module:
    """A copy whose modules are its own and whose tensors are the model's: they must not change."""
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


def has_images(model: nn.Module, example: tuple[Any, ...]) -> bool:
    """Whether channels_last means anything to the model."""
    images = any(isinstance(x, Tensor) and x.dim() == 4 for x in example)
    return images and any(isinstance(module, nn.Conv2d) for module in model.modules())
