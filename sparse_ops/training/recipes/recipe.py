"""A recipe as data: what is read from a TOML file, checked, overridden, shortened.

    title, source, published (a table), remark
    [data]      name, batch_size; mean and deviation, where they are not the set's own
    [model]     name; options of its function
    [[phases]]  name, method, epochs; options of the method; schedule, a table with its name and
                options; arguments of `fit`: lr, momentum, weight_decay, nesterov, bias_lr,
                decay_all, clip, amp

Each phase goes on with the weights that the one before it has left.
"""

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparse_ops.data import NAMES
from sparse_ops.models import MODELS
from sparse_ops.patterns import NAMED, Periodic
from sparse_ops.training import METHODS, Dense, SparsityMethod
from sparse_ops.training.predefined import Aperiodic
from sparse_ops.training.schedules import Cosine, MultiStep, Plateau, Schedule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
SCHEDULES: dict[str, Any] = {"multi-step": MultiStep, "cosine": Cosine, "plateau": Plateau}
# Options of methods that count epochs, as `drops` does; all of them together are a whole run.
EPOCH_OPTIONS = {"warm_up", "max_epochs", "fine_tune"}
FIT = {
    "lr": float,
    "momentum": float,
    "weight_decay": float,
    "nesterov": bool,
    "bias_lr": float,
    "decay_all": bool,
    "clip": float,
    "amp": str,
}


@dataclass(frozen=True)
class Phase:
    """One call of `fit`.

    Attributes:
        method: a name in METHODS, or "dense".
        options: of the method.
        schedule: "name" and options, or nothing.
        fit: other arguments.
    """

    name: str
    method: str
    epochs: int
    options: dict[str, Any]
    schedule: dict[str, Any]
    fit: dict[str, Any]

    def make_method(self) -> SparsityMethod:
        """Raises ValueError if there is no such method, or it does not take these options."""
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


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Attributes:
        name: of the file.
        title, source, remark: in words.
        published: what the source reports, as numbers with names; accuracies in percent.
        data, model: as in the file.
        phases: one after the other, at least one.
    """

    name: str
    title: str
    source: str
    remark: str
    published: dict[str, float]
    data: dict[str, Any]
    model: dict[str, Any]
    phases: tuple[Phase, ...]


def names() -> tuple[str, ...]:
    """All recipes that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def read(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Reads a recipe of the package, or one's own file.

    Args:
        name: one of `names()`, or the path of a file that ends in .toml.
        overrides: values in place of those in the file, by dotted keys: "data.name", "model.name",
            "<phase>.epochs", "<phase>.options.sparsity", "<phase>.schedule.boundaries".

    Raises:
        ValueError: there is no such recipe, it says what no recipe can, or an override is for
            nothing in it.
        OSError: the file cannot be read.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in names():
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(names())}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML file: {error}") from error
    try:
        for key, value in (overrides or {}).items():
            _override(content, key, value)
        return _recipe(path.stem, content)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"recipe {path.stem}: {error}") from error


def value_of(text: str) -> Any:
    """What a value in TOML says; text that is none stands for itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


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


def shortened(recipe: Recipe, factor: float) -> Recipe:
    """All epochs, and what schedules and methods count in them, times `factor`; at least one.

    Raises:
        ValueError: factor is not above 0.
    """
    if not factor > 0:
        raise ValueError(f"the factor on epochs must be above 0, got {factor}")
    phases = []
    for phase in recipe.phases:
        epochs = max(1, round(phase.epochs * factor))
        schedule = dict(phase.schedule)
        if "boundaries" in schedule:
            scaled = {round(boundary * factor) for boundary in schedule["boundaries"]}
            schedule["boundaries"] = sorted(b for b in scaled if 0 < b < epochs)
        if "warm_up" in schedule:
            schedule["warm_up"] = min(round(schedule["warm_up"] * factor), epochs - 1)
        options = dict(phase.options)
        for key in EPOCH_OPTIONS & set(options):
            options[key] = max(1, round(options[key] * factor))
        if "drops" in options:
            options["drops"] = sorted({max(1, round(drop * factor)) for drop in options["drops"]})
        # Phases of a method that are rounded up must still fit in.
        if set(options) >= EPOCH_OPTIONS:
            epochs = sum(options[key] for key in EPOCH_OPTIONS)
        phases.append(replace(phase, epochs=epochs, schedule=schedule, options=options))
    return replace(recipe, phases=tuple(phases))


def _override(content: dict[str, Any], key: str, value: Any) -> None:
    first, *rest = key.split(".")
    table: Any = None
    if first in ("data", "model"):
        table = content[first]
    else:
        table = next((p for p in content["phases"] if p.get("name") == first), None)
    if table is None or not rest:
        phases = ", ".join(str(p.get("name")) for p in content["phases"])
        raise ValueError(f"{key!r} must begin with data, model or a phase ({phases}), and go on")
    for part in rest[:-1]:
        table = table.setdefault(part, {})
    table[rest[-1]] = value


def _recipe(name: str, content: dict[str, Any]) -> Recipe:
    _only(content, {"title", "source", "published", "remark", "data", "model", "phases"}, "it")
    data, model = dict(content["data"]), dict(content["model"])
    _only(data, {"name", "folder", "batch_size", "mean", "deviation"}, "data")
    if data["name"] not in NAMES:
        raise ValueError(f"there is no data set {data['name']!r}; there are {', '.join(NAMES)}")
    if model["name"] not in MODELS:
        raise ValueError(f"there is no model {model['name']!r}; there are {', '.join(MODELS)}")
    _only(model, {"name", *inspect.signature(MODELS[model["name"]]).parameters}, "model")
    phases = tuple(_phase(dict(phase)) for phase in content["phases"])
    if not phases or len({phase.name for phase in phases}) < len(phases):
        raise ValueError(f"phases must be at least one, of different names, got {len(phases)}")
    for phase in phases:
        # What cannot be made is found now, not after the phases before it.
        phase.make_method()
        phase.make_schedule()
    return Recipe(
        name,
        str(content["title"]),
        str(content["source"]),
        str(content.get("remark", "")),
        {key: float(value) for key, value in content.get("published", {}).items()},
        data,
        model,
        phases,
    )


def _phase(content: dict[str, Any]) -> Phase:
    known = {"name", "method", "epochs", "options", "schedule"}
    _only(content, known | set(FIT), "a phase")
    epochs = content["epochs"]
    if type(epochs) is not int or epochs < 0:
        raise ValueError(f"epochs must be a whole number of 0 or more, got {epochs!r}")
    fit = {key: FIT[key](value) for key, value in content.items() if key in FIT}
    return Phase(
        str(content["name"]),
        str(content["method"]),
        epochs,
        dict(content.get("options", {})),
        dict(content.get("schedule", {})),
        fit,
    )


def _only(table: Mapping[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(set(table) - known):
        raise ValueError(f"{what} may hold {', '.join(sorted(known))}, not {', '.join(unknown)}")
