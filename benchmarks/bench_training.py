"""What a method costs at each step of ResNet18, against the plain step.

pytest benchmarks/bench_training.py -s                              some minutes
python -m benchmarks.bench_training --out benchmarks/results/training.json

A method works on weights and gradients: its cost is the same whatever the batch. So whole steps
with it and without it are timed by turns at batch 1, where they differ most, and plain steps of the
usual batches between them; the ratio is of times from the same minutes. `--full` times whole steps
with each method at batch 128 instead, to see that this is so.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from sparse_ops._files import replacing
from sparse_ops.models import resnet18
from sparse_ops.planning.measure import denormals_flushed, quantile
from sparse_ops.report.machine import machine
from sparse_ops.training import (
    GSM,
    SABR,
    Dense,
    Fixed,
    HyperSparse,
    Magnitude,
    Predefined,
    SparsityMethod,
    Spred,
)

BATCHES = (32, 128)
EXEMPT = ("conv1", *(f"layer{n}.0.downsample.0" for n in (2, 3, 4)))
# Each in the phase in which it does the most.
METHODS: dict[str, Callable[[], SparsityMethod]] = {
    "predefined": Predefined,
    "fixed": lambda: Fixed(_masks()),
    "magnitude": lambda: Magnitude(begin=0, end=0),
    "gsm": GSM,
    "hypersparse": lambda: HyperSparse(warm_up=0),
    "hypersparse, l1": lambda: HyperSparse(warm_up=0, loss="l1"),
    "hypersparse, l2": lambda: HyperSparse(warm_up=0, loss="l2"),
    "sabr": SABR,
    "spred, weight": Spred,
    "spred, filter": lambda: Spred(mode="filter"),
    "spred, channel": lambda: Spred(mode="channel"),
    "spred, filter by bn": lambda: Spred(mode="filter", gate="bn", exempt=EXEMPT),
}


def _masks() -> dict[str, torch.Tensor]:
    method = Predefined()
    method.prepare(resnet18())
    return method.masks


def stepper(method: SparsityMethod, batch: int) -> Callable[[], float]:
    """A function that does one step and tells its seconds; it has done two already."""
    model = resnet18()
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(batch) % 10
    method.see_data([(x, labels)])
    method.prepare(model)
    groups = method.parameter_groups(model, [{"params": list(model.parameters())}])
    settings = method.settings
    optimizer = torch.optim.SGD(groups, lr=1e-4, momentum=settings.momentum)
    model.train()

    def step() -> float:
        begin = time.perf_counter()
        loss = nn.functional.cross_entropy(model(x), labels)
        if (penalty := method.penalty(model)) is not None:
            loss = loss + penalty
        optimizer.zero_grad()
        loss.backward()
        method.after_backward(model)
        optimizer.step()
        method.after_step(model)
        return time.perf_counter() - begin

    for _ in range(2):
        step()
    return step


def measure(rounds: int = 5, pairs: int = 3) -> dict:
    """The cost of each method as a fraction of the plain step of each batch, by rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    plain: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    with denormals_flushed():
        usual = {batch: stepper(Dense(), batch) for batch in BATCHES}
        for _ in range(rounds):
            for batch, step in usual.items():
                plain[batch].append(step())
            for name, make in METHODS.items():
                without, with_it = stepper(Dense(), 1), stepper(make(), 1)
                seconds[name] += [-without() + with_it() for _ in range(pairs)]
    rows = []
    for name, found in seconds.items():
        own = quantile(found, 0.5)
        row = {"method": name, "pairs": len(found), "own_ms": 1e3 * own}
        row |= {"low_ms": 1e3 * quantile(found, 0.1), "high_ms": 1e3 * quantile(found, 0.9)}
        for batch, steps in plain.items():
            row[f"of_step_{batch}"] = own / quantile(steps, 0.5)
        rows.append(row)
    return {
        "machine": asdict(machine()),
        "command": "python -m benchmarks.bench_training",
        "model": "resnet18, (N, 3, 32, 32), float32",
        "threads": torch.get_num_threads(),
        "plain_ms": {batch: 1e3 * quantile(steps, 0.5) for batch, steps in plain.items()},
        "rows": rows,
    }


def shown(found: dict) -> str:
    lines = [", ".join(f"plain step of {b}: {ms:.0f} ms" for b, ms in found["plain_ms"].items())]
    for row in found["rows"]:
        shares = ", ".join(f"{row[f'of_step_{b}']:+.1%} of {b}" for b in BATCHES)
        spread = f"{row['low_ms']:.0f} to {row['high_ms']:.0f}"
        lines.append(f"{row['method']:20} {row['own_ms']:6.0f} ms ({spread}): {shares}")
    return "\n".join(lines)


def bench_cost_of_each_method(benchmark):
    found = benchmark.pedantic(measure, rounds=1, iterations=1)
    benchmark.extra_info.update(found)
    print("\n" + shown(found))


@pytest.mark.full
@pytest.mark.parametrize("name", METHODS)
def bench_whole_steps(benchmark, name):
    """Whole steps at batch 128, by turns; the median of the pairs' ratios."""
    with denormals_flushed():
        plain, other = stepper(Dense(), 128), stepper(METHODS[name](), 128)
        costs = [other() / plain() - 1 for _ in range(5)]
        benchmark.pedantic(other, rounds=1, iterations=1)
    benchmark.extra_info.update(cost=quantile(costs, 0.5), low=min(costs), high=max(costs))
    print(f"\n{name}: {quantile(costs, 0.5):+.1%} ({min(costs):+.1%} to {max(costs):+.1%})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    result = measure(asked.rounds)
    print(shown(result))
    if asked.out is not None:
        with replacing(asked.out) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
