"""A recipe as data: what is read from a TOML file, checked and overridden.

    title, source, published (a table), remark
    [data]      name, batch_size; folder, size; mean and deviation, where not the set's own;
                validation: the fraction of the training images that is held out; images: how many
                there are to learn from, where that is not known by the set's name
    [model]     name; options of its function
    [[phases]]  name, method, epochs; options of the method; schedule, a table with its name and
                options; restart; from_best; optimizer; label_smoothing; arguments of `fit`: lr,
                momentum, weight_decay, nesterov, bias_lr, decay_all, clip, amp, evaluate_every

Each phase goes on with the weights that the one before it has left; with `restart`, with the first
weights of all; with `from_best`, with those of the epoch of the phase before that was best on the
images held out. The method "fixed" is under the masks that the phase before it has found: behind
"gsm", with `restart`, that is its lottery ticket.
"""

import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sparse_ops.data import NAMES
from sparse_ops.models import MODELS
from sparse_ops.training.recipes.phase import Phase, check_phases, only, phase_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
DATA = ("name", "folder", "size", "images", "batch_size", "mean", "deviation", "validation")
# What is said of one data set, and not of another that takes its place.
OF_ONE_SET = ("folder", "size", "images", "mean", "deviation")


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


def read(
    name: str, overrides: Mapping[str, Any] | None = None, unset: Iterable[str] = ()
) -> Recipe:
    """Reads a recipe of the package, or one's own file.

    Args:
        name: one of `names()`, or the path of a file that ends in .toml.
        overrides: values in place of those in the file, by dotted keys: "data.name", "model.name",
            "<phase>.epochs", "<phase>.options.sparsity", "<phase>.schedule.boundaries". With other
            data, what the file says of its own's folder, size and colours is forgotten; with
            another model, the options that this one does not have.
        unset: dotted keys of what is taken out of the file, before values are put in.

    Raises:
        ValueError: there is no such recipe, it says what no recipe can, or an override or one of
            `unset` is for nothing in it.
        OSError: the file cannot be read.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in names():
        near = get_close_matches(name, names(), 3, 0.4)
        alike = f"; there are {', '.join(near)}" if near else ""
        raise ValueError(f"there is no recipe {name!r}{alike}; `sparse-ops recipes` lists them all")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML file: {error}") from error
    return made(path.stem, content, overrides, unset)


def made(
    name: str,
    content: dict[str, Any],
    overrides: Mapping[str, Any] | None = None,
    unset: Iterable[str] = (),
) -> Recipe:
    """The recipe of what a file says; arguments and errors as of `read`."""
    try:
        for key in unset:
            _unset(content, key)
        for key, value in (overrides or {}).items():
            _override(content, key, value)
        _forget(content, {} if overrides is None else overrides)
        return _recipe(name, content)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"recipe {name}: {error}") from error


def as_content(recipe: Recipe) -> dict[str, Any]:
    """What a file would say, for `made` to make the recipe again."""
    phases = []
    for phase in recipe.phases:
        table = asdict(phase)
        phases.append(table | table.pop("fit"))
    return {
        "title": recipe.title,
        "source": recipe.source,
        "remark": recipe.remark,
        "published": dict(recipe.published),
        "data": dict(recipe.data),
        "model": dict(recipe.model),
        "phases": phases,
    }


def value_of(text: str) -> Any:
    """What a value in TOML says; text that is none stands for itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _override(content: dict[str, Any], key: str, value: Any) -> None:
    table, rest = _table(content, key)
    for part in rest[:-1]:
        table = table.setdefault(part, {})
    table[rest[-1]] = value


def _forget(content: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Takes out what was said of other data, or of another network, than there are now."""
    if "data.name" in overrides:
        for key in OF_ONE_SET:
            if f"data.{key}" not in overrides:
                content["data"].pop(key, None)
    make = MODELS.get(content["model"]["name"])
    if "model.name" in overrides and make is not None:
        for key in set(content["model"]) - {"name", *inspect.signature(make).parameters}:
            if f"model.{key}" not in overrides:
                del content["model"][key]


def _unset(content: dict[str, Any], key: str) -> None:
    table, rest = _table(content, key)
    for part in rest[:-1]:
        table = table.get(part, {})
    if rest[-1] not in table:
        raise ValueError(f"there is no {key!r} to unset")
    del table[rest[-1]]


def _table(content: dict[str, Any], key: str) -> tuple[Any, list[str]]:
    """The part of a file that a dotted key is of, and the rest of the key."""
    first, *rest = key.split(".")
    table: Any = None
    if first in ("data", "model"):
        table = content[first]
    else:
        table = next((p for p in content["phases"] if p.get("name") == first), None)
    if table is None or not rest:
        phases = ", ".join(str(p.get("name")) for p in content["phases"])
        raise ValueError(f"{key!r} must begin with data, model or a phase ({phases}), and go on")
    return table, rest


def _recipe(name: str, content: dict[str, Any]) -> Recipe:
    only(content, {"title", "source", "published", "remark", "data", "model", "phases"}, "it")
    data, model = dict(content["data"]), dict(content["model"])
    only(data, {*DATA}, "data")
    if data["name"] not in NAMES:
        raise ValueError(f"there is no data set {data['name']!r}; there are {', '.join(NAMES)}")
    # Of somebody else's network, package.module:function, nothing is known here.
    if ":" not in model["name"]:
        if model["name"] not in MODELS:
            raise ValueError(f"there is no model {model['name']!r}; there are {', '.join(MODELS)}")
        only(model, {"name", *inspect.signature(MODELS[model["name"]]).parameters}, "model")
    phases = tuple(phase_of(phase) for phase in content["phases"])
    check_phases(phases)
    if "validation" in data:
        data["validation"] = float(data["validation"])
    elif plateaus := [phase.name for phase in phases if phase.schedule.get("name") == "plateau"]:
        raise ValueError(f"the plateau of {', '.join(plateaus)} needs data.validation to watch")
    elif choosy := [phase.name for phase in phases if phase.from_best]:
        raise ValueError(f"from_best of {', '.join(choosy)} needs data.validation to go by")
    elif rare := [phase.name for phase in phases if phase.evaluate_every > 1]:
        raise ValueError(f"evaluate_every of {', '.join(rare)} needs data.validation to evaluate")
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
