"""What gpu_run.py makes of times, and its clock where there is no device. Needs torch only."""

import statistics
import time

import torch

from kernels.clock import Call
from kernels.graphs import record


def rounds_on_host(*calls: Call, rounds: int = 1) -> list[list[float]]:
    """The same without a device, for a dry run."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, own in zip(calls, found, strict=True):
            start = time.perf_counter()
            call()
            own.append(1e3 * (time.perf_counter() - start))
    return found


def graphed(call: Call) -> Call:
    """The call, recorded as a CUDA graph: what comes back replays it, and keeps what it reads."""
    call()
    graph, _ = record(call)

    def replay(_call: Call = call) -> None:
        # A graph knows addresses: without the call, its tensors' memory would be others' by now.
        graph.replay()

    return replay


def medians(found: list[list[float]]) -> list[float]:
    return [statistics.median(own) for own in found]


def ratios(dense: list[float], ours: list[float]) -> dict[str, float]:
    """How many times as fast ours is: the median of the rounds, and what 10 and 90 % are under."""
    each = sorted(a / b for a, b in zip(dense, ours, strict=True))
    low, high = each[len(each) // 10], each[-1 - len(each) // 10]
    return {"speedup": statistics.median(each), "low": low, "high": high}


def queueing_ms(call: Call, times: int = 50) -> float:
    """How long the host takes to queue a call, the device being behind."""
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        call()
    taken = 1e3 * (time.perf_counter() - start) / times
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return taken
