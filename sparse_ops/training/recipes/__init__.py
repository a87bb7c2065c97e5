"""Whole runs: two small ones for the demonstration, and the published experiments, as TOML files.

A file says what a published experiment trains, on what, how long and how, and what came of it.
"""

from sparse_ops.training.recipes.changes import (
    started,
    with_evaluation,
    with_optimizer,
    with_schedule,
)
from sparse_ops.training.recipes.phase import Phase, pattern_named
from sparse_ops.training.recipes.plans import planned
from sparse_ops.training.recipes.recipe import Recipe, names, read
from sparse_ops.training.recipes.runs import PhaseOutcome, run
from sparse_ops.training.recipes.shorten import Pace, differences, shortened
from sparse_ops.training.recipes.small import (
    RECIPES,
    Outcome,
    lenet300_gsm,
    small_vgg_predefined,
)

__all__ = [
    "RECIPES",
    "Outcome",
    "Pace",
    "Phase",
    "PhaseOutcome",
    "Recipe",
    "differences",
    "lenet300_gsm",
    "names",
    "pattern_named",
    "planned",
    "read",
    "run",
    "shortened",
    "small_vgg_predefined",
    "started",
    "with_evaluation",
    "with_optimizer",
    "with_schedule",
]
