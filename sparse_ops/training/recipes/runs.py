"""A recipe as it is carried out, phase by phase."""

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparse_ops._files import replacing
from sparse_ops.data import Dataset, hold_out
from sparse_ops.masks import Masks, sparsity
from sparse_ops.training.checkpoint import read
from sparse_ops.training.evaluation import Evaluation, evaluate, zeros
from sparse_ops.training.history import History
from sparse_ops.training.loop import fit
from sparse_ops.training.method import Epoch
from sparse_ops.training.recipes.inputs import build_model, load_data
from sparse_ops.training.recipes.phase import Phase
from sparse_ops.training.recipes.recipe import Recipe


@dataclass(frozen=True, eq=False)
class PhaseOutcome:
    """What one phase has left.

    Attributes:
        epochs: that there were; a method may have ended before those that were planned.
        accuracy: on the test split, after the phase's cut, of its last weights.
        uncut: the same before that cut; None where nothing was removed at the end.
        masks, sparsity: none and 0 for a dense phase.
        findings: what the method reports of the run.
        seconds: of this process; less than the whole if it was resumed.
        history: of its epochs; validation in it is of the images held out, if there are such.
    """

    name: str
    method: str
    epochs: int
    planned: int
    accuracy: Evaluation
    uncut: Evaluation | None
    masks: Masks
    sparsity: float
    seconds: float
    history: History
    findings: dict[str, Any]


class Best:
    """The weights of the epoch that was best on the images held out; in a file, where there is one.

    Args:
        resumed: whether there are some in the file already, of the same run.
    """

    def __init__(self, path: Path | None, resumed: bool) -> None:
        self.path, self.top1, self.epoch = path, -1.0, 0
        self.state: dict[str, torch.Tensor] = {}
        if resumed and path is not None and path.is_file():
            found = torch.load(path, weights_only=True)
            self.top1, self.epoch, self.state = found["top1"], found["epoch"], found["state"]

    def __call__(self, model: nn.Module, epoch: Epoch) -> None:
        if epoch.validation is not None and epoch.validation.top1 > self.top1:
            self.top1, self.epoch = epoch.validation.top1, epoch.number
            self.state = copy.deepcopy(model.state_dict())
            if self.path is not None:
                content = {"top1": self.top1, "epoch": self.epoch, "state": self.state}
                with replacing(self.path) as temporary:
                    torch.save(content, temporary)


def run(
    recipe: Recipe,
    data: Dataset | None = None,
    *,
    model: nn.Module | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
    channels_last: bool = False,
    amp: str | None = None,
    on_epoch: Callable[[Phase, nn.Module, Epoch], None] | None = None,
    before_cut: Callable[[Phase, nn.Module], None] | None = None,
) -> tuple[nn.Module, list[PhaseOutcome]]:
    """Carries out a recipe; the test split is only reported on.

    What `validation` holds out of the training images is the same for all seeds.

    Args:
        recipe: what to do.
        data: default: what the recipe names.
        model: to learn, in place; default: the recipe's, with first weights of that seed.
        seed: of the first weights, the order of the images and their crops.
        device: where to train.
        folder: where `<phase>.checkpoint.pt` and `<phase>.csv` are written after each epoch, and
            `<phase>.best.pt` where the next phase begins with the best; a run goes on from the
            checkpoints it finds there.
        progress: whether to show bars.
        channels_last: whether weights are laid out so; most convolutions learn faster then.
        amp: of all phases that do not say their own.
        on_epoch: is called with the phase, the network and what is known after each epoch.
        before_cut: is called with the phase and the network before the phase's last cut.

    Returns:
        The network after the last phase, and what each has left.

    Raises:
        ValueError: the recipe does not go with the data, or a checkpoint is of another run or
            lacks the best weights that belong to it.
        OSError: a file cannot be read or written.
    """
    data = load_data(recipe) if data is None else data
    learned, validation = data.train, None
    if "validation" in recipe.data:
        learned, validation = hold_out(data.train, recipe.data["validation"])
    model = (build_model(recipe, data, seed) if model is None else model).to(device)
    if channels_last:
        # torch's type stubs do not know this form of `to`.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    place = None if folder is None else Path(folder)
    first = copy.deepcopy(model.state_dict())
    masks: Masks = {}
    best: Best | None = None
    outcomes = []
    for phase, after in zip(recipe.phases, (*recipe.phases[1:], None), strict=True):
        begin, history = time.perf_counter(), History()
        if phase.restart:
            model.load_state_dict(first)
        elif phase.from_best and best is not None and best.state:
            model.load_state_dict(best.state)
        begun = None if place is None else place / f"{phase.name}.checkpoint.pt"
        best = None
        if after is not None and after.from_best:
            resumed = begun is not None and begun.is_file()
            best = Best(None if place is None else place / f"{phase.name}.best.pt", resumed)
            if begun is not None and resumed and not best.state and _has_evaluation(begun):
                raise ValueError(
                    f"{begun} is there, and {best.path} is not, which holds the weights of its "
                    f"best epoch, with which {after.name} begins: put it back, or begin anew"
                )
        watch = _Watch(phase, model, data, best, on_epoch, before_cut)
        method = phase.make_method(masks)
        masks = fit(
            model,
            learned,
            method,
            epochs=phase.epochs,
            schedule=phase.make_schedule(),
            batch_size=int(recipe.data.get("batch_size", 128)),
            validation=validation,
            seed=seed,
            history=history,
            checkpoint=begun,
            log=None if place is None else place / f"{phase.name}.csv",
            progress=progress,
            title=phase.name,
            on_epoch=watch.epoch,
            before_cut=watch.before_cut,
            **({"amp": amp} | phase.arguments()),
        )
        outcomes.append(
            PhaseOutcome(
                name=phase.name,
                method=phase.method,
                epochs=len(history.rows),
                planned=phase.epochs,
                accuracy=evaluate(model, data.test),
                uncut=watch.uncut if zeros(model) > watch.zeros else None,
                masks=masks,
                sparsity=sparsity(masks),
                seconds=time.perf_counter() - begin,
                history=history,
                findings=method.findings(),
            )
        )
    return model, outcomes


def _has_evaluation(checkpoint: Path) -> bool:
    """Whether there was one in the epochs so far."""
    history = History()
    history.load_state_dict(read(checkpoint, torch.device("cpu"))["history"])
    return history.evaluations > 0


class _Watch:
    """What is looked at while a phase is carried out."""

    def __init__(
        self,
        phase: Phase,
        model: nn.Module,
        data: Dataset,
        best: Best | None,
        on_epoch: Callable[[Phase, nn.Module, Epoch], None] | None,
        told: Callable[[Phase, nn.Module], None] | None,
    ) -> None:
        self.phase, self.model, self.data = phase, model, data
        self.best, self.on_epoch, self.told = best, on_epoch, told
        self.zeros = 0
        self.uncut: Evaluation | None = None

    def epoch(self, epoch: Epoch) -> None:
        if self.best is not None:
            self.best(self.model, epoch)
        if self.on_epoch is not None:
            self.on_epoch(self.phase, self.model, epoch)

    def before_cut(self, model: nn.Module) -> None:
        self.zeros, self.uncut = zeros(model), evaluate(model, self.data.test)
        if self.told is not None:
            self.told(self.phase, model)
