"""Learning rates: a schedule gives the factor on the learning rate for each single step."""

from dataclasses import dataclass
from math import cos, pi
from typing import Protocol


class Schedule(Protocol):
    """The factor on the optimizer's learning rate."""

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """For the step after `step` others."""


def _warm_up(step: int, steps: int) -> float:
    return step / steps if step < steps else 1.0


@dataclass(frozen=True)
class MultiStep:
    """Multiplies by `gamma` after each of some numbers of epochs.

    Attributes:
        boundaries: in epochs, ascending.
        gamma: above 0.
        warm_up: in how many epochs the rate first rises from 0, step by step.

    Raises:
        ValueError: one of them is out of its range.
    """

    boundaries: tuple[int, ...]
    gamma: float = 0.1
    warm_up: int = 0

    def __post_init__(self) -> None:
        boundaries = tuple(self.boundaries)
        object.__setattr__(self, "boundaries", boundaries)
        if list(boundaries) != sorted(set(boundaries)) or (boundaries and boundaries[0] < 0):
            raise ValueError(f"boundaries must be ascending and not negative, got {boundaries}")
        if not self.gamma > 0:
            raise ValueError(f"gamma must be above 0, got {self.gamma}")
        if self.warm_up < 0:
            raise ValueError(f"warm_up must be 0 or more, got {self.warm_up}")

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        passed = sum(step >= boundary * steps_per_epoch for boundary in self.boundaries)
        return self.gamma**passed * _warm_up(step, self.warm_up * steps_per_epoch)


@dataclass(frozen=True)
class Cosine:
    """Falls to 0 along half a cosine, after a rise from 0 in a straight line.

    Attributes:
        warm_up: in how many epochs the rate rises; a part of one will do.

    Raises:
        ValueError: warm_up is negative.
    """

    warm_up: float = 0

    def __post_init__(self) -> None:
        if not self.warm_up >= 0:
            raise ValueError(f"warm_up must be 0 or more, got {self.warm_up}")

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        rise = int(self.warm_up * steps_per_epoch)
        if step < rise:
            return _warm_up(step, rise)
        return (1 + cos(pi * (step - rise) / max(1, steps_per_epoch * epochs - rise))) / 2
