"""Images that are sets of channels, one for each phase of a larger image, as that image."""

from torch import Tensor

from sparse_ops.ops._operators import channels_last


def interleave(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """(N, phases · C, H, W) -> (N, C, H · stride, W · stride), in x's layout.

    Channels go phase by phase, those of a line's pixels before those of the next line's.
    """
    high, wide = stride
    if high == wide == 1:
        return x
    n, _, h, w = x.shape
    parts = x.unflatten(1, (high, wide, -1))
    if not channels_last(x):
        return parts.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * high, w * wide)
    pixels = parts.permute(0, 4, 1, 5, 2, 3).reshape(n, h * high, w * wide, -1)
    return pixels.permute(0, 3, 1, 2)
