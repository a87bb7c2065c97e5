"""What a step of training takes: whole filters to be removed, and single weights, by turns.

As a program, `python -m benchmarks._claim_steps NETWORK MODE BATCH THREADS`, it does two steps, and
prints how many bytes its process took for them at most.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks._claim_measure import Pace
from sparse_ops.planning.measure import compare
from sparse_ops.training import Dense, SparsityMethod, Spred

MODES = ("weight", "filter")
# However short the pace: one pair says nothing of its spread.
PAIRS = 5
STATUS = Path("/proc/self/status")


def filters_beside_weights(
    network: str, build: Callable[[], nn.Module], shape: tuple[int, ...], pace: Pace
) -> dict[str, Any]:
    """Milliseconds of both steps, and how many times longer single weights take; bytes of both.

    In float32, and in batches of the pace: with spred, single weights double the parameters.
    """
    steps = [stepper(build(), Spred(0.8, mode), shape, pace.batch_size) for mode in MODES]
    start = time.perf_counter()
    for step in steps:
        step()
    seconds = max(pace.seconds, PAIRS * (time.perf_counter() - start))
    found = asdict(compare(*steps, seconds, PAIRS))
    names = {"dense_ms": "weight_ms", "packed_ms": "filter_ms", "speedup": "ratio"}
    del steps
    return (
        {names.get(key, key): value for key, value in found.items()}
        | {"batch": pace.batch_size}
        | {f"{mode}_bytes": peak_bytes(network, mode, pace.batch_size) for mode in MODES}
    )


def peak_bytes(network: str, mode: str, batch: int) -> int | None:
    """What two steps take at most, of a process of their own; None where no system tells.

    Raises:
        RuntimeError: the process ended with an error.
    """
    if not STATUS.is_file():
        return None
    options = [network, mode, str(batch), str(torch.get_num_threads())]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._claim_steps", *options],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"training {network} by itself failed: {done.stderr.strip()}")
    return int(done.stdout)


def _most() -> int:
    """The most bytes that this process has had in memory. `ru_maxrss` begins with its parent's."""
    found = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text(encoding="utf-8"))
    assert found is not None
    return 1024 * int(found[1])


def stepper(
    model: nn.Module, method: SparsityMethod, shape: tuple[int, ...], batch: int
) -> Callable[[], None]:
    """A function that does one step: forwards with the penalty, backwards, and SGD's update."""
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(batch) % 10
    method.see_data([(x, labels)])
    method.prepare(model)
    groups = method.parameter_groups(model, [{"params": list(model.parameters())}])
    optimizer = torch.optim.SGD(groups, lr=1e-4, momentum=0.9)
    model.train()

    # Who measures may have turned inference mode on.
    @torch.inference_mode(False)
    @torch.enable_grad()
    def step() -> None:
        loss = nn.functional.cross_entropy(model(x), labels)
        if (penalty := method.penalty(model)) is not None:
            loss = loss + penalty
        optimizer.zero_grad()
        loss.backward()
        method.after_backward(model)
        optimizer.step()
        method.after_step(model)

    return step


def _main(network: str, mode: str, batch: str, threads: str) -> None:
    # Its networks are those whose steps are measured here.
    from benchmarks._claim_cases import NETWORKS

    torch.set_num_threads(int(threads))
    build, shape = NETWORKS[network]
    step = stepper(nn.Linear(1, 1), Dense(), (1,), 1)
    step()
    before = _most()
    step = stepper(build(), Spred(0.8, mode), shape, int(batch))
    for _ in range(2):
        step()
    print(_most() - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
