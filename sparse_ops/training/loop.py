"""A training loop that calls a method's hooks in their order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_ops.data import Dataset, Split
from sparse_ops.masks import Masks
from sparse_ops.training.evaluation import (
    BatchSource,
    as_batches,
    check_logits,
    device_of,
    evaluate,
)
from sparse_ops.training.method import Epoch, SparsityMethod
from sparse_ops.training.schedules import Schedule

ParameterGroups = list[dict[str, Any]]


def fit(
    model: nn.Module,
    data: Dataset | Split | BatchSource,
    method: SparsityMethod,
    *,
    epochs: int,
    lr: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    nesterov: bool | None = None,
    optimizer: Callable[[ParameterGroups], Optimizer] | None = None,
    schedule: Schedule | None = None,
    criterion: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    batch_size: int = 128,
    validation: Split | BatchSource | None = None,
    seed: int = 0,
    progress: bool = True,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Masks:
    """Trains `model` in place with `method`, on the device it is on; leaves it in eval mode.

    The optimizer is SGD, with the method's settings where the caller names none. The test split of
    a `Dataset` is not looked at. Denormal numbers are not flushed: torch sets that by thread, and
    the model would depend on which thread did what.

    Args:
        model: gives logits (N, classes).
        data: what to learn from: a data set's training split, a split, or batches of
            (x, labels (N,)) that can be iterated over once an epoch, such as a DataLoader.
        method: how zeros come about; `Dense()` for none.
        epochs: at most so many; 0 masks the model as it is.
        lr, momentum, weight_decay, nesterov: of SGD; weight_decay is not for biases and BatchNorm.
        optimizer: makes another optimizer from parameter groups, the second of which has
            weight_decay 0: `lambda groups: torch.optim.Adam(groups, lr=1e-3)`.
        schedule: of the learning rate; default: it stays as it is.
        criterion: of logits and labels.
        batch_size: where data is no batches.
        validation: what to evaluate on after each epoch, for `on_epoch` and the method.
        seed: of the order of a split's images, and of what torch draws in the model. Torch's own
            random state is afterwards what it was before.
        progress: whether to show a bar on the error stream.
        on_epoch: is called after each epoch.

    Returns:
        The masks; the model's weights are exactly zero where they say so.

    Raises:
        ValueError: there are no batches, or an argument is out of its range.
        RuntimeError: the loss is no longer a number, or the optimizer has moved removed weights.
    """
    if epochs < 0:
        raise ValueError(f"epochs must be 0 or more, got {epochs}")
    device = device_of(model)
    with _seeded(seed):
        source = as_batches(
            data.train if isinstance(data, Dataset) else data,
            batch_size,
            torch.Generator().manual_seed(seed),
        )
        length = _length(source)
        if schedule is not None and length is None:
            raise ValueError("a schedule has to know the number of batches: data must have len()")
        method.see_data(source)
        method.prepare(model)
        chosen = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        steps = _optimizer(model, method, optimizer, chosen)
        rates = [float(group["lr"]) for group in steps.param_groups]
        done = 0
        with _bar(progress, type(method).__name__, epochs, length) as bar:
            for number in range(1, epochs + 1):
                model.train()
                total = torch.zeros((), device=device)
                right = torch.zeros((), dtype=torch.int64, device=device)
                seen = 0
                for x, labels in source:
                    if schedule is not None and length is not None:
                        factor = schedule.factor(done, length, epochs)
                        for group, rate in zip(steps.param_groups, rates, strict=True):
                            group["lr"] = rate * factor
                    labels = labels.to(device)
                    logits = model(x.to(device))
                    check_logits(logits, labels)
                    loss = criterion(logits, labels)
                    if (penalty := method.penalty(model)) is not None:
                        loss = loss + penalty
                    steps.zero_grad()
                    loss.backward()
                    method.after_backward(model)
                    steps.step()
                    method.after_step(model)
                    total += loss.detach() * len(labels)
                    right += (logits.detach().argmax(1) == labels).sum()
                    seen += len(labels)
                    done += 1
                    bar.step()
                epoch = Epoch(
                    number=number,
                    epochs=epochs,
                    loss=_mean(total, seen, number),
                    accuracy=int(right) / seen,
                    lr=float(steps.param_groups[0]["lr"]),
                    validation=None if validation is None else evaluate(model, validation),
                )
                bar.end_epoch(epoch)
                more = method.end_epoch(model, steps, epoch)
                if on_epoch is not None:
                    on_epoch(epoch)
                if not more:
                    break
        steps.zero_grad()
        model.eval()
        return method.finalize(model)


def _mean(total: Tensor, seen: int, epoch: int) -> float:
    if seen == 0:
        raise ValueError(
            f"there are no batches to learn from in epoch {epoch}"
            + ("" if epoch == 1 else ": data must be iterable more than once")
        )
    mean = float(total) / seen
    if not isfinite(mean):
        raise RuntimeError(f"the loss is {mean} in epoch {epoch}; try a smaller lr")
    return mean


def _optimizer(
    model: nn.Module,
    method: SparsityMethod,
    make: Callable[[ParameterGroups], Optimizer] | None,
    chosen: dict[str, Any],
) -> Optimizer:
    learning = [p for p in model.parameters() if p.requires_grad]
    if not learning:
        raise ValueError("no parameter of the model requires a gradient")
    given = {name: value for name, value in chosen.items() if value is not None}
    groups: ParameterGroups = [
        {"params": [p for p in learning if p.dim() > 1]},
        # Biases and normalization are not decayed: that would move what they are for, the mean.
        {"params": [p for p in learning if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = method.parameter_groups(model, [group for group in groups if group["params"]])
    if make is None:
        settings = replace(method.settings, **given)
        return torch.optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
        )
    if given:
        raise ValueError(f"{', '.join(given)} cannot be given beside optimizer: set it there")
    return make(groups)


def _length(source: BatchSource) -> int | None:
    try:
        return len(source)  # type: ignore[arg-type]
    except TypeError:
        return None


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draws from a generator of its own, on the CPU and every CUDA device."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


class _Bar:
    """One task of a progress display."""

    def __init__(self, display: Progress, title: str, total: int | None) -> None:
        self.display, self.title = display, title
        self.task = display.add_task(title, total=total)

    def step(self) -> None:
        self.display.advance(self.task)

    def end_epoch(self, epoch: Epoch) -> None:
        words = f"{self.title} {epoch.number}/{epoch.epochs}, loss {epoch.loss:.4f}"
        self.display.update(self.task, description=f"{words}, {epoch.accuracy:.2%} right")


@contextmanager
def _bar(shown: bool, title: str, epochs: int, length: int | None) -> Iterator[_Bar]:
    """A bar over all steps, with the time that is left."""
    display = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
        transient=True,
    )
    with display:
        yield _Bar(display, title, None if length is None else epochs * length)
