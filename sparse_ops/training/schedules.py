"""Learning rates: a schedule gives the factor on the learning rate for each single step."""

from dataclasses import dataclass, field
from itertools import pairwise
from math import cos, inf, pi
from typing import Any, Protocol


class Schedule(Protocol):
    """The factor on the optimizer's learning rate."""

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """For the step after `step` others."""


def _warm_up(step: int, steps: float) -> float:
    return step / steps if step < steps else 1.0


@dataclass(frozen=True)
class Course:
    """How a run will go, as far as that is known before its first step.

    Attributes:
        epochs: at most so many.
        steps: of an epoch; None where the batches are not counted.
        schedule: of the learning rate; None: it stays as it is.
    """

    epochs: int
    steps: int | None
    schedule: Schedule | None = None

    def rates(self, lr: float, parts: int = 1000) -> list[tuple[float, int]]:
        """(rate, steps) of so many stretches of the run, each at the rate of its middle step.

        Of fewer, where there are fewer steps; of none, where they are not counted.
        """
        total = self.epochs * (self.steps or 0)
        parts = max(1, min(parts, total))
        edges = [total * i // parts for i in range(parts + 1)] if total else []
        found = []
        for begin, end in pairwise(edges):
            factor = 1.0
            if self.schedule is not None:
                middle = (begin + end - 1) // 2
                factor = self.schedule.factor(middle, self.steps or 1, self.epochs)
            found.append((lr * factor, end - begin))
        return found


@dataclass(frozen=True)
class MultiStep:
    """Multiplies by `gamma` after each of some numbers of epochs.

    Attributes:
        boundaries: in epochs and parts of them, ascending.
        gamma: above 0.
        warm_up: in how many epochs the rate first rises, step by step; a part of one will do.
        warm_up_from: the factor that it rises from.
        offset: epochs by which all boundaries are moved; -1 for the rates of code that steps its
            scheduler at the start of each epoch.

    Raises:
        ValueError: one of them is out of its range.
    """

    boundaries: tuple[float, ...]
    gamma: float = 0.1
    warm_up: float = 0
    warm_up_from: float = 0.0
    offset: int = 0

    def __post_init__(self) -> None:
        boundaries = tuple(self.boundaries)
        object.__setattr__(self, "boundaries", boundaries)
        if list(boundaries) != sorted(set(boundaries)) or (boundaries and boundaries[0] < 0):
            raise ValueError(f"boundaries must be ascending and not negative, got {boundaries}")
        if not self.gamma > 0:
            raise ValueError(f"gamma must be above 0, got {self.gamma}")
        if not self.warm_up >= 0:
            raise ValueError(f"warm_up must be 0 or more, got {self.warm_up}")
        if not 0 <= self.warm_up_from <= 1:
            raise ValueError(f"warm_up_from must be in [0, 1], got {self.warm_up_from}")

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        passed = sum(step >= (b + self.offset) * steps_per_epoch for b in self.boundaries)
        risen = _warm_up(step, self.warm_up * steps_per_epoch)
        return self.gamma**passed * (self.warm_up_from + (1 - self.warm_up_from) * risen)


@dataclass(frozen=True)
class Cosine:
    """Falls to 0 along half a cosine, after a rise from 0 in a straight line.

    Attributes:
        warm_up: in how many epochs the rate rises; a part of one will do.
        by_epoch: whether all steps of an epoch have one rate: (e + 1) / warm_up in epoch e of the
            rise, then the cosine at e, both counted from 0.

    Raises:
        ValueError: warm_up is negative, or no whole number where the rate is that of an epoch.
    """

    warm_up: float = 0
    by_epoch: bool = False

    def __post_init__(self) -> None:
        if not self.warm_up >= 0:
            raise ValueError(f"warm_up must be 0 or more, got {self.warm_up}")
        if self.by_epoch and self.warm_up != int(self.warm_up):
            raise ValueError(f"warm_up by epoch must be a whole number, got {self.warm_up}")

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        if self.by_epoch:
            step, steps_per_epoch = step // steps_per_epoch, 1
        rise = int(self.warm_up * steps_per_epoch)
        if step < rise:
            return _warm_up(step + self.by_epoch, rise)
        return (1 + cos(pi * (step - rise) / max(1, steps_per_epoch * epochs - rise))) / 2


@dataclass
class Plateau:
    """Multiplies by `gamma` when the validation loss has not fallen for more than some epochs.

    Needs `validation` in `fit`. An epoch is better if its loss is below (1 - threshold) times the
    least so far.

    Attributes:
        gamma: in (0, 1).
        patience: how many epochs in a row that are no better are put up with.
        threshold: in [0, 1).
        least: the factor does not fall below it.

    Raises:
        ValueError: one of them is out of its range.
    """

    gamma: float = 0.1
    patience: int = 3
    threshold: float = 1e-4
    least: float = 0.0
    _factor: float = field(init=False, repr=False, compare=False, default=1.0)
    _best: float = field(init=False, repr=False, compare=False, default=inf)
    _worse: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma must be in (0, 1), got {self.gamma}")
        if self.patience < 0:
            raise ValueError(f"patience must be 0 or more, got {self.patience}")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), got {self.threshold}")
        if not 0 <= self.least <= 1:
            raise ValueError(f"least must be in [0, 1], got {self.least}")

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        return self._factor

    def begin(self) -> None:
        """Forgets what another run has left."""
        self._factor, self._best, self._worse = 1.0, inf, 0

    def observe(self, loss: float | None) -> None:
        """Is told the validation loss after each epoch.

        Raises:
            ValueError: there is none.
        """
        if loss is None:
            raise ValueError("a Plateau needs validation data to watch the loss of")
        if loss < self._best * (1 - self.threshold):
            self._best, self._worse = loss, 0
            return
        self._worse += 1
        if self._worse > self.patience:
            self._factor, self._worse = max(self.least, self._factor * self.gamma), 0

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self._factor, "best": self._best, "worse": self._worse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._factor, self._best = float(state["factor"]), float(state["best"])
        self._worse = int(state["worse"])
