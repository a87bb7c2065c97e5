"""A recipe with fewer epochs, for machines and days that are smaller."""

from dataclasses import replace
from typing import Any

from sparse_ops.training.recipes.phase import Phase
from sparse_ops.training.recipes.recipe import Recipe

# Options of methods that are a number of epochs; all of them together are a whole run.
LENGTHS = {"warm_up", "max_epochs", "fine_tune"}
# Those that are a moment in the run, which may be its beginning.
MOMENTS = {"begin", "end"}


def shortened(recipe: Recipe, factor: float) -> Recipe:
    """All epochs, and what schedules and methods count in them, times `factor`; at least one.

    A phase without epochs, which only masks, stays without.

    Raises:
        ValueError: factor is not above 0.
    """
    if not factor > 0:
        raise ValueError(f"the factor on epochs must be above 0, got {factor}")
    return replace(recipe, phases=tuple(_phase(phase, factor) for phase in recipe.phases))


def _phase(phase: Phase, factor: float) -> Phase:
    options = dict(phase.options)
    for key in LENGTHS & set(options):
        options[key] = _at_least_one(options[key], factor)
    for key in MOMENTS & set(options):
        options[key] = round(options[key] * factor)
    if "drops" in options:
        options["drops"] = sorted({_at_least_one(drop, factor) for drop in options["drops"]})
    # Phases of a method that are rounded up must still fit in.
    epochs = (
        sum(options[key] for key in LENGTHS)
        if set(options) >= LENGTHS
        else _at_least_one(phase.epochs, factor)
    )
    return replace(
        phase, epochs=epochs, schedule=_schedule(phase.schedule, factor, epochs), options=options
    )


def _schedule(schedule: dict[str, Any], factor: float, epochs: int) -> dict[str, Any]:
    found = dict(schedule)
    if "boundaries" in found:
        scaled = {round(boundary * factor) for boundary in found["boundaries"]}
        found["boundaries"] = sorted(b for b in scaled if 0 < b < epochs)
    if "warm_up" in found:
        found["warm_up"] = min(round(found["warm_up"] * factor), max(0, epochs - 1))
    return found


def _at_least_one(epochs: int, factor: float) -> int:
    return max(1, round(epochs * factor)) if epochs else 0
