"""Layout: whether a model's images lie in memory channel by channel, or pixel by pixel.

The second is torch's channels_last. A model takes it on at its entrance, once, and its convolutions
keep it from there.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from sparse_ops.nn import CSRConvTranspose2d
from sparse_ops.nn._conv import SparseConv2d
from sparse_ops.ops._transforms import is_transformed

CHANNELS_LAST = "channels_last"


def in_channels_last(x: Any) -> Any:
    """Images (N, C, H, W), pixel by pixel, unless torch.func carries them; all else as it is."""
    images = isinstance(x, Tensor) and x.dim() == 4 and not is_transformed()
    return x.contiguous(memory_format=torch.channels_last) if images else x


def _bring(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """What runs before the forward of a model in channels_last."""
    return tuple(in_channels_last(x) for x in inputs)


class ToChannelsLast(nn.Module):
    """At the entrance of a model that is a graph."""

    def forward(self, x: Any) -> Any:
        return in_channels_last(x)


# Its name in such a model.
ENTRANCE = "to_channels_last"


def is_channels_last(model: nn.Module) -> bool:
    """Whether `take_channels_last_` was applied to the model."""
    hooked = any(hook is _bring for hook in model._forward_pre_hooks.values())
    return hooked or isinstance(getattr(model, ENTRANCE, None), ToChannelsLast)


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
    if isinstance(model, fx.GraphModule):
        _add_entrance_(model)
    else:
        model.register_forward_pre_hook(_bring)
    return model


def _add_entrance_(model: fx.GraphModule) -> None:
    """A graph has the conversion as a node: its copies and pickles would lose a hook."""
    model.add_submodule(ENTRANCE, ToChannelsLast())
    inputs = [node for node in model.graph.nodes if node.op == "placeholder"]
    for node in inputs:
        with model.graph.inserting_after(inputs[-1]):
            brought = model.graph.call_module(ENTRANCE, (node,))
        node.replace_all_uses_with(brought, lambda user, own=brought: user is not own)
    model.recompile()


def has_images(model: nn.Module, example: tuple[Any, ...]) -> bool:
    """Whether channels_last means anything to the model."""
    images = any(isinstance(x, Tensor) and x.dim() == 4 for x in example)
    convolutions = (nn.Conv2d, SparseConv2d, nn.ConvTranspose2d, CSRConvTranspose2d)
    return images and any(isinstance(module, convolutions) for module in model.modules())
