"""What arithmetic says of kernels on a card where nothing was measured: is dense the faster?

No kernel of ours has run on a card. Until `functional.tune` has measured one, "auto" takes it
before the dense library only where the models in benchmarks/NOTES.md ("GPU") say that it gains more
than they may be wrong by. Each function gives the reason not to, or None.
"""

import os
from typing import Any

import torch
from torch import Tensor

# The layers that the model was worked out for: 3×3, stride 1, 7×7 images by 32 and more.
LEAST_PIXELS = 32 * 7 * 7
# Channels on the narrower side -> the most weights that may be left. Two taps of nine in patterns
# of eight: 1.4 times as fast from 256 channels on, 1.2 with 128. Four: 0.8 with 256, 1.15 with 512.
MOST_KEPT = ((512, 0.55), (256, 0.34))
# csr_linear reads this part of the dense weight's bytes at most, of a matrix that is no matter of
# launches: 1.5 to 2.5 times as fast at 4096 × 4096.
MOST_READ, LEAST_WEIGHTS = 0.5, 1 << 20


def cuda_conv_loses(
    x: Tensor, weight: Any, bias: Tensor | None, geometry: Any, *_: Any
) -> str | None:
    """Of the CUDA C++ kernel, for these arguments of a convolution."""
    filters, channels, *kernel = weight.shape
    words = "not measured here, and by arithmetic no faster than dense"
    if tuple(kernel) != (3, 3) or tuple(geometry.stride) != (1, 1):
        return f"{words}: that was worked out for 3 x 3 kernels and stride 1"
    if not x.is_contiguous(memory_format=torch.channels_last):
        return f"{words}: x is not channels_last, and is turned first"
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    if pixels < LEAST_PIXELS:
        # Not how many: torch.compile may have that as a symbol, which has no words.
        return f"{words} on under {LEAST_PIXELS} pixels"
    narrow, kept = min(filters, channels), weight.nnz / (filters * channels * 9)
    if any(narrow >= least and kept <= most for least, most in MOST_KEPT):
        return None
    return f"{words} with {narrow} channels and {kept:.0%} of weights left"


def wgmma_conv_loses(form: str, *arguments: Any) -> str | None:
    """Of a form by wgmma, "1" or "2": off, but for SPARSE_OPS_WGMMA, where the other form gains."""
    if os.environ.get("SPARSE_OPS_WGMMA") != form:
        return f"off: it has not been measured; SPARSE_OPS_WGMMA={form} takes it"
    return cuda_conv_loses(*arguments)


def triton_conv_loses(*_: Any) -> str:
    """Of Triton's convolutions: each set of filters reads x anew, each row two bytes at a time."""
    return "not measured here, and by arithmetic 0.3 to 1.3 times as fast as dense"


def triton_linear_loses(x: Tensor, weight: Any, *_: Any) -> str | None:
    """Of Triton's csr_linear, which is as fast as it reads weights."""
    rows, columns = weight.shape
    words = "not measured here, and by arithmetic no faster than dense"
    if rows * columns < LEAST_WEIGHTS:
        return f"{words} with {rows} x {columns} weights, under {LEAST_WEIGHTS}"
    index = 2 if columns < 1 << 16 else 4
    read = weight.nnz * (x.element_size() + index) / (rows * columns * x.element_size())
    return f"{words}: {read:.0%} of its bytes are read" if read > MOST_READ else None
