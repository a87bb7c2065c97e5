"""One phase of a recipe: what it says of a call of `fit`, and what that call is given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from sparse_ops.masks import Masks, load
from sparse_ops.patterns import NAMED, Periodic
from sparse_ops.training import METHODS, Dense, Fixed, SparsityMethod
from sparse_ops.training.method import refuses_gaps
from sparse_ops.training.optimizers import MakeOptimizer
from sparse_ops.training.predefined import Aperiodic
from sparse_ops.training.schedules import Cosine, MultiStep, Plateau, Schedule

SCHEDULES: dict[str, Any] = {"multi-step": MultiStep, "cosine": Cosine, "plateau": Plateau}
# Other than SGD, which `fit` makes by itself; of their settings these two are said in a recipe.
OPTIMIZERS: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
}
OPTIMIZER_SETTINGS = ("lr", "weight_decay")
SWITCHES = ("restart", "from_best")
# The method that takes its masks from the phase before it.
UNDER_MASKS = "fixed"
FIT = {
    "lr": float,
    "momentum": float,
    "weight_decay": float,
    "nesterov": bool,
    "bias_lr": float,
    "decay_all": bool,
    "clip": float,
    "amp": str,
    "evaluate_every": int,
}


@dataclass(frozen=True)
class Phase:
    """One call of `fit`.

    Attributes:
        method: a name in METHODS, or "dense"; "fixed" is under the masks of the phase before it, or
            of the file that its option `masks` names.
        options: of the method.
        restart: whether it begins with the network's first weights, not with those it is left.
        from_best: whether it begins with the weights of that epoch of the phase before which was
            best on the images held out, not with those of the last.
        optimizer: "sgd" or a name in OPTIMIZERS.
        schedule: "name" and options, or nothing.
        label_smoothing: of the cross-entropy.
        fit: other arguments.
    """

    name: str
    method: str
    epochs: int
    options: dict[str, Any] = field(default_factory=dict)
    restart: bool = False
    from_best: bool = False
    optimizer: str = "sgd"
    schedule: dict[str, Any] = field(default_factory=dict)
    label_smoothing: float = 0.0
    fit: dict[str, Any] = field(default_factory=dict)

    @property
    def evaluate_every(self) -> int:
        """After each how many epochs the images held out are looked at."""
        return int(self.fit.get("evaluate_every", 1))

    def make_method(self, masks: Masks | None = None) -> SparsityMethod:
        """The method; `masks` are those of the phase before, for "fixed".

        Raises:
            ValueError: there is no such method, it does not take these options, or lacks masks.
        """
        if self.method == UNDER_MASKS:
            if set(self.options) == {"masks"}:
                return Fixed(load(self.options["masks"]))
            if self.options or not masks:
                raise ValueError(
                    f"{self.name} is under the masks of the phase before it, and takes no others: "
                    f"got {len(masks or ())} masks and the options {self.options}"
                )
            return Fixed(masks)
        kind: Any = {**METHODS, "dense": Dense}.get(self.method)
        if kind is None:
            raise ValueError(f"there is no method {self.method!r}; there are {', '.join(METHODS)}")
        options = dict(self.options)
        if isinstance(options.get("pattern"), str):
            options["pattern"] = pattern_named(options["pattern"])
        try:
            method: SparsityMethod = kind(**options)
        except TypeError as error:
            raise ValueError(f"{self.method} does not take {options}: {error}") from error
        return method

    def make_schedule(self) -> Schedule | None:
        """Raises ValueError if there is no such schedule, or it does not take these options."""
        options = dict(self.schedule)
        if not options:
            return None
        name = options.pop("name", None)
        if name not in SCHEDULES:
            raise ValueError(f"there is no schedule {name!r}; there are {', '.join(SCHEDULES)}")
        try:
            schedule: Schedule = SCHEDULES[name](**options)
        except TypeError as error:
            raise ValueError(f"schedule {name} does not take {options}: {error}") from error
        return schedule

    def arguments(self) -> dict[str, Any]:
        """What `fit` is given beside model, data, method, epochs and schedule.

        Raises:
            ValueError: there is no such optimizer, or it does not take what is given.
        """
        given = dict(self.fit)
        if self.label_smoothing:
            given["criterion"] = partial(
                nn.functional.cross_entropy, label_smoothing=self.label_smoothing
            )
        if self.optimizer == "sgd":
            return given
        if self.optimizer not in OPTIMIZERS:
            there = ", ".join(["sgd", *OPTIMIZERS])
            raise ValueError(f"there is no optimizer {self.optimizer!r}; there are {there}")
        if sgd := sorted({"momentum", "nesterov"} & set(given)):
            takes, not_these = ", ".join(OPTIMIZER_SETTINGS), ", ".join(sgd)
            raise ValueError(f"{self.name}: {self.optimizer} takes {takes}, not {not_these}")
        settings = {key: given.pop(key) for key in OPTIMIZER_SETTINGS if key in given}
        make: MakeOptimizer = partial(OPTIMIZERS[self.optimizer], **settings)
        return given | {"optimizer": make}


def pattern_named(name: str) -> Periodic | Aperiodic:
    """PSD2_P8 and the like; pSC4 is four random taps in each kernel.

    Raises:
        ValueError: there is no such pattern.
    """
    if name in NAMED:
        return NAMED[name]
    if name.startswith("pSC") and name[3:].isdigit():
        return Aperiodic(int(name[3:]))
    raise ValueError(f"there is no pattern {name!r}; there are {', '.join(NAMED)} and pSC1 to pSC9")


def phase_of(content: Mapping[str, Any]) -> Phase:
    """The phase that a table of a file says.

    Raises:
        ValueError, TypeError, KeyError: it says what no phase can, or too little.
    """
    known = ["name", "method", "epochs", "options", *SWITCHES, "optimizer", "schedule"]
    only(content, {*known, "label_smoothing", *FIT}, "a phase")
    epochs, switches = content["epochs"], {key: content.get(key, False) for key in SWITCHES}
    for key, least in (("epochs", 0), ("evaluate_every", 1)):
        count = content.get(key, least)
        if type(count) is not int or count < least:
            raise ValueError(f"{key} must be a whole number of {least} or more, got {count!r}")
    for key, value in switches.items():
        if type(value) is not bool:
            raise ValueError(f"{key} must be true or false, got {value!r}")
    return Phase(
        name=str(content["name"]),
        method=str(content["method"]),
        epochs=epochs,
        options=dict(content.get("options", {})),
        **switches,
        optimizer=str(content.get("optimizer", "sgd")),
        schedule=dict(content.get("schedule", {})),
        label_smoothing=float(content.get("label_smoothing", 0.0)),
        fit={key: FIT[key](value) for key, value in content.items() if key in FIT},
    )


def check_phases(phases: tuple[Phase, ...]) -> None:
    """Finds what cannot be made now, and not after the phases before it.

    Raises:
        ValueError: there is no phase, two have one name, or something in one cannot be made.
    """
    if phases and phases[0].from_best:
        raise ValueError(f"{phases[0].name} is the first phase: there is no best epoch before it")
    if not phases or len({phase.name for phase in phases}) < len(phases):
        raise ValueError(f"phases must be at least one, of different names, got {len(phases)}")
    before = "dense"
    for phase in phases:
        method = None
        if phase.method != UNDER_MASKS or "masks" in phase.options:
            method = phase.make_method()
        elif before == "dense" or phase.options:
            raise ValueError(
                f"{phase.name} is under the masks of the phase before it: that must find some, and "
                "no options are taken"
            )
        if why := refuses_gaps(phase.evaluate_every, method, phase.make_schedule()):
            raise ValueError(f"{phase.name}: {why}")
        phase.arguments()
        before = phase.method


def only(table: Mapping[str, Any], known: set[str], what: str) -> None:
    """Raises ValueError if a table of a file holds something else."""
    if unknown := sorted(set(table) - known):
        raise ValueError(f"{what} may hold {', '.join(sorted(known))}, not {', '.join(unknown)}")
