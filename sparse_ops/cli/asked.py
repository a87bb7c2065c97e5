"""What `sparse-ops train` was asked for, and the recipe that this is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_ops.cli.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from sparse_ops.data import Dataset
    from sparse_ops.training.recipes import Recipe

EPOCHS = 30


@dataclass(frozen=True)
class Asked:
    """The options of the command; None where nothing was said."""

    recipe: str | None
    method: str | None
    model: str | None
    more: tuple[str, ...]
    unset: tuple[str, ...]
    shorten: float
    sparsity: float | None
    pattern: str | None
    masks: Path | None
    start: Path | None
    key: str
    trust_pickle: bool
    data: str | None
    folder: Path | None
    validation: float | None
    epochs: int | None
    lr: float | None
    optimizer: str | None
    schedule: str | None
    evaluate_every: int | None
    batch_size: int | None
    amp: str | None
    seed: int

    def check(self) -> None:
        """Raises UserError if the options do not go together."""
        if self.recipe is None:
            if self.shorten != 1:
                raise UserError("--shorten is for a --recipe")
            if self.unset:
                raise UserError("--unset is for a --recipe")
            if self.model is None or self.method is None:
                raise UserError("--model and --method are needed, or a --recipe")
            if self.epochs is not None and self.epochs < 0:
                raise UserError(f"--epochs must be 0 or more, got {self.epochs}")
            return
        if self.method is not None or self.epochs is not None or self.lr is not None:
            raise UserError(
                "a recipe has its own method, epochs and lr: change them with --set, "
                "such as --set gsm.epochs=3, or all epochs with --shorten"
            )
        if self.sparsity is not None or self.pattern is not None or self.masks is not None:
            raise UserError("a recipe has its own: --set PHASE.options.sparsity=0.9")

    @property
    def overrides(self) -> dict[str, Any]:
        """What takes the place of something in a recipe, by dotted keys."""
        given = {
            "model.name": self.model,
            "data.name": self.data,
            "data.folder": None if self.folder is None else str(self.folder),
            "data.batch_size": self.batch_size,
            "data.validation": self.validation,
        }
        found = {key: value for key, value in given.items() if value is not None}
        return found | overrides_of(option for option in self.more if _dotted(option))

    @property
    def given(self) -> set[str]:
        """Dotted keys of what options for all phases leave alone."""
        rate = set() if self.lr is None else {f"{self.method}.lr"}
        return rate | set(self.overrides)


@dataclass(frozen=True)
class Prepared:
    """A recipe that can be carried out.

    Attributes:
        published: the recipe as its authors have it; None for a plan.
        changed: what shortening has made of it, dotted key → (before, after).
    """

    recipe: "Recipe"
    published: "Recipe | None"
    data: "Dataset"
    model: "nn.Module"
    changed: dict[str, tuple[Any, Any]]


def prepared(asked: Asked) -> Prepared:
    """The recipe, its data and its network.

    Raises:
        UserError, ValueError: there is no such thing, or something does not go with another.
        OSError: a file cannot be read.
    """
    from sparse_ops.cli import checkpoints
    from sparse_ops.training import recipes
    from sparse_ops.training.recipes.inputs import load_data

    published, changed = None, {}
    if asked.recipe is not None:
        published = recipes.read(asked.recipe)
        recipe = recipes.read(asked.recipe, asked.overrides, asked.unset)
        data = load_data(recipe)
        model = _network(recipe, data, asked.seed)
        pace = recipes.Pace.of(published, recipe, len(data.train))
        short = recipes.shortened(recipe, asked.shorten, pace, given=asked.overrides)
        changed = recipes.differences(recipe, short)
        recipe = short
    else:
        recipe, data, model = _planned(asked)
    if asked.optimizer is not None:
        recipe = recipes.with_optimizer(recipe, asked.optimizer, asked.given)
    if asked.schedule is not None:
        recipe = recipes.with_schedule(recipe, asked.schedule, asked.given)
    if asked.evaluate_every is not None:
        recipe = recipes.with_evaluation(recipe, asked.evaluate_every, asked.given)
    if asked.start is not None:
        if asked.recipe is not None:
            recipe = recipes.started(recipe)
        checkpoints.load_(model, checkpoints.contents(asked.start, asked.trust_pickle), asked.key)
    return Prepared(recipe, published, data, model, changed)


def overrides_of(settings: Any) -> dict[str, Any]:
    """{"gsm.epochs": 3} of "gsm.epochs=3".

    Raises:
        UserError: there is no = in one.
    """
    from sparse_ops.training.recipes.recipe import value_of

    found = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set must be KEY=VALUE, such as gsm.epochs=3, got {setting!r}")
        found[key.strip()] = value_of(value.strip())
    return found


def _planned(asked: Asked) -> "tuple[Recipe, Dataset, nn.Module]":
    """The plan of a method, and what it is for."""
    from sparse_ops.cli.methods import method_options
    from sparse_ops.training import recipes
    from sparse_ops.training.recipes.inputs import has_norms, load_data
    from sparse_ops.training.recipes.recipe import as_content, made

    assert asked.method is not None and asked.model is not None
    plain: Sequence[str] = [option for option in asked.more if not _dotted(option)]
    options = method_options(asked.method, asked.sparsity, asked.pattern, asked.masks, plain)
    overrides = asked.overrides
    tables: dict[str, dict[str, Any]] = {
        "model": {"name": asked.model},
        "data": {"name": "fashion-mnist-subset", "batch_size": 128},
    }
    # Of the phases the rest of them is, which are not there yet.
    of_phases = {}
    for key, value in overrides.items():
        table, _, rest = key.partition(".")
        if table in tables:
            tables[table][rest] = value
        else:
            of_phases[key] = value
    # Whether there is BatchNorm in it has to be known before the plan is.
    bare = made(asked.method, _nothing(tables))
    data = load_data(bare)
    model = _network(bare, data, asked.seed)
    recipe = recipes.planned(
        asked.method,
        options,
        model=tables["model"],
        data=tables["data"],
        images=len(data.train),
        norms=has_norms(model),
        epochs=EPOCHS if asked.epochs is None else asked.epochs,
        started=asked.start is not None,
        lr=asked.lr,
    )
    return made(recipe.name, as_content(recipe), of_phases), data, model


def _nothing(tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A recipe that trains nothing, with that data and model."""
    phase = {"name": "none", "method": "dense", "epochs": 0}
    return {"title": "none", "source": "none", "phases": [phase], **tables}


def _network(recipe: "Recipe", data: "Dataset", seed: int) -> "nn.Module":
    """The recipe's network, or somebody else's, with first weights of that seed."""
    from sparse_ops.cli import networks
    from sparse_ops.training.recipes.inputs import build_model
    from sparse_ops.training.recipes.small import fresh

    name = recipe.model["name"]
    if ":" in name:
        return fresh(lambda: networks.build(name), seed)
    return build_model(recipe, data, seed)


def _dotted(option: str) -> bool:
    return "." in option.partition("=")[0]
