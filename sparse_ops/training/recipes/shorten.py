"""A recipe in fewer steps, for machines and days that are smaller: less of all that adds up.

Epochs, and what schedules and methods count in them, are multiplied. What acts in each step or
epoch then has fewer of them to act in, and is made stronger: `strengths.py` says how. Steps are
fewer too where the images are fewer than those that the recipe was made for.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparse_ops.training.recipes import strengths
from sparse_ops.training.recipes.phase import SCHEDULES, Phase
from sparse_ops.training.recipes.recipe import Recipe
from sparse_ops.training.schedules import Course

# Options of methods that are a number of epochs; all of them together are a whole run.
LENGTHS = {"warm_up", "max_epochs", "fine_tune"}
# Those that are a moment in the run, which may be its beginning.
MOMENTS = {"begin", "end"}
# Images to learn from, by the name of the data set.
IMAGES = {
    "fashion-mnist-subset": 10_000,
    "fashion-mnist": 60_000,
    "mnist": 60_000,
    "digits": 8_004,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "tiny-imagenet": 100_000,
}


@dataclass(frozen=True)
class Pace:
    """Steps of an epoch: `own`, of those whose recipe it is, and `now`."""

    own: int
    now: int

    @classmethod
    def of(cls, published: Recipe, now: Recipe, images: int) -> "Pace":
        """Of a recipe as it was published and as it is to be carried out, on so many images."""
        before = IMAGES.get(published.data["name"], published.data.get("images"))
        here = _steps(now, images)
        return cls(here if before is None else _steps(published, before), here)


def shortened(
    recipe: Recipe,
    factor: float,
    pace: Pace | None = None,
    *,
    given: Collection[str] = (),
    counts_only: bool = False,
) -> Recipe:
    """All epochs times `factor`, at least one a phase, and what acts in them the stronger.

    What is rounded in one phase is made up for in another, so that the sum is right. A phase
    without epochs, which only masks, stays without. Nothing is made weaker where there are more
    steps than in the recipe.

    Args:
        pace: default: an epoch has as many steps as it had.
        given: dotted keys, as `read` takes them, of what stays as strong as it is.
        counts_only: whether all stays as strong as it is.

    Raises:
        ValueError: factor is not above 0.
    """
    if not factor > 0:
        raise ValueError(f"the factor on epochs must be above 0, got {factor}")
    if pace is None:
        images = IMAGES.get(recipe.data["name"], recipe.data.get("images", 10_000))
        pace = Pace(_steps(recipe, images), _steps(recipe, images))
    lengths = [_length(phase, given) for phase in recipe.phases]
    epochs = apportioned(lengths, round(sum(lengths) * factor))
    phases = []
    for phase, length in zip(recipe.phases, epochs, strict=True):
        short = _counts(phase, factor, length)
        if short.epochs and factor * pace.now < pace.own and not counts_only:
            short = _kept(_stronger(phase, short, min(1.0, factor), pace, set(given)), short, given)
        phases.append(short)
    return replace(recipe, phases=tuple(phases))


def differences(before: Recipe, after: Recipe) -> dict[str, tuple[Any, Any]]:
    """What is another in `after`: dotted key → (before, after); of phases of the same names."""
    found = {}
    for one, other in zip(before.phases, after.phases, strict=True):
        for key, value in _flat(other).items():
            if (old := _flat(one).get(key)) != value:
                found[f"{other.name}.{key}"] = old, value
    return found


def apportioned(lengths: Sequence[int], total: int) -> list[int]:
    """Whole numbers in proportion to `lengths` that sum to `total`; a length above 0 stays so.

    The sum is larger only where there are more lengths above 0 than `total`.
    """
    exact = [length * total / max(1, sum(lengths)) for length in lengths]
    found = [
        max(1, int(part)) if length else 0 for length, part in zip(lengths, exact, strict=True)
    ]

    def lacks(i: int) -> float:
        return exact[i] - found[i]

    while sum(found) < total and any(lengths):
        found[max((i for i, length in enumerate(lengths) if length), key=lacks)] += 1
    while sum(found) > total and max(found) > 1:
        found[min((i for i, part in enumerate(found) if part > 1), key=lacks)] -= 1
    return found


def _length(phase: Phase, given: Collection[str]) -> int:
    """Epochs of a phase: the sum of its method's parts, unless the phase's own were given."""
    parts = [phase.options[key] for key in LENGTHS if key in phase.options]
    said = {key.removeprefix(f"{phase.name}.").removeprefix("options.") for key in given}
    if len(parts) < len(LENGTHS) or ("epochs" in said and not LENGTHS & said):
        return phase.epochs
    return sum(parts)


def _counts(phase: Phase, factor: float, epochs: int) -> Phase:
    """So many epochs, and what options and schedule count in them."""
    options, parts = dict(phase.options), sorted(LENGTHS & set(phase.options))
    if len(parts) == len(LENGTHS):
        options |= zip(parts, apportioned([options[key] for key in parts], epochs), strict=True)
        epochs = sum(options[key] for key in parts)
    else:
        options |= {key: _at_least_one(options[key], factor) for key in parts}
    for key in MOMENTS & set(options):
        # What ends after some epochs does not end before the first.
        options[key] = max(round(options[key] * factor), int(key == "end" and options[key] > 0))
    if "drops" in options:
        options["drops"] = sorted({_at_least_one(drop, factor) for drop in options["drops"]})
    return replace(
        phase, epochs=epochs, schedule=_schedule(phase.schedule, factor, epochs), options=options
    )


def _stronger(phase: Phase, short: Phase, factor: float, pace: Pace, given: set[str]) -> Phase:
    """`short`, with what acts in its fewer steps made stronger."""
    share = short.epochs * pace.now / (phase.epochs * pace.own)
    fit, options, schedule = dict(short.fit), dict(short.options), dict(short.schedule)
    if schedule.get("name") == "plateau":
        patience = schedule.get("patience", SCHEDULES["plateau"].patience)
        schedule["patience"] = _at_least_one(patience, factor)
    gated = short.method == "spred" and options.get("gate") == "bn"
    if gated:
        fit = strengths.gates(fit, short.optimizer, share)
    elif short.optimizer in strengths.ADAMS:
        fit = strengths.adam(fit, share)
    way = min(1.0, share * fit.get("lr", 1.0) / phase.fit.get("lr", 1.0))
    if short.method == "gsm" and short.optimizer == "sgd":
        fit = strengths.gsm(
            fit,
            Course(phase.epochs, pace.own, phase.make_schedule()),
            Course(short.epochs, pace.now, short.make_schedule()),
            [key for key in fit if f"{short.name}.{key}" in given],
        )
    elif short.method == "hypersparse":
        options = strengths.hypersparse(options, factor, way)
    elif short.method == "sabr":
        options = strengths.sabr(options, factor, way)
    elif short.method == "spred":
        # With the larger rate alone the penalty of gates stays lost in the noise of few steps.
        options = strengths.spred(options, share if gated else way)
    return replace(short, fit=fit, options=options, schedule=schedule)


def _kept(stronger: Phase, short: Phase, given: Collection[str]) -> Phase:
    """`stronger`, but for what was given."""

    def chosen(table: dict[str, Any], plain: dict[str, Any], path: str) -> dict[str, Any]:
        return {
            key: plain[key] if f"{short.name}.{path}{key}" in given else value
            for key, value in table.items()
        }

    return replace(
        stronger,
        fit=chosen(stronger.fit, short.fit, ""),
        options=chosen(stronger.options, short.options, "options."),
    )


def _schedule(schedule: dict[str, Any], factor: float, epochs: int) -> dict[str, Any]:
    found = dict(schedule)
    if "boundaries" in found:
        scaled = (strengths.rounded(boundary * factor) for boundary in found["boundaries"])
        found["boundaries"] = sorted({b for b in scaled if 0 < b < epochs})
    if "warm_up" in found:
        scaled_up = strengths.rounded(found["warm_up"] * factor)
        found["warm_up"] = round(scaled_up) if found.get("by_epoch") else min(scaled_up, epochs / 2)
    return found


def _flat(phase: Phase) -> dict[str, Any]:
    options = {f"options.{key}": value for key, value in phase.options.items()}
    schedule = {f"schedule.{key}": value for key, value in phase.schedule.items()}
    return {"epochs": phase.epochs, **options, **schedule, **phase.fit}


def _steps(recipe: Recipe, images: int) -> int:
    learned = round(images * (1 - recipe.data.get("validation", 0.0)))
    return max(1, -(-learned // int(recipe.data.get("batch_size", 128))))


def _at_least_one(epochs: int, factor: float) -> int:
    return max(1, round(epochs * factor)) if epochs else 0
