"""The optimizer of a run: which parameters decay, which learn faster, and whose settings count."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sparse_ops.training.method import SparsityMethod

ParameterGroups = list[dict[str, Any]]
MakeOptimizer = Callable[[ParameterGroups], Optimizer]


def build_optimizer(
    model: nn.Module,
    method: SparsityMethod,
    make: MakeOptimizer | None,
    chosen: Mapping[str, Any],
    bias_lr: float = 1.0,
    decay_all: bool = False,
) -> Optimizer:
    """SGD with the method's settings where `chosen` has None; or what `make` makes.

    Raises:
        ValueError: nothing learns, or settings are given beside `make`.
    """
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not learning:
        raise ValueError("no parameter of the model requires a gradient")
    if not bias_lr > 0:
        raise ValueError(f"bias_lr must be above 0, got {bias_lr}")
    given = {name: value for name, value in chosen.items() if value is not None}
    groups = method.parameter_groups(model, _groups(learning, decay_all, apart=bias_lr != 1))
    if make is None:
        settings = replace(method.settings, **given)
        optimizer: Optimizer = torch.optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
        )
    elif given:
        raise ValueError(f"{', '.join(given)} cannot be given beside optimizer: set it there")
    else:
        optimizer = make(groups)
    if bias_lr != 1:
        biases = {id(p) for name, p in learning.items() if _is_bias(name)}
        for group in optimizer.param_groups:
            if all(id(p) in biases for p in group["params"]):
                group["lr"] *= bias_lr
    return optimizer


def _groups(learning: Mapping[str, nn.Parameter], decay_all: bool, apart: bool) -> ParameterGroups:
    """Weights; then what is not decayed, biases and normalization; biases last where apart."""
    if decay_all and not apart:
        return [{"params": list(learning.values())}]
    # Biases and normalization are not decayed: that would move what they are for, the mean.
    plain: dict[str, Any] = {} if decay_all else {"weight_decay": 0.0}
    groups: ParameterGroups = [
        {"params": [p for p in learning.values() if p.dim() > 1]},
        {
            "params": [
                p for n, p in learning.items() if p.dim() <= 1 and not (apart and _is_bias(n))
            ],
            **plain,
        },
        {
            "params": [p for n, p in learning.items() if p.dim() <= 1 and apart and _is_bias(n)],
            **plain,
        },
    ]
    return [group for group in groups if group["params"]]


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] == "bias"
