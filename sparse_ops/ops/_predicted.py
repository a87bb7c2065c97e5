"""What is known of kernels on a card where nothing was measured: is dense the faster?

Until `functional.tune` has measured a problem on the card at hand, "auto" takes ours before the
dense library only where an H100 gained by it (benchmarks/results/gpu.json). Each function
gives the reason not to, or None.
"""

from typing import Any

import torch
from torch import Tensor

# By wgmma: channels on the narrower side, the most weights that may be left, the least pixels.
GAINS = (
    (128, 0.34, 32 * 28 * 28),
    (256, 0.34, 32 * 14 * 14),
    (256, 0.5, 256 * 14 * 14),
)
# csr_linear reads this part of the dense weight's bytes at most, of a matrix that is no matter of
# launches: 1.1 (batch 8) to 2.6 times (batch 1) as fast at 4096 × 4096.
MOST_READ, LEAST_WEIGHTS = 0.2, 1 << 20


def cuda_conv_loses(*_: Any) -> str:
    """Of the CUDA C++ kernel by mma.sync, whose model promised three times too much there."""
    return "not measured here; on an H100 it was 0.2 to 0.8 times as fast as dense"


def wgmma_conv_loses(
    x: Tensor, weight: Any, bias: Tensor | None, geometry: Any, *_: Any
) -> str | None:
    """Of the form by wgmma, for these arguments of a convolution."""
    filters, channels, *kernel = weight.shape
    words = "not measured here, and on an H100 not known to be faster than dense"
    if tuple(kernel) != (3, 3) or tuple(geometry.stride) != (1, 1):
        return f"{words}: that was measured for 3 x 3 kernels and stride 1"
    if not x.is_contiguous(memory_format=torch.channels_last):
        return f"{words}: x is not channels_last, and is turned first"
    narrow, kept = min(filters, channels), weight.nnz / (filters * channels * 9)
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    if any(narrow >= n and kept <= most and pixels >= least for n, most, least in GAINS):
        return None
    # Not how many pixels: torch.compile may have that as a symbol, which has no words.
    return f"{words} with {narrow} channels, {kept:.0%} of weights left and so many pixels"


def triton_conv_loses(*_: Any) -> str:
    """Of Triton's convolutions: each set of filters reads x anew, each row two bytes at a time."""
    return "not measured here; on an H100 it was 0.1 to 1.3 times as fast as dense"


def triton_linear_loses(x: Tensor, weight: Any, *_: Any) -> str | None:
    """Of Triton's csr_linear, which is as fast as it reads weights."""
    rows, columns = weight.shape
    words = "not measured here, and on an H100 not known to be faster than dense"
    if rows * columns < LEAST_WEIGHTS:
        return f"{words} with {rows} x {columns} weights, under {LEAST_WEIGHTS}"
    index = 2 if columns < 1 << 16 else 4
    read = weight.nnz * (x.element_size() + index) / (rows * columns * x.element_size())
    return f"{words}: {read:.0%} of its bytes are read" if read > MOST_READ else None
