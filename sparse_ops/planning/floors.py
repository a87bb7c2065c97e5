"""Floors: the least time that a layer could take on this machine.

    floor = max(kept multiply-accumulates / peak,  bytes / bandwidth)

The peak is what torch's own matrix product reaches, with the threads that torch has now. The
bandwidth is that of reading or copying a block about as large as the layer's activations and kept
weights together, so that what fits a cache is judged by the cache.
Williams et al., Communications of the ACM 52(4), 2009.
"""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sparse_ops.planning.cache import Cache

MATRICES = (256, 512, 1024)
BLOCKS = tuple(1 << power for power in (15, 17, 19, 21, 23, 25, 26))
# Blocks smaller than this are read several times over, so that the clock sees them.
SMALLEST_READ = 1 << 22
SECONDS = 0.05


@dataclass(frozen=True)
class Floors:
    """What the machine can do.

    Attributes:
        peak: multiply-accumulates a second, float32.
        bandwidths: size of a block in bytes -> bytes a second.
    """

    peak: float
    bandwidths: Mapping[int, float]

    def milliseconds(self, macs: int, size: int) -> float:
        """The floor of so many multiply-accumulates on `size` bytes."""
        blocks = [block for block in self.bandwidths if block <= size] or [min(self.bandwidths)]
        return 1e3 * max(macs / self.peak, size / self.bandwidths[max(blocks)])

    def as_data(self) -> dict[str, Any]:
        """As JSON can hold it."""
        blocks = {str(block): speed for block, speed in self.bandwidths.items()}
        return {"peak": self.peak, "bandwidths": blocks}


def _fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of several calls."""
    run()
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        before = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - before)
    return best


@torch.inference_mode()
def measure_floors() -> Floors:
    """Measures the machine, for less than a second."""
    peaks = []
    for n in MATRICES:
        a, b = torch.rand(n, n), torch.rand(n, n)
        out = torch.empty(n, n)
        peaks.append(n**3 / _fastest(functools.partial(torch.mm, a, b, out=out)))
    bandwidths = {}
    for block in BLOCKS:
        times = max(1, SMALLEST_READ // block)
        source, target = torch.ones(block // 8), torch.empty(block // 8)
        whole = torch.ones(block // 4)
        read = times * block / _fastest(whole.expand(times, -1).sum)
        copied = block / _fastest(functools.partial(target.copy_, source))
        bandwidths[block] = max(read, copied)
    return Floors(max(peaks), bandwidths)


@functools.cache
def _floors_of_this_process(threads: int) -> Floors:
    return measure_floors()


def floors(cache: Cache) -> Floors:
    """The machine's floors: from the cache, or measured now and kept there."""
    what = {"what": "floors"}
    kept: Any = cache.get(what)
    try:
        blocks = {int(block): float(speed) for block, speed in kept["bandwidths"].items()}
        return Floors(float(kept["peak"]), blocks) if blocks else _measured(cache, what)
    except (TypeError, ValueError, KeyError, AttributeError):
        return _measured(cache, what)


def _measured(cache: Cache, what: Mapping[str, Any]) -> Floors:
    found = _floors_of_this_process(torch.get_num_threads())
    cache.put(what, found.as_data())
    return found
