"""Constant: what is left of a layer that has lost all of its weights."""

import torch
from torch import Tensor, nn

from sparse_ops.ops._shapes import Pair, pair

Geometry = tuple[Pair, Pair, Pair]


def constant_output(bias: Tensor, geometry: Geometry | None, x: Tensor) -> Tensor:
    """(O) numbers wherever a layer of that geometry gives one for x; see `Constant`."""
    if geometry is None:
        return bias.expand(*x.shape[:-1], len(bias)).clone()
    padded, reach, stride = geometry
    high = (x.shape[-2] + padded[0] - reach[0]) // stride[0] + 1
    wide = (x.shape[-1] + padded[1] - reach[1]) // stride[1] + 1
    plane = bias.reshape(-1, 1, 1).expand(*x.shape[:-3], -1, high, wide)
    return plane.clone(memory_format=torch.contiguous_format)


def geometry_of(layer: nn.Module) -> Geometry | None:
    """How much padding a convolution adds, how far its kernel reaches, the stride: (h, w) each."""
    if not isinstance(layer, nn.Conv2d):
        return None
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    kernel = zip(layer.dilation, layer.kernel_size, strict=True)
    reach = [d * (k - 1) + 1 for d, k in kernel]
    return (top + bottom, left + right), (reach[0], reach[1]), pair("stride", layer.stride, 1)


class Constant(nn.Module):
    """Gives its bias wherever the Conv2d or Linear in whose place it stands gave a number.

    Attributes:
        bias: (O).
        shape, groups: of the weight that it does without.
        geometry: of a convolution, (h, w) each: how much padding adds, how far the kernel reaches,
            the stride; None for a Linear.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        weight = layer.weight
        self.shape, self.groups = tuple(weight.shape), getattr(layer, "groups", 1)
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().clone()
        self.bias = nn.Parameter(bias, weight.requires_grad)
        self.geometry = geometry_of(layer)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, I, H, W) or (*, in_features) -> what the layer gave, to the last bit."""
        return constant_output(self.bias, self.geometry, x)

    def extra_repr(self) -> str:
        return f"{len(self.bias)}"
