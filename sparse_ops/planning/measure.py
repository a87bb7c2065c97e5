"""Measuring: is one callable faster than another, on this machine, now?

Both are timed in one process, by turns, A B A B ..., and the figure is the median of the ratios of
neighbours: what disturbs the machine for longer than one turn disturbs both sides alike.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

# A turn is repeated until it takes this long, well above what reading the clock costs.
SHORTEST_TURN_S = 0.5e-3
# A call that takes so long is timed one by one, whatever the next ones take.
SLOW_CALL_S = 0.25
FEWEST_PAIRS, ENOUGH_PAIRS = 20, 3
# What is told of a whole model has to hold when it is measured again. The median of n new ratios is
# beyond all n old ones, above or below, if the first (n + 1) / 2 of the 2n in order are all new:
# 40 % of the time for n = 3, 3 % for n = 9.
PAIRS_OF_WHOLE = 9
# How many times the seconds that are given may pass before a few pairs, or one, are enough.
LATE, MUCH_TOO_LATE = 1.5, 3
MOST_PAIRS = 2000
# The thread that calls does work at all times; where the process got less than half a CPU, the
# machine was taken away and the pair says nothing.
LEAST_CPU = 0.5


@dataclass(frozen=True)
class Comparison:
    """How a packed callable compares with a dense one.

    Attributes:
        dense_ms, packed_ms: median milliseconds of one call.
        speedup: median of the pairwise ratios dense / packed; above 1 the packed one is faster. Of
            fewer than `ENOUGH_PAIRS` it is the smallest.
        low, high: 10th and 90th percentile of those ratios; of fewer than `FEWEST_PAIRS` the
            smallest and the largest. Measured again, the speed-up lies between.
        pairs: how many pairs count.
        dropped: how many do not, because the machine was taken away meanwhile.
    """

    dense_ms: float
    packed_ms: float
    speedup: float
    low: float
    high: float
    pairs: int
    dropped: int = 0


def scaled(measured: Comparison, scale: float) -> Comparison:
    """What it would be with so many times as much to do."""
    return replace(
        measured, dense_ms=scale * measured.dense_ms, packed_ms=scale * measured.packed_ms
    )


def quantile(numbers: list[float], q: float) -> float:
    """The q-quantile, linear between neighbours."""
    ordered = sorted(numbers)
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def flushes_denormals() -> bool:
    """Whether this thread treats denormal numbers as zero."""
    return bool((torch.full((), 1e-39) * torch.ones(())) == 0)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Inside, denormals are zero on this thread; afterwards it is as it was."""
    before = flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _turn(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """(wall, CPU) seconds of `repeats` calls."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        call()
    # What a GPU was given is not done when the call returns.
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def _repeats(call: Callable[[], object]) -> int:
    """How many calls make a turn; also warms the callable up."""
    if _turn(call, 1)[0] >= SLOW_CALL_S:
        # Nothing more is to be found out about it.
        return 1
    fastest = min(_turn(call, 1)[0] for _ in range(3))
    return max(1, math.ceil(SHORTEST_TURN_S / max(fastest, 1e-9)))


@torch.inference_mode()
def compare(
    dense: Callable[[], object],
    packed: Callable[[], object],
    budget_s: float = 2.0,
    enough: int = ENOUGH_PAIRS,
) -> Comparison:
    """Times two callables by turns.

    Args:
        dense, packed: called without arguments; inputs are theirs, and must not be all zeros.
        budget_s: stop after this long, but not before `FEWEST_PAIRS` pairs, unless those would
            take longer by half: then after `enough`, and if those would take three times as
            long, after one.
        enough: how many pairs are enough where time is short.
    """
    with denormals_flushed():
        many_dense, many_packed = _repeats(dense), _repeats(packed)
        start = time.perf_counter()
        pairs: list[tuple[float, float]] = []
        disturbed: list[tuple[float, float]] = []
        while len(pairs) + len(disturbed) < MOST_PAIRS:
            spent, done = time.perf_counter() - start, len(pairs) + len(disturbed)
            if done >= FEWEST_PAIRS and spent >= budget_s:
                break
            if done >= enough and spent >= LATE * budget_s:
                break
            # Where a pair takes as long as all of the time there is.
            slow = done >= 1 and spent / done >= SLOW_CALL_S
            if slow and spent + spent / done >= MUCH_TOO_LATE * budget_s:
                break
            d_wall, d_cpu = _turn(dense, many_dense)
            p_wall, p_cpu = _turn(packed, many_packed)
            pair = (d_wall / many_dense, p_wall / many_packed)
            calm = d_cpu + p_cpu >= LEAST_CPU * (d_wall + p_wall)
            (pairs if calm else disturbed).append(pair)
    dropped = len(disturbed)
    if len(pairs) < min(ENOUGH_PAIRS, len(pairs) + dropped):
        # The clock of this machine, or its load, calls every pair disturbed: then all count.
        pairs, dropped = pairs + disturbed, 0
    ratios = [d / p for d, p in pairs]
    low, middle, high = (quantile(ratios, q) for q in (0.1, 0.5, 0.9))
    if len(ratios) < FEWEST_PAIRS:
        low, high = min(ratios), max(ratios)
    if len(ratios) < ENOUGH_PAIRS:
        # A median of so few says nothing where they differ.
        middle = low
    return Comparison(
        dense_ms=quantile([d for d, _ in pairs], 0.5) * 1e3,
        packed_ms=quantile([p for _, p in pairs], 0.5) * 1e3,
        speedup=middle,
        low=low,
        high=high,
        pairs=len(pairs),
        dropped=dropped,
    )
