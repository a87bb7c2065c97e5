"""A recipe with another optimizer, another schedule, or weights to begin with."""

from dataclasses import replace
from typing import Any

from sparse_ops.training.recipes.phase import OPTIMIZERS, SCHEDULES, Phase
from sparse_ops.training.recipes.recipe import Recipe

# Rates that an optimizer is commonly begun with; what a recipe says is for its own.
RATES = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3, "adagrad": 1e-2}
# Arguments of `fit` that are of one optimizer, and not of another in its place.
OF_ONE_OPTIMIZER = ("lr", "momentum", "nesterov", "weight_decay")
NONE = "none"


def with_optimizer(recipe: Recipe, name: str) -> Recipe:
    """All phases with that optimizer, at a rate that it is commonly begun with.

    Those that have it already stay as they are.

    Raises:
        ValueError: there is no such optimizer, or a method of the recipe is for SGD only.
    """
    if name not in RATES:
        raise ValueError(f"there is no optimizer {name!r}; there are {', '.join(RATES)}")

    def changed(phase: Phase) -> Phase:
        if phase.optimizer == name or not phase.epochs:
            return phase
        if phase.method == "gsm":
            raise ValueError(f"{phase.name} is GSM, whose momentum is that of SGD, not of {name}")
        fit: dict[str, Any] = {k: v for k, v in phase.fit.items() if k not in OF_ONE_OPTIMIZER}
        fit["lr"] = RATES[name]
        if name not in OPTIMIZERS:
            fit |= {"momentum": 0.9, "nesterov": True}
        return replace(phase, optimizer=name, fit=fit)

    return replace(recipe, phases=tuple(changed(phase) for phase in recipe.phases))


def with_schedule(recipe: Recipe, name: str) -> Recipe:
    """All phases with that schedule, which rises as long as it did.

    "multi-step" drops to a tenth after a half and three quarters of the epochs; "none" stays at one
    rate.

    Raises:
        ValueError: there is no such schedule, or it is a plateau and nothing is held out to watch.
    """
    if name not in (*SCHEDULES, NONE):
        raise ValueError(f"there is no schedule {name!r}; there are {', '.join(SCHEDULES)}, {NONE}")
    if name == "plateau" and "validation" not in recipe.data:
        raise ValueError("a plateau needs data.validation to watch")

    def changed(phase: Phase) -> Phase:
        if not phase.epochs:
            return phase
        rise = {"warm_up": phase.schedule["warm_up"]} if "warm_up" in phase.schedule else {}
        schedule: dict[str, Any] = {"name": name}
        if name == "multi-step":
            schedule |= {"boundaries": [phase.epochs / 2, phase.epochs * 3 / 4]}
        if name in ("cosine", "multi-step"):
            schedule |= rise
        return replace(phase, schedule={} if name == NONE else schedule)

    return replace(recipe, phases=tuple(changed(phase) for phase in recipe.phases))


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
