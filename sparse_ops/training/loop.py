"""A training loop that calls a method's hooks in their order."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparse_ops.data import Dataset, Split
from sparse_ops.masks import Masks
from sparse_ops.training.checkpoint import Run
from sparse_ops.training.distribution import Joint, World
from sparse_ops.training.evaluation import BatchSource, as_batches, device_of
from sparse_ops.training.history import History, Logs
from sparse_ops.training.method import Epoch, SparsityMethod, refuses_gaps
from sparse_ops.training.optimizers import MakeOptimizer, build_optimizer
from sparse_ops.training.passes import Criterion, evaluated, one_epoch
from sparse_ops.training.precision import Precision
from sparse_ops.training.progress import bar
from sparse_ops.training.schedules import Course, Plateau, Schedule
from sparse_ops.training.state import described


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
    bias_lr: float = 1.0,
    decay_all: bool = False,
    optimizer: MakeOptimizer | None = None,
    schedule: Schedule | None = None,
    criterion: Criterion = nn.functional.cross_entropy,
    batch_size: int = 128,
    clip: float | None = None,
    amp: str | torch.dtype | None = None,
    validation: Split | BatchSource | None = None,
    evaluate_every: int = 1,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    history: History | None = None,
    log: str | os.PathLike[str] | None = None,
    tensorboard: str | os.PathLike[str] | None = None,
    progress: bool = True,
    title: str = "",
    on_epoch: Callable[[Epoch], None] | None = None,
    before_cut: Callable[[nn.Module], None] | None = None,
) -> Masks:
    """Changes `model` in place and returns its masks: trains it with `method`, on its device.

    The model is left in eval mode, its weights exactly zero where the masks say so.

    The optimizer is SGD, with the method's settings where the caller names none. The test split of
    a `Dataset` is not looked at. Denormal numbers are not flushed: torch sets that by thread, and
    the model would depend on which thread did what.

    In several processes, under torchrun with a process group, each takes its part of every batch of
    a data set or split, and all end with the same weights and masks. A DataLoader needs a
    DistributedSampler for that. BatchNorm sees the part of its process; its running means are
    averaged after each epoch.

    Args:
        model: gives logits (N, classes).
        data: what to learn from: a data set's training split, a split, or batches of
            (x, labels (N,)) that can be iterated over once an epoch, such as a DataLoader.
        method: how zeros come about; `Dense()` for none.
        epochs: at most so many; 0 masks the model as it is.
        lr, momentum, weight_decay, nesterov: of SGD; weight_decay is not for biases and BatchNorm.
        bias_lr: how many times faster biases learn, those of BatchNorm too.
        decay_all: whether weight_decay is for biases and BatchNorm as well.
        optimizer: makes another optimizer from parameter groups, the second of which has
            weight_decay 0: `lambda groups: torch.optim.Adam(groups, lr=1e-3)`.
        schedule: of the learning rate; default: it stays as it is.
        criterion: of logits and labels.
        batch_size: where data is no batches; of all processes together.
        clip: the most that the norm of all gradients together may be, after the method has changed
            them.
        amp: "bfloat16" or, on CUDA devices, "float16": what the forward pass is computed in.
        validation: what to evaluate on after each epoch, for `on_epoch` and the method.
        evaluate_every: after each so many epochs instead, and after the last; not for SABR and a
            Plateau, which watch each.
        seed: of the order of a split's images, and of what torch draws in the model. Torch's own
            random state is afterwards what it was before.
        checkpoint: a file that is written after each epoch. If it is there, the run goes on from
            it, and ends with the weights it would have had: on a CPU, to the last bit. The model
            must be given as it was at first.
        history: is filled with what happened in each epoch.
        log: a CSV file, one line an epoch.
        tensorboard: a folder for TensorBoard's files.
        progress: whether to show a bar on the error stream; a line an epoch, where that is no
            terminal.
        title: of the bar and the lines; default: the method's name.
        on_epoch: is called after each epoch, before its checkpoint is written.
        before_cut: is called with the model, in eval mode, before the method's last cut.

    Returns:
        The masks; the model's weights are exactly zero where they say so.

    Raises:
        ValueError: there are no batches, an argument is out of its range, or the checkpoint is of
            another run.
        RuntimeError: the loss is no longer a number, or the optimizer has moved removed weights.
        ImportError: TensorBoard is wanted and not installed.
    """
    if epochs < 0:
        raise ValueError(f"epochs must be 0 or more, got {epochs}")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be above 0, got {clip}")
    if why := refuses_gaps(evaluate_every, method, schedule):
        raise ValueError(why)
    if evaluate_every > 1 and validation is None:
        raise ValueError(f"evaluate_every is {evaluate_every}, and there is no validation")
    device, world = device_of(model), World.now()
    precision = Precision(amp, device)
    if isinstance(schedule, Plateau):
        schedule.begin()
        if validation is None:
            schedule.observe(None)
    with _seeded(seed):
        source = as_batches(
            data.train if isinstance(data, Dataset) else data,
            batch_size,
            torch.Generator().manual_seed(seed),
        )
        length = _length(source)
        if schedule is not None and length is None:
            raise ValueError("a schedule has to know the number of batches: data must have len()")
        world.share(model)
        method.see_data(source)
        method.prepare(model)
        if world.rank:
            # Dropout is another in each process.
            torch.manual_seed(seed + world.rank)
        chosen = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        steps = build_optimizer(model, method, optimizer, chosen, bias_lr, decay_all)
        run = Run(
            {
                "method": described(method),
                "optimizer": described([type(steps).__name__, *_settings(steps)]),
                "schedule": described(schedule),
                "epochs": str(epochs),
                "seed": str(seed),
                "batch size": str(getattr(source, "batch_size", None)),
                "batches": str(length),
                "clip": described(clip),
                "amp": str(precision.dtype),
                "processes": str(world.size),
            },
            model,
            method,
            steps,
            schedule,
            precision,
            History() if history is None else history,
            source,
            device,
            world,
            rates=[float(group["lr"]) for group in steps.param_groups],
        )
        run.history.rows.clear()
        method.foresee(model, steps, Course(epochs, length, schedule))
        if checkpoint is not None and Path(checkpoint).is_file():
            run.resume(checkpoint)
        first = world.rank == 0
        logs = Logs(run.history, log if first else None, tensorboard if first else None)
        joint = Joint(model, world)
        total = None if length is None else epochs * length
        try:
            with bar(progress and first, title or type(method).__name__, total, run.step) as shown:
                while run.epoch < epochs and not run.finished:
                    number = run.epoch + 1
                    due = number % evaluate_every == 0 or number == epochs
                    watched = validation if due else None
                    epoch = one_epoch(run, joint(), criterion, clip, epochs, length, watched, shown)
                    run.finished = not method.end_epoch(model, steps, epoch)
                    if run.finished and not due and validation is not None:
                        # The method has made it the last one.
                        found = evaluated(run, validation)
                        epoch = replace(epoch, validation=found)
                        run.history.note_validation(found)
                    run.history.note(method.figures())
                    shown.end_epoch(run.history.rows[-1], epochs)
                    logs.write()
                    if on_epoch is not None:
                        on_epoch(epoch)
                    if checkpoint is not None:
                        run.save(checkpoint)
        except BaseException:
            method.abandon(model)
            raise
        finally:
            logs.close()
        steps.zero_grad()
        model.eval()
        if before_cut is not None:
            before_cut(model)
        return method.finalize(model)


def _settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]


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
