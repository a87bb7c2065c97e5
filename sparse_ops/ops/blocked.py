"""Activations blocked by images: what packed layers hand to each other in a stretch of a network.

A blocked tensor is (ceil(N / 16), C, H + 2 * halo, W + 2 * halo, 16), float32: 16 images innermost,
so that one vector is the same pixel of 16 images, around them `halo` zeros, so that a convolution
reads its padding from there. In the last block, images that are none hold whatever layers make of
zeros.

Beside their output, functions and layers take no memory but, on the way in and out, 16 lines of an
image a thread.

Nothing here has a gradient: `enter` leaves what wants one as it is, and so all functions and
layers that take blocked tensors take ordinary ones (N, C, H, W) too, and do the same with them.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_ops.ops._native import compiled_operators
from sparse_ops.ops._operators import LANES, channels_last
from sparse_ops.ops._transforms import is_transformed

# Compiled operators by backend; none without the extension.
_TO, _FROM = compiled_operators("to_blocked"), compiled_operators("from_blocked")
_POOL = compiled_operators("blocked_pool2d")
# `enter` blocks a batch if its blocks hold at most this many times its images.
ROOM = 1.5


def blocks_of(batch: int) -> int:
    """How many blocks the images of a batch take."""
    return -(-batch // LANES)


def refuses(x: Tensor, room: float = ROOM) -> str | None:
    """Why x is not to be blocked, or None if it is."""
    if x.dim() != 4:
        return f"x is {tuple(x.shape)}, not (N, C, H, W)"
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return f"x is {x.dtype} on {x.device.type}, not float32 on cpu"
    if torch.is_grad_enabled() and x.requires_grad:
        return "x wants a gradient"
    if blocks_of(x.shape[0]) * LANES > room * x.shape[0]:
        return f"a batch of {x.shape[0]} leaves too much of its blocks of {LANES} empty"
    return None


def enter(x: Tensor, halo: int, room: float = ROOM) -> Tensor:
    """x (N, C, H, W) blocked; as it is, where `refuses` says why, or anything may want a gradient,
    or torch.compile is to see what layers do.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or refuses(x, room) is not None:
        return x
    if torch.is_autocast_enabled("cpu") or is_transformed():
        # Layers give another dtype then, or tensors that carry more than numbers.
        return x
    return to_blocked(x, halo)


def leave(y: Tensor, halo: int, x: Tensor) -> Tensor:
    """y (N, C, H, W) from a blocked one of as many images as x, channels_last if x is; a y that is
    not blocked as it is.
    """
    return from_blocked(y, halo, x.shape[0], channels_last(x)) if y.dim() == 5 else y


def to_blocked(x: Tensor, halo: int) -> Tensor:
    """x (N, C, H, W) -> (ceil(N / 16), C, H + 2 * halo, W + 2 * halo, 16)."""
    if _TO and not is_transformed():
        y: Tensor = _TO["auto"](x, halo)
        return y
    N, C, H, W = x.shape
    y = x.new_zeros(blocks_of(N) * LANES, C, H + 2 * halo, W + 2 * halo)
    y[:N, :, halo : halo + H, halo : halo + W] = x
    return y.unflatten(0, (-1, LANES)).permute(0, 2, 3, 4, 1).contiguous()


def from_blocked(y: Tensor, halo: int, batch: int, last: bool = False) -> Tensor:
    """The inverse: the first `batch` images, (batch, C, H, W), in channels_last if `last`."""
    if _FROM and not is_transformed():
        x: Tensor = _FROM["auto"](y, halo, batch, last)
        return x
    B, C, H, W, _ = y.shape
    inner = y[:, :, halo : H - halo, halo : W - halo]
    x = inner.permute(0, 4, 1, 2, 3).reshape(B * LANES, C, *inner.shape[2:4])[:batch]
    return x.contiguous(memory_format=torch.channels_last) if last else x


def max_pool2d(
    x: Tensor,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    halo: int,
    out_halo: int,
) -> Tensor:
    """torch's max_pool2d without dilation or ceil_mode, from a halo to another; blocked or not."""
    if x.dim() != 5:
        return F.max_pool2d(x, kernel_size, stride, padding)
    if _POOL and not is_transformed():
        y: Tensor = _POOL["auto"](x, True, kernel_size, stride, padding, halo, out_halo)
        return y
    batch = x.shape[0] * LANES
    y = F.max_pool2d(from_blocked(x, halo, batch), kernel_size, stride, padding)
    return to_blocked(y, out_halo)


def avg_pool2d(
    x: Tensor, kernel_size: tuple[int, int], stride: tuple[int, int], halo: int, out_halo: int
) -> Tensor:
    """torch's avg_pool2d without padding, from a halo to another; blocked or not."""
    if x.dim() != 5:
        return F.avg_pool2d(x, kernel_size, stride)
    if _POOL and not is_transformed():
        y: Tensor = _POOL["auto"](x, False, kernel_size, stride, (0, 0), halo, out_halo)
        return y
    batch = x.shape[0] * LANES
    return to_blocked(F.avg_pool2d(from_blocked(x, halo, batch), kernel_size, stride), out_halo)
