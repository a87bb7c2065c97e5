"""What a method costs at each step: ResNet18, one step with it against the plain step.

pytest benchmarks/bench_training.py -s            the step of the batch that is usual, 128
pytest benchmarks/bench_training.py -s --full     of smaller ones too, where the cost weighs more
"""

import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sparse_ops.convert.measure import quantile
from sparse_ops.models import resnet18
from sparse_ops.training import METHODS, Dense, Fixed, Predefined, SparsityMethod

BATCHES = [128, *(pytest.param(batch, marks=pytest.mark.full) for batch in (32, 8))]
# Those that need to be told something, or would do nothing at first.
MADE: dict[str, Callable[[], SparsityMethod]] = {
    **METHODS,
    "hypersparse": lambda: METHODS["hypersparse"](warm_up=0),
    "fixed": lambda: Fixed(PREDEFINED.masks),
}
PREDEFINED = Predefined()
PREDEFINED.prepare(resnet18())
# A step of ResNet18 at batch 128 takes more than a second on one core.
ROUNDS = 5


def stepper(method: SparsityMethod, batch: int) -> Callable[[], tuple[float, float]]:
    """A function that does one step and tells its seconds, and how many were in the hooks."""
    model = resnet18()
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(batch) % 10
    method.see_data([(x, labels)])
    method.prepare(model)
    groups = method.parameter_groups(model, [{"params": list(model.parameters())}])
    settings = method.settings
    optimizer = torch.optim.SGD(groups, lr=1e-4, momentum=settings.momentum)
    model.train()

    def step() -> tuple[float, float]:
        begin = time.perf_counter()
        loss = nn.functional.cross_entropy(model(x), labels)
        before = time.perf_counter()
        penalty = method.penalty(model)
        hooks = time.perf_counter() - before
        if penalty is not None:
            loss = loss + penalty
        optimizer.zero_grad()
        loss.backward()
        before = time.perf_counter()
        method.after_backward(model)
        hooks += time.perf_counter() - before
        optimizer.step()
        before = time.perf_counter()
        method.after_step(model)
        return time.perf_counter() - begin, hooks + time.perf_counter() - before

    return step


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", METHODS)
def bench_step(benchmark, name, batch):
    """By turns: a plain step, one with the method; the difference is the cost, hooks a part of it.

    A penalty costs in the backward pass too, which the time in the hooks does not show.
    """
    plain, other = stepper(Dense(), batch), stepper(MADE[name](), batch)
    for warm in (plain, other):
        warm()
    pairs = [(plain()[0], *other()) for _ in range(ROUNDS)]
    benchmark.pedantic(other, rounds=1, iterations=1)
    costs = [with_it / without - 1 for without, with_it, _ in pairs]
    found = {
        "plain_ms": 1e3 * quantile([p for p, _, _ in pairs], 0.5),
        "cost": quantile(costs, 0.5),
        "low": quantile(costs, 0.1),
        "high": quantile(costs, 0.9),
        "hooks": quantile([hooks / without for without, _, hooks in pairs], 0.5),
    }
    benchmark.extra_info.update(found | {"threads": torch.get_num_threads(), "batch": batch})
    print(
        f"\n{name}, batch {batch}: plain step {found['plain_ms']:.0f} ms, with the method "
        f"{found['cost']:+.1%} ({found['low']:+.1%} to {found['high']:+.1%}), "
        f"{found['hooks']:.1%} in its hooks"
    )
