"""One epoch of training: every batch once, then the evaluation."""

import time
from collections.abc import Callable
from math import isfinite

import torch
from torch import Tensor, nn

from sparse_ops.data import Split
from sparse_ops.training.checkpoint import Run
from sparse_ops.training.distribution import begin_epoch, steps_of
from sparse_ops.training.evaluation import (
    BatchSource,
    Evaluation,
    check_logits,
    evaluate,
    small_weights,
)
from sparse_ops.training.method import Epoch
from sparse_ops.training.progress import Bar
from sparse_ops.training.schedules import Plateau

Criterion = Callable[[Tensor, Tensor], Tensor]


def one_epoch(
    run: Run,
    model: nn.Module,
    criterion: Criterion,
    clip: float | None,
    epochs: int,
    length: int | None,
    validation: Split | BatchSource | None,
    shown: Bar,
) -> Epoch:
    """One pass over the data, and the evaluation after it; calls a method's hooks in their order.

    Args:
        run: what learns, and how far it has come.
        model: how `run.model` is called.
        criterion: of logits and labels.
        clip: the most that the norm of all gradients together may be.
        epochs: of the whole run.
        length: how many batches there are, if that is known.
        validation: what to evaluate on after it; None for nothing.
        shown: is told of each step.

    Raises:
        ValueError: there are no batches, or logits and labels do not go together.
        RuntimeError: the loss is no longer a number.
    """
    method, optimizer, precision, device = run.method, run.optimizer, run.precision, run.device
    number = run.epoch + 1
    start = time.perf_counter()
    model.train()
    total = torch.zeros((), device=device)
    right, seen = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
    begin_epoch(run.source, number)
    for x, labels, weight in steps_of(run.source, run.world):
        if run.schedule is not None and length is not None:
            factor = run.schedule.factor(run.step, length, epochs)
            for group, rate in zip(optimizer.param_groups, run.rates, strict=True):
                group["lr"] = rate * factor
        labels = labels.to(device)
        with precision.forward():
            logits = model(x.to(device))
            check_logits(logits, labels)
            loss = criterion(logits, labels)
        share = loss if weight == 1 else loss * weight
        if (penalty := method.penalty(run.model)) is not None:
            loss, share = loss + penalty, share + penalty
        optimizer.zero_grad()
        precision.backward(share, optimizer)
        method.after_backward(run.model)
        precision.step(run.model, optimizer, clip)
        method.after_step(run.model)
        # Who has no image of this batch takes one with weight 0, which does not count.
        count = len(labels) if weight else 0
        total += loss.detach() * count
        right += (logits.detach().argmax(1) == labels)[:count].sum()
        seen += count
        run.step += 1
        shown.step()
    run.world.sum(total, right, seen)
    run.world.average_buffers(run.model)
    mean = _mean(total, int(seen), number)
    seconds = time.perf_counter() - start
    found = None if validation is None else evaluated(run, validation)
    if isinstance(run.schedule, Plateau):
        run.schedule.observe(None if found is None else found.loss)
    epoch = Epoch(
        number=number,
        epochs=epochs,
        loss=mean,
        accuracy=int(right) / int(seen),
        lr=float(optimizer.param_groups[0]["lr"]),
        validation=found,
    )
    run.history.add(epoch, seconds, int(seen), small_weights(run.model))
    run.epoch = number
    return epoch


def evaluated(run: Run, validation: Split | BatchSource) -> Evaluation:
    """The first process's numbers: others may have rounded otherwise, and methods decide by it."""
    found = evaluate(run.model, validation)
    top1, top5, loss = run.world.agree([found.top1, found.top5, found.loss], run.device)
    return Evaluation(top1, top5, loss, found.count)


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
