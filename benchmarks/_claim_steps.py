"""What a step of training takes: whole filters to be removed, and single weights, by turns."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from benchmarks._claim_measure import Pace
from sparse_ops.planning.measure import compare
from sparse_ops.training import SparsityMethod, Spred


def filters_beside_weights(
    build: Callable[[], nn.Module], shape: tuple[int, ...], pace: Pace
) -> dict[str, Any]:
    """Milliseconds of both steps, and how many times longer single weights take.

    In float32, and in batches of the pace: with spred, single weights double the parameters.
    """
    weights, filters = (
        stepper(build(), Spred(0.8, mode), shape, pace.batch_size) for mode in ("weight", "filter")
    )
    found = asdict(compare(weights, filters, pace.seconds))
    names = {"dense_ms": "weight_ms", "packed_ms": "filter_ms", "speedup": "ratio"}
    return {names.get(key, key): value for key, value in found.items()} | {"batch": pace.batch_size}


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
