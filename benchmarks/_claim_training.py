"""The networks of the claims that have to be trained first; runs go on from what is in a folder."""

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks._claim_measure import Pace, masks_of
from sparse_ops.data import Dataset, Split
from sparse_ops.masks import Masks, sparsity
from sparse_ops.training import Cosine, Dense, Predefined, SparsityMethod, Spred, evaluate, fit
from sparse_ops.training.optimizers import MakeOptimizer

# name -> optimizer, and the learning rate that its textbooks begin with.
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "adamw": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0),
    "adagrad": partial(torch.optim.Adagrad, lr=1e-2),
}
LEVELS = (0.2, 0.4, 0.6, 0.8)
FINE_TUNE = 1


def few(data: Dataset, images: int) -> Dataset:
    """The first images of the training split; the test split as it is."""
    split = data.train
    return replace(data, train=Split(split.images[:images], split.labels[:images]))


def spred(
    build: Callable[[], nn.Module],
    mode: str,
    optimizer: str,
    level: float,
    data: Dataset,
    pace: Pace,
    work: Path,
) -> tuple[nn.Module, Masks, dict[str, Any]]:
    """A network cut at a level after spred: the penalty for `pace.epochs`, which all levels share;
    then one more epoch of it, the cut, and an epoch of what is left.
    """
    torch.manual_seed(0)
    model, make = build(), OPTIMIZERS[optimizer]
    name = f"spred-{mode}-{optimizer}"
    first = _train(model, Spred(0.0, mode), data, pace.epochs, make, work / f"{name}.pt")
    model = copy.deepcopy(model)
    method = Spred(level, mode, fine_tune=FINE_TUNE)
    path = work / f"{name}-{round(100 * level)}.pt"
    more = _train(model, method, data, 1 + FINE_TUNE, make, path)
    return _outcome(model, more, data, first["seconds"])


def predefined(
    build: Callable[[], nn.Module],
    pattern: Any,
    name: str,
    data: Dataset,
    pace: Pace,
    work: Path,
) -> tuple[nn.Module, Masks, dict[str, Any]]:
    """A network trained under a pattern, or dense where that is None, three times `pace.epochs`."""
    torch.manual_seed(0)
    model = build()
    method = Dense() if pattern is None else Predefined(pattern)
    path = work / f"{name}.pt"
    done = _train(model, method, data, 3 * pace.epochs, OPTIMIZERS["sgd"], path)
    return _outcome(model, done, data, 0.0)


def _train(
    model: nn.Module,
    method: SparsityMethod,
    data: Dataset,
    epochs: int,
    make: MakeOptimizer,
    path: Path,
) -> dict[str, Any]:
    """Trains, or takes up what was trained; the seconds are those of the first time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clock = path.with_suffix(".seconds")
    begin = time.perf_counter()
    masks = fit(
        model,
        data,
        method,
        epochs=epochs,
        optimizer=make,
        schedule=Cosine(),
        checkpoint=path,
        progress=False,
    )
    if not clock.is_file():
        clock.write_text(f"{time.perf_counter() - begin}\n", encoding="utf-8")
    return {"masks": masks, "seconds": float(clock.read_text(encoding="utf-8"))}


def _outcome(
    model: nn.Module, done: dict[str, Any], data: Dataset, before: float
) -> tuple[nn.Module, Masks, dict[str, Any]]:
    masks = masks_of(model, done["masks"])
    found = evaluate(model, data.test)
    return (
        model,
        masks,
        {
            "accuracy": found.top1,
            "train_seconds": before + done["seconds"],
            "data": data.name,
            "images": len(data.train),
            "tested": len(data.test),
            "sparsity": sparsity(masks),
        },
    )
