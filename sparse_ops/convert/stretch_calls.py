"""Calls of a stretch that `ops.blocked` has not: pooling that depends on the size of the images.

As there, each takes ordinary tensors too, and does the same with them.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_ops.ops.blocked import LANES, avg_pool2d, from_blocked, leave, to_blocked


def adaptive_avg_pool2d(
    x: Tensor, output_size: tuple[int, int], halo: int, out_halo: int
) -> Tensor:
    """As torch's adaptive_avg_pool2d, from a halo to another; blocked or not."""
    if x.dim() != 5:
        return F.adaptive_avg_pool2d(x, output_size)
    height, width = x.shape[2] - 2 * halo, x.shape[3] - 2 * halo
    if height % output_size[0] == 0 and width % output_size[1] == 0:
        window = height // output_size[0], width // output_size[1]
        return avg_pool2d(x, window, window, halo, out_halo)
    inner = from_blocked(x, halo, x.shape[0] * LANES)
    return to_blocked(F.adaptive_avg_pool2d(inner, output_size), out_halo)


def cat(tensors: list[Tensor] | tuple[Tensor, ...], dim: int) -> Tensor:
    """As torch's cat along the channels, which are dimension `dim` of ordinary tensors."""
    return torch.cat(tensors, 1 if tensors[0].dim() == 5 else dim)


def mean(x: Tensor, keepdim: bool, halo: int, like: Tensor) -> Tensor:
    """The mean of each plane, (N, C) or (N, C, 1, 1), of x, blocked or not.

    Args:
        x: of as many images as `like`.
        halo: of x, if it is blocked.
    """
    if x.dim() != 5:
        return x.mean((-2, -1), keepdim)
    y = leave(adaptive_avg_pool2d(x, (1, 1), halo, 0), 0, like)
    return y if keepdim else y.flatten(1)
