"""A recipe with another optimizer or schedule, fewer evaluations, or weights to begin with.

What is changed in all phases is left alone where it was given for one: `given` has the dotted keys
of that, as `read` takes them.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from sparse_ops.training.recipes.phase import OPTIMIZERS, SCHEDULES, Phase, check_phases
from sparse_ops.training.recipes.recipe import Recipe

# Rates that an optimizer is commonly begun with; what a recipe says is for its own.
RATES = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3, "adagrad": 1e-2}
# Arguments of `fit` that are of one optimizer, and not of another in its place.
OF_ONE_OPTIMIZER = ("lr", "momentum", "nesterov", "weight_decay")
NONE = "none"


def with_optimizer(recipe: Recipe, name: str, given: Collection[str] = ()) -> Recipe:
    """All phases with that optimizer, at a rate that it is commonly begun with or at the given one.

    Those that have it already stay as they are. Momentum and weight decay are taken over only where
    they were given.

    Raises:
        ValueError: there is no such optimizer, it does not take what was given, or a method of the
            recipe is for SGD only.
    """
    if name not in RATES:
        raise ValueError(f"there is no optimizer {name!r}; there are {', '.join(RATES)}")

    def changed(phase: Phase) -> Phase:
        said = _said_of(phase, given)
        if phase.optimizer == name or "optimizer" in said:
            return phase
        if phase.method == "gsm":
            raise ValueError(f"{phase.name} is GSM, whose momentum is that of SGD, not of {name}")
        kept = {k: v for k, v in phase.fit.items() if k not in OF_ONE_OPTIMIZER or k in said}
        fit: dict[str, Any] = {"lr": RATES[name]} | kept
        if name not in OPTIMIZERS:
            momentum = fit.setdefault("momentum", 0.9)
            # torch has no Nesterov without momentum.
            fit.setdefault("nesterov", momentum > 0)
        return replace(phase, optimizer=name, fit=fit)

    return _changed(recipe, changed)


def with_schedule(recipe: Recipe, name: str, given: Collection[str] = ()) -> Recipe:
    """All phases with that schedule, which rises as long as it did.

    "multi-step" drops to a tenth after a half and three quarters of the epochs; "none" stays at one
    rate.

    Raises:
        ValueError: there is no such schedule, it does not take what was given, or it is a plateau
            and nothing is held out to watch.
    """
    if name not in (*SCHEDULES, NONE):
        raise ValueError(f"there is no schedule {name!r}; there are {', '.join(SCHEDULES)}, {NONE}")
    if name == "plateau" and "validation" not in recipe.data:
        raise ValueError("a plateau needs data.validation to watch")

    def changed(phase: Phase) -> Phase:
        said = _said_of(phase, given)
        if {"schedule", "schedule.name"} & said:
            return phase
        kept = {k: v for k, v in phase.schedule.items() if f"schedule.{k}" in said}
        if name == NONE:
            if kept:
                raise ValueError(
                    f"{phase.name} is to have no schedule, and {', '.join(kept)} of it"
                )
            return replace(phase, schedule={})
        schedule: dict[str, Any] = {"name": name}
        if name == "multi-step":
            schedule |= {"boundaries": [phase.epochs / 2, phase.epochs * 3 / 4]}
        if name in ("cosine", "multi-step") and "warm_up" in phase.schedule:
            schedule |= {"warm_up": phase.schedule["warm_up"]}
        return replace(phase, schedule=schedule | kept)

    return _changed(recipe, changed)


def with_evaluation(recipe: Recipe, every: int, given: Collection[str] = ()) -> Recipe:
    """All phases with the images held out looked at after each `every`-th epoch, and the last.

    Raises:
        ValueError: nothing is held out, or something in a phase watches each epoch.
    """
    if every > 1 and "validation" not in recipe.data:
        raise ValueError("evaluate_every needs data.validation to evaluate")

    def changed(phase: Phase) -> Phase:
        if "evaluate_every" in _said_of(phase, given):
            return phase
        return replace(phase, fit=phase.fit | {"evaluate_every": every})

    return _changed(recipe, changed)


def started(recipe: Recipe) -> Recipe:
    """The recipe for a network that is trained already: without the dense training it begins with.

    Where a later phase goes back to the first weights, a lottery ticket, the weights given are
    those, and nothing is left out.

    Raises:
        ValueError: it is dense training and nothing else.
    """
    if any(phase.restart for phase in recipe.phases):
        return recipe
    first = next((i for i, phase in enumerate(recipe.phases) if phase.method != "dense"), None)
    if first is None:
        raise ValueError(f"{recipe.name} is dense training: there is nothing to do from there on")
    begin = replace(recipe.phases[first], from_best=False)
    return replace(recipe, phases=(begin, *recipe.phases[first + 1 :]))


def _changed(recipe: Recipe, change: Callable[[Phase], Phase]) -> Recipe:
    """The recipe with a change of each phase that has epochs."""
    phases = tuple(change(phase) if phase.epochs else phase for phase in recipe.phases)
    check_phases(phases)
    return replace(recipe, phases=phases)


def _said_of(phase: Phase, given: Collection[str]) -> set[str]:
    """What was given for a phase: of "gsm.lr" and "gsm.schedule.gamma", lr and schedule.gamma."""
    begin = f"{phase.name}."
    return {key.removeprefix(begin) for key in given if key.startswith(begin)}
