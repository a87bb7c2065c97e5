"""Activations blocked by images: what packed layers hand to each other within a stretch of a network.

A blocked tensor is (ceil(N / 16), C, H + 2 * halo, W + 2 * halo, 16), float32: 16 images innermost, so
that one vector is the same pixel of 16 images, around them `halo` zeros, so that a convolution reads
its padding from there. In the last block, images that are none hold whatever layers make of zeros.

Nothing here has a gradient: `enter` leaves what wants one as it is, and so all functions and
layers that take blocked tensors take ordinary ones (N, C, H, W) too, and do the same with them.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Images of a block: the floats of a cache line.
LANES = 16
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
    """x (N, C, H, W) blocked; as it is, where `refuses` says why or anything wants a gradient."""
    if torch.is_grad_enabled() or refuses(x, room) is not None:
        return x
    return to_blocked(x, halo)


def leave(y: Tensor, halo: int, x: Tensor) -> Tensor:
    """y (N, C, H, W) from a blocked one of as many images as x; a y that is not blocked as it is."""
    return from_blocked(y, halo, x.shape[0]) if y.dim() == 5 else y


def to_blocked(x: Tensor, halo: int) -> Tensor:
    """x (N, C, H, W) -> (ceil(N / 16), C, H + 2 * halo, W + 2 * halo, 16)."""
    N, C, H, W = x.shape
    y = x.new_zeros(blocks_of(N) * LANES, C, H + 2 * halo, W + 2 * halo)
    y[:N, :, halo : halo + H, halo : halo + W] = x
    return y.unflatten(0, (-1, LANES)).permute(0, 2, 3, 4, 1).contiguous()


def from_blocked(y: Tensor, halo: int, batch: int) -> Tensor:
    """The inverse: the first `batch` images, (batch, C, H, W)."""
    B, C, H, W, _ = y.shape
    inner = y[:, :, halo : H - halo, halo : W - halo]
    return inner.permute(0, 4, 1, 2, 3).reshape(B * LANES, C, *inner.shape[2:4])[:batch]


def max_pool2d(
    x: Tensor,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    halo: int,
    out_halo: int,
) -> Tensor:
    """As torch's max_pool2d without dilation or ceil_mode, from a halo to another; blocked or not."""
    if x.dim() == 4:
        return F.max_pool2d(x, kernel_size, stride, padding)
    batch = x.shape[0] * LANES
    y = F.max_pool2d(from_blocked(x, halo, batch), kernel_size, stride, padding)
    return to_blocked(y, out_halo)


def avg_pool2d(
    x: Tensor, kernel_size: tuple[int, int], stride: tuple[int, int], halo: int, out_halo: int
) -> Tensor:
    """As torch's avg_pool2d without padding, from a halo to another; blocked or not."""
    if x.dim() == 4:
        return F.avg_pool2d(x, kernel_size, stride)
    batch = x.shape[0] * LANES
    return to_blocked(F.avg_pool2d(from_blocked(x, halo, batch), kernel_size, stride), out_halo)
