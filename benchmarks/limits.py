"""What this machine can do: multiply-accumulates and bytes a second."""

import time
from collections.abc import Callable

import torch

from benchmarks.dense import conv2d_forms


def best_of(call: Callable[[], object], seconds: float = 0.5) -> float:
    """The fastest of the calls that fit in some seconds."""
    end, best = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


@torch.inference_mode()
def machine_limits(seconds: float = 0.5) -> tuple[float, float]:
    """(multiply-accumulates, bytes) a second that this machine reaches.

    The first by the better of a large product and a large convolution: their libraries differ, and
    on some machines one of them stays far below what the other shows to be possible.
    """
    n = 1536
    a, b, c = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
    images, weight = torch.randn(8, 256, 14, 14), torch.randn(256, 256, 3, 3)
    x, y = torch.randn(1 << 25), torch.empty(1 << 25)
    forms = conv2d_forms(images, weight, None, 1, 1)
    convolved = 8 * 256 * 256 * 9 * 14 * 14 / min(best_of(c, seconds) for c in forms.values())
    macs = max(n**3 / best_of(lambda: torch.mm(a, b, out=c), seconds), convolved)
    return macs, 2 * x.numel() * 4 / best_of(lambda: y.copy_(x), seconds)
