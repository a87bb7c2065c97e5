"""Timing on a GPU: how long the device takes for a call, whatever the host takes to queue it."""

from collections.abc import Callable

import torch

Call = Callable[[], object]

# Half a millisecond at 2 GHz, in which the host queues what is to be timed: the device is not to
# wait for it between the events.
BUSY_CYCLES = 1_000_000
# More than the L2 of any card: what a call reads comes from memory, on all sides.
FLUSH_BYTES = 256 << 20
WARM_UP, ROUNDS = 3, 20


def rounds_on_device(*calls: Call, rounds: int = ROUNDS) -> list[list[float]]:
    """Milliseconds of each call in each round, by turns; L2 is emptied before each."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    events: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in calls]
    for _ in range(WARM_UP + rounds):
        for call, own in zip(calls, events, strict=True):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            torch.cuda._sleep(BUSY_CYCLES)
            start.record()
            call()
            stop.record()
            own.append((start, stop))
    torch.cuda.synchronize()
    return [[start.elapsed_time(stop) for start, stop in own[WARM_UP:]] for own in events]
