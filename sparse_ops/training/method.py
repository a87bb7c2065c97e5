"""What a training method is: hooks into an ordinary training loop, and masks at the end.

    method.see_data(batches)                  what it will learn from, for methods that look back
    method.prepare(model)                     before the optimizer is built
    method.parameter_groups(model, groups)    of which the optimizer is then built
    method.foresee(model, optimizer, course)  says what will come of it, and warns where that is bad
    loss = criterion(...) + method.penalty(model)
    loss.backward()
    method.after_backward(model)              gradients are ready, no step yet
    optimizer.step()
    method.after_step(model)
    method.end_epoch(model, optimizer, epoch) False: the method wants no more epochs
    method.figures()                          what there is to log of the epoch that has ended
    masks = method.finalize(model)            once; the model is plain and masked
    method.findings()                         what there is to report of the whole run

A method that works in phases changes what its hooks do in `end_epoch`. A method whose optimizer is
part of it names the settings in `settings`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed, nn

from sparse_ops.masks import Masks
from sparse_ops.training.evaluation import BatchSource, Evaluation
from sparse_ops.training.schedules import Course, Plateau, Schedule


@dataclass(frozen=True)
class Settings:
    """Those of stochastic gradient descent, where the caller of `fit` names none.

    Attributes:
        weight_decay: added to the gradient; not for biases and normalization.
    """

    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch.

    Attributes:
        number: how many epochs are done, this one included.
        epochs: how many there will be, unless the method wants fewer.
        loss: mean over the epoch's examples, the penalty included.
        accuracy: fraction right over the epoch's examples, each before the step it was used for.
        lr: of the last step.
        validation: on the data that `fit` was given for it, after the epoch; None without such, and
            where `evaluate_every` leaves the epoch out.
    """

    number: int
    epochs: int
    loss: float
    accuracy: float
    lr: float
    validation: Evaluation | None


class SparsityMethod(ABC):
    """The interface of a method. Every hook but `finalize` does nothing unless a method says so."""

    settings: ClassVar[Settings] = Settings()
    # Whether `end_epoch` goes by the validation of each epoch.
    watches: ClassVar[bool] = False

    def see_data(self, batches: BatchSource) -> None:
        """Is shown what the model will learn from; may iterate over it after an epoch."""

    def prepare(self, model: nn.Module) -> None:
        """Begins a run; what an earlier run of the same object has left is forgotten."""

    def parameter_groups(
        self, model: nn.Module, groups: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The optimizer's groups: as they come, those with weight decay first, or otherwise."""
        return groups

    def foresee(self, model: nn.Module, optimizer: torch.optim.Optimizer, course: Course) -> None:
        """Says, by the package's logger, what the settings will lead to; before the first step."""

    def penalty(self, model: nn.Module) -> Tensor | None:
        """What is added to the loss, or None."""
        return None

    def after_backward(self, model: nn.Module) -> None:
        """May change gradients."""

    def after_step(self, model: nn.Module) -> None:
        """May change weights."""

    def end_epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: Epoch) -> bool:
        """Whether the method wants more epochs."""
        return True

    def figures(self) -> dict[str, float | str]:
        """What there is to log of the epoch that has ended, by name; called after `end_epoch`.

        A figure of a single tensor is named `kind:tensor`; the line of an epoch leaves it out.
        """
        return {}

    def findings(self) -> dict[str, Any]:
        """What there is to report of the run, as JSON can hold it; called after `finalize`."""
        return {}

    def abandon(self, model: nn.Module) -> None:
        """Leaves the model with the parameters it came with, where `fit` ends by an error."""

    @abstractmethod
    def finalize(self, model: nn.Module) -> Masks:
        """Masks `model` in place, leaves it with the parameters it came with, returns the masks."""


class Dense(SparsityMethod):
    """Removes nothing: the training that the others are compared with."""

    def finalize(self, model: nn.Module) -> Masks:
        return {}


def refuses_gaps(
    every: int, method: SparsityMethod | None, schedule: Schedule | None
) -> str | None:
    """Why validation cannot be evaluated in each `every`-th epoch only; None where it can."""
    if every < 1:
        return f"evaluate_every must be 1 or more, got {every}"
    watching = [
        type(part).__name__
        for part in (method, schedule)
        if isinstance(part, Plateau) or (isinstance(part, SparsityMethod) and part.watches)
    ]
    if every > 1 and watching:
        names = " and ".join(watching)
        return (
            f"evaluate_every must be 1 with {names}, for which every epoch's validation counts, "
            f"got {every}"
        )
    return None


def check_sparsity(sparsity: float) -> None:
    """Raises ValueError unless sparsity is in [0, 1)."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")


def share(count: int, fraction: float) -> int:
    """int(count · fraction), where that is a whole number but for rounding: that number."""
    # 10 · (1 - 0.9) is 0.9999999999999998 in float64, and means one weight.
    return int(round(count * fraction, 6))


def agreed(value: float) -> float:
    """The mean of `value` over all processes that train together, so that all decide alike."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return float(total) / distributed.get_world_size()
