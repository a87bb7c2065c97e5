"""A run in a file, from which it goes on as if it had never been interrupted.

Written after each epoch, whole or not at all; read without running anything that is in it. A run
that is killed begins the epoch again in which it was killed, with the random numbers of that time.
"""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from sparse_ops._files import replacing
from sparse_ops.training.distribution import World
from sparse_ops.training.evaluation import BatchSource
from sparse_ops.training.history import History
from sparse_ops.training.method import SparsityMethod
from sparse_ops.training.precision import Precision
from sparse_ops.training.schedules import Schedule
from sparse_ops.training.state import method_state, restore_method

_DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError)
FORMAT, VERSION = "sparse_ops.training", 1


@dataclass
class Run:
    """Everything that changes while `fit` runs.

    Attributes:
        description: what the run is, in words: a checkpoint of another is refused.
        source: what is learned from; its generator's state is kept, if it has one.
        rates: learning rate of each group of the optimizer, before the schedule's factor.
        epoch, step: how many are done.
        finished: whether the method wants no more epochs.
    """

    description: dict[str, str]
    model: nn.Module
    method: SparsityMethod
    optimizer: Optimizer
    schedule: Schedule | None
    precision: Precision
    history: History
    source: BatchSource
    device: torch.device
    world: World
    rates: list[float]
    epoch: int = 0
    step: int = 0
    finished: bool = False

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file; of several processes the first one does.

        Raises:
            ValueError: the method's state is no data.
            OSError: the file cannot be written.
        """
        random = self.world.gather(self._random_state())
        if self.world.rank:
            return
        content = {
            "format": FORMAT,
            "version": VERSION,
            "description": self.description,
            "model": self.model.state_dict(),
            "learning": {n: p.requires_grad for n, p in self.model.named_parameters()},
            "optimizer": self.optimizer.state_dict(),
            "method": method_state(self.method),
            "schedule": _state_of(self.schedule),
            "precision": self.precision.state_dict(),
            "history": self.history.state_dict(),
            "random": random,
            "rates": self.rates,
            "epoch": self.epoch,
            "step": self.step,
            "finished": self.finished,
        }
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            # Renamed only when it is on the disk: not even a power cut leaves half a file.
            os.fsync(file.fileno())

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Makes a run that has only been prepared what it was when the file was written.

        Raises:
            ValueError: the file is damaged, no checkpoint, or of another run; the message says in
                what it differs.
            OSError: the file cannot be read.
        """
        content = read(path, self.device)
        came = content["description"]
        differences = [
            f"{key} is {self.description.get(key)}, there it is {came.get(key)}"
            for key in sorted(set(came) | set(self.description))
            if came.get(key) != self.description.get(key)
        ]
        if differences:
            raise ValueError(f"{path} is a checkpoint of another run: {'; '.join(differences)}")
        try:
            # The method first: the shape of the model may depend on how far it has come.
            restore_method(self.method, content["method"])
            self.model.load_state_dict(content["model"])
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(content["learning"][name])
            self.optimizer.load_state_dict(content["optimizer"])
            if content["schedule"] is not None:
                _restore(self.schedule, content["schedule"])
            self.precision.load_state_dict(content["precision"])
            self.history.load_state_dict(content["history"])
            self._set_random_state(content["random"][self.world.rank])
            self.rates = [float(rate) for rate in content["rates"]]
            self.epoch, self.step = int(content["epoch"]), int(content["step"])
            self.finished = bool(content["finished"])
        except (KeyError, TypeError, IndexError, AttributeError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} does not fit this run: {error}") from error

    def _random_state(self) -> dict[str, Any]:
        order = getattr(self.source, "generator", None)
        return {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "order": order.get_state() if isinstance(order, torch.Generator) else None,
        }

    def _set_random_state(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["cpu"].cpu())
        if state["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"].cpu(), self.device)
        order = getattr(self.source, "generator", None)
        if state["order"] is not None and isinstance(order, torch.Generator):
            order.set_state(state["order"].cpu())


def read(path: str | os.PathLike[str], device: torch.device) -> dict[str, Any]:
    """The content of a checkpoint, its tensors on `device`.

    Raises:
        ValueError: the file is damaged, or no checkpoint of this version.
        OSError: there is no such file, or it cannot be read.
    """
    with Path(path).open("rb") as file:
        try:
            content = torch.load(file, map_location=device, weights_only=True)
        # A file that ends too soon is an OSError to torch.
        except (*_DAMAGE, OSError) as error:
            first = (str(error).splitlines() or [""])[0]
            raise ValueError(f"{path} cannot be read as a checkpoint: {first}") from error
    kind = content.get("format") if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or kind != FORMAT:
        raise ValueError(f"{path} must be a checkpoint of fit, got {kind or 'other tensors'}")
    if content.get("version") != VERSION:
        raise ValueError(f"{path} must be of version {VERSION}, got {content.get('version')}")
    return content


def _state_of(part: Any) -> dict[str, Any] | None:
    own = getattr(part, "state_dict", None)
    return own() if callable(own) else None


def _restore(part: Any, state: dict[str, Any]) -> None:
    part.load_state_dict(state)
