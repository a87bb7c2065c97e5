"""A recipe as it is carried out, phase by phase."""

import copy
import inspect
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from sparse_ops import data as sets
from sparse_ops.data import Dataset, Normalize, hold_out
from sparse_ops.masks import Masks, sparsity
from sparse_ops.models import MODELS
from sparse_ops.training.evaluation import Evaluation, evaluate
from sparse_ops.training.history import History
from sparse_ops.training.loop import fit
from sparse_ops.training.method import Epoch
from sparse_ops.training.recipes.phase import Phase
from sparse_ops.training.recipes.recipe import Recipe
from sparse_ops.training.recipes.small import fresh


@dataclass(frozen=True, eq=False)
class PhaseOutcome:
    """What one phase has left.

    Attributes:
        accuracy: on the test split, after the phase's cut, of its last weights.
        masks, sparsity: none and 0 for a dense phase.
        seconds: of this process; less than the whole if it was resumed.
        history: of its epochs; validation in it is of the images held out, if there are such.
    """

    name: str
    method: str
    epochs: int
    accuracy: Evaluation
    masks: Masks
    sparsity: float
    seconds: float
    history: History


def build_model(recipe: Recipe, data: Dataset, seed: int) -> nn.Module:
    """The recipe's network for that data, with first weights of that seed.

    Raises:
        ValueError: the network does not take images of so many channels.
    """
    options = {key: value for key, value in recipe.model.items() if key != "name"}
    make = MODELS[recipe.model["name"]]
    channels = data.train.images.shape[1]
    if "in_channels" in inspect.signature(make).parameters:
        options.setdefault("in_channels", channels)
    elif channels != 1:
        raise ValueError(f"{recipe.model['name']} takes images of 1 channel, not {channels}")
    options.setdefault("num_classes", len(data.classes))
    return fresh(lambda: make(**options), seed)


def load_data(recipe: Recipe) -> Dataset:
    """The recipe's data, normalized as it says.

    Raises:
        ValueError: mean and deviation are given for images that are not bytes; and as `load`.
        OSError: as `load`.
    """
    size = {key: value for key, value in recipe.data.items() if key == "size"}
    data = sets.load(recipe.data["name"], recipe.data.get("folder"), **size)
    if "mean" not in recipe.data and "deviation" not in recipe.data:
        return data
    if data.train.normalize is None:
        raise ValueError(f"{data.name} comes normalized: mean and deviation are not for it")
    normalize = Normalize(recipe.data["mean"], recipe.data["deviation"])
    train, test = (replace(split, normalize=normalize) for split in (data.train, data.test))
    return replace(data, train=train, test=test)


def run(
    recipe: Recipe,
    data: Dataset | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
    channels_last: bool = False,
    on_epoch: Callable[[Phase, nn.Module, Epoch], None] | None = None,
) -> tuple[nn.Module, list[PhaseOutcome]]:
    """Carries out a recipe; the test split is only reported on.

    What `validation` holds out of the training images is the same for all seeds.

    Args:
        recipe: what to do.
        data: default: what the recipe names.
        seed: of the first weights, the order of the images and their crops.
        device: where to train.
        folder: where `<phase>.checkpoint.pt` and `<phase>.csv` are written after each epoch; a run
            goes on from the checkpoints it finds there.
        progress: whether to show bars.
        channels_last: whether weights are laid out so; most convolutions learn faster then.
        on_epoch: is called with the phase, the network and what is known after each epoch.

    Returns:
        The network after the last phase, and what each has left.

    Raises:
        ValueError: the recipe does not go with the data, or a checkpoint is of another run.
        OSError: a file cannot be read or written.
    """
    data = load_data(recipe) if data is None else data
    learned, validation = data.train, None
    if "validation" in recipe.data:
        learned, validation = hold_out(data.train, recipe.data["validation"])
    model = build_model(recipe, data, seed).to(device)
    if channels_last:
        # torch's type stubs do not know this form of `to`.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    first = copy.deepcopy(model.state_dict())
    masks: Masks = {}
    outcomes = []
    for phase in recipe.phases:
        begin, history = time.perf_counter(), History()
        if phase.restart:
            model.load_state_dict(first)
        masks = fit(
            model,
            learned,
            phase.make_method(masks),
            epochs=phase.epochs,
            schedule=phase.make_schedule(),
            batch_size=int(recipe.data.get("batch_size", 128)),
            validation=validation,
            seed=seed,
            history=history,
            checkpoint=None if folder is None else Path(folder) / f"{phase.name}.checkpoint.pt",
            log=None if folder is None else Path(folder) / f"{phase.name}.csv",
            progress=progress,
            on_epoch=None if on_epoch is None else partial(on_epoch, phase, model),
            **phase.arguments(),
        )
        seconds = time.perf_counter() - begin
        accuracy = evaluate(model, data.test)
        outcomes.append(
            PhaseOutcome(
                phase.name,
                phase.method,
                phase.epochs,
                accuracy,
                masks,
                sparsity(masks),
                seconds,
                history,
            )
        )
    return model, outcomes
