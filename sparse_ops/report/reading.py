"""Finding evidence in run folders and results files: JSON, CSV logs, masks."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sparse_ops import masks
from sparse_ops.report import reading_rows as rows_
from sparse_ops.report import reading_work as works
from sparse_ops.report.evidence import Evidence, History, Layer, Layers, PlanTable, Training

# What a folder of runs may hold; deeper than this nothing is looked for.
DEPTH = 3
PATTERN = re.compile(r"psd?\d+-p\d+")
# What is a number of its own in an experiment's name, a learning rate apart: its level.
LEVEL = re.compile(r"(?<!rate)-\d+(?:\.\d+)?(?:e-\d+)?x?(?=-|$)")


def gather(paths: Iterable[Path]) -> Evidence:
    """Reads folders of `train`, `sweep` and `demo`, and the JSON of `bench`, `claims` and others.

    What is in a folder and is nothing of ours is passed over, and said so in the evidence.

    Raises:
        ValueError: a path that was named holds nothing that a report can show.
        FileNotFoundError: there is no such path.
    """
    found = Evidence()
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}")
        before = _size(found)
        for file in [path] if path.is_file() else _files(path, DEPTH):
            _read(file, _said(file, path), found)
        if _size(found) == before:
            why = "; ".join(found.passed_over.values()) or "there is no JSON, CSV or mask in it"
            raise ValueError(f"{path} holds nothing to report on: {why}")
    return found


def _files(folder: Path, depth: int) -> list[Path]:
    kinds = (".json", ".csv", ".safetensors")
    here = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in kinds)
    if depth > 1:
        for inner in sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != "."):
            here += _files(inner, depth - 1)
    return here


def _said(file: Path, path: Path) -> str:
    """The file as the page names it: from the folder that was given on."""
    return path.name if file == path else f"{path.name or '.'}/{file.relative_to(path).as_posix()}"


def _size(found: Evidence) -> int:
    lists = found.trainings, found.histories, found.timings, found.layers, found.plans
    return sum(len(each) for each in lists) + len(found.claims)


def _read(file: Path, source: str, found: Evidence) -> None:
    readers = {".json": _read_json, ".csv": _read_csv, ".safetensors": _read_masks}
    reader = readers.get(file.suffix)
    if reader is None:
        found.passed_over[source] = f"{source}: .json, .csv and .safetensors are read"
        return
    try:
        reader(file, source, found)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        found.passed_over[source] = f"{source} is not one of ours: {type(error).__name__}: {error}"


def _read_csv(file: Path, source: str, found: Evidence) -> None:
    """The log of a training run."""
    with file.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    if not lines or "epoch" not in lines[0] or "loss" not in lines[0]:
        raise ValueError("a log has the columns epoch and loss, and a line an epoch")
    columns = {name: [_number(line[name]) for line in lines] for name in lines[0]}
    numbers = {name: c for name, c in columns.items() if any(v is not None for v in c)}
    title = file.parent.name if file.stem == "log" else f"{file.parent.name}, {file.stem}"
    found.histories.append(History(source, title, numbers))


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _read_masks(file: Path, source: str, found: Evidence) -> None:
    if file.name != "masks.safetensors":
        # Packed files and checkpoints of the same folder: `sparse-ops show` is for them.
        return
    loaded = masks.load(file)
    layers = tuple(
        Layer(name.removesuffix(".weight"), 1 - float(mask.float().mean()))
        for name, mask in loaded.items()
    )
    found.layers.append(Layers(source, f"{file.parent.name}: its masks", layers))


def _read_json(file: Path, source: str, found: Evidence) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"an object was wanted, got {type(content).__name__}")
    for key, reader in _KINDS:
        if key in content:
            reader(content, source, found)
            machine = content.get("machine")
            if isinstance(machine, Mapping):
                found.machines[source] = _machine(machine, str(content.get("command", "")))
            return
    raise ValueError(f"it has none of {', '.join(key for key, _ in _KINDS)}")


def _machine(machine: Mapping[str, Any], command: str) -> str:
    parts = [str(machine.get("cpu", "?")), f"threads: {machine.get('threads', '?')}"]
    parts += [str(machine.get("isa") or "no compiled kernels"), f"torch {machine.get('torch')}"]
    return ", ".join(parts) + (f"; {command}" if command else "")


def _claims(content: dict[str, Any], source: str, found: Evidence) -> None:
    found.claims += [each | {"file": source} for each in content["claims"]]
    for row in content["rows"]:
        found.timings.append(rows_.network_timing(row, source))
        if row["batch"] == min(r["batch"] for r in content["rows"] if r["case"] == row["case"]):
            found.layers.append(
                Layers(source, f"{row['case']}: {row['masks']}", rows_.counted(row["layers"]))
            )


def _rows(content: dict[str, Any], source: str, found: Evidence) -> None:
    timings = rows_.timings(content, source)
    if not timings:
        raise ValueError("its rows are no races of packed against dense")
    found.timings += timings
    found.works += works.operators(content["rows"], source)
    _roofs(content, source, found)
    for row in content["rows"]:
        _profile(row, source, found, f"batch {row['batch']}")


def _profile(row: Mapping[str, Any], source: str, found: Evidence, group: str) -> None:
    """What a row of a network has to say of its layers."""
    found.works += works.profiled(row, source, group)
    _roofs(row.get("profile") or {}, source, found)


def _roofs(content: Mapping[str, Any], source: str, found: Evidence) -> None:
    roofs = works.roofs(content, source)
    if roofs is not None and all(known.source != source for known in found.roofs):
        found.roofs.append(roofs)


def _networks(content: dict[str, Any], source: str, found: Evidence) -> None:
    for network in content["networks"]:
        name = f"{network['name']}, {network['method']}"
        found.trainings += [
            Training(source, method, network["name"], content["data"], level, network[top1], 0, 0)
            for method, level, top1 in (
                ("dense", 0.0, "accuracy_dense"),
                (network["method"], network["sparsity"], "accuracy_sparse"),
            )
        ]
        for row in network["rows"]:
            if row.get("measured"):
                kept = network["kept_parameters"] / network["parameters"]
                found.timings.append(rows_.bench_timing(row, name, kept, source))
                _profile(row, source, found, f"{name}, batch {row['batch']}")
        profiled = {str(row["batch"]) for row in network["rows"] if row.get("profile")}
        for batch, plan in network.get("plans", {}).items():
            _plan(plan, source, found, f"{name}, batch {batch}", batch in profiled)


def _runs(content: dict[str, Any], source: str, found: Evidence) -> None:
    """What `benchmarks.methods` writes."""
    for run in content["runs"]:
        kept = run["kept"] / run["weights"]
        # An experiment at several levels, or of several patterns, is one line of points.
        name = PATTERN.sub("patterns", run["experiment"])
        group, _, rest = LEVEL.sub("", name, count=1).partition("-")
        found.trainings.append(
            Training(
                source,
                rest or group,
                run["network"]["name"],
                run["data"],
                1 - kept,
                run["top1"],
                run["seed"],
                run["epochs"],
                group=group,
            )
        )


def _recipe(content: dict[str, Any], source: str, found: Evidence) -> None:
    if content["recipe"] is None:
        return _run(content, source, found)
    figures = ", ".join(f"{key} {value:g}" for key, value in content["published"].items())
    _run(
        content
        | {
            "method": content["recipe"],
            "epochs": sum(phase["epochs"] for phase in content["phases"]),
            "options": {"published": figures},
        },
        source,
        found,
    )


def _run(content: dict[str, Any], source: str, found: Evidence) -> None:
    options = ", ".join(f"{key} {value}" for key, value in content.get("options", {}).items())
    found.trainings.append(
        Training(
            source,
            content["method"],
            content["model"],
            content["data"],
            content["sparsity"],
            content["accuracy"],
            content["seed"],
            content["epochs"],
            options,
        )
    )


def _plan(
    content: dict[str, Any],
    source: str,
    found: Evidence,
    group: str = "",
    profiled: bool = False,
) -> None:
    """A plan.

    Args:
        group: which of several in the file.
        profiled: whether the file has a profile of what came of it: that knows the layers' times.
    """
    layers = content["layers"]
    whole = content.get("whole")
    verdict = "no layer is replaced" if whole is None else rows_.verdict(whole)
    title = group or source.rpartition("/")[0] or source
    notes = tuple(content.get("notes", ()))
    found.plans.append(PlanTable(source, title, tuple(layers), verdict, notes))
    found.layers.append(Layers(source, f"{title}: as planned", rows_.planned(layers)))
    found.timings += rows_.plan_timings(layers, title, source)
    if not profiled:
        found.works += works.planned(layers, source, group)
    _roofs(content, source, found)


def _sweep(content: dict[str, Any], source: str, found: Evidence) -> None:
    """Settings of a sweep; its runs have all that is drawn."""


# The key that tells a kind of file from those behind it.
_KINDS: tuple[tuple[str, Callable[[dict[str, Any], str, Evidence], None]], ...] = (
    ("claims", _claims),
    ("sweep", _sweep),
    ("networks", _networks),
    ("runs", _runs),
    ("rows", _rows),
    ("recipe", _recipe),
    ("method", _run),
    ("layers", _plan),
)
