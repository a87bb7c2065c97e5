"""The networks of the claims that have to be trained first; runs go on from what is in a folder.

No seconds are kept: trainings take hours, and are done when the machine is busy anyway. What a step
of training takes is measured by turns (`_claim_steps.py`).
"""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks._claim_measure import Pace, masks_of
from sparse_ops._files import replacing
from sparse_ops.data import Dataset
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
    """The first images of the training split, and at most as many of the test split."""
    train, test = (
        replace(split, images=split.images[:images], labels=split.labels[:images])
        for split in (data.train, data.test)
    )
    return replace(data, train=train, test=test)


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
    _train(model, Spred(0.0, mode), data, pace, pace.epochs, make, work / f"{name}.pt")
    model = copy.deepcopy(model)
    method = Spred(level, mode, fine_tune=FINE_TUNE)
    path = work / f"{name}-{round(100 * level)}.pt"
    masks = _train(model, method, data, pace, 1 + FINE_TUNE, make, path)
    return _outcome(model, masks, data, path)


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
    masks = _train(model, method, data, pace, 3 * pace.epochs, OPTIMIZERS["sgd"], path)
    return _outcome(model, masks, data, path)


def _train(
    model: nn.Module,
    method: SparsityMethod,
    data: Dataset,
    pace: Pace,
    epochs: int,
    make: MakeOptimizer,
    path: Path,
) -> Masks:
    """Trains, or takes up what was trained."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return fit(
        model,
        data,
        method,
        epochs=epochs,
        optimizer=make,
        schedule=Cosine(),
        batch_size=pace.batch_size,
        amp=pace.amp,
        checkpoint=path,
        progress=False,
    )


def _outcome(
    model: nn.Module, found: Masks, data: Dataset, path: Path
) -> tuple[nn.Module, Masks, dict[str, Any]]:
    """Tested once: what came of it lies beside the checkpoint."""
    masks = masks_of(model, found)
    beside = path.with_suffix(".json")
    if not beside.is_file():
        about = {
            "accuracy": evaluate(model, data.test).top1,
            "data": data.name,
            "images": len(data.train),
            "tested": len(data.test),
            "sparsity": sparsity(masks),
        }
        with replacing(beside) as temporary:
            temporary.write_text(json.dumps(about) + "\n", encoding="utf-8")
    return model, masks, json.loads(beside.read_text(encoding="utf-8"))
