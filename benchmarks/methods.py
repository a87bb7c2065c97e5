"""Runs the experiments of `benchmarks.experiments` and keeps what came of them.

python -m benchmarks.methods [--only NAME ...] [--seeds 0,1,2] [--data DIR] [--out FILE]
    [--work DIR]

--data holds `fashion-mnist` and `digits`, as `python -m sparse_ops.data.fetch` makes them. Each run
is written to the JSON as soon as it is finished, and is not done again; one that was interrupted
goes on from the checkpoints in --work, and runs that begin alike share them.
"""

import argparse
import csv
import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks._experiment import Experiment
from benchmarks.experiments import EXPERIMENTS
from sparse_ops._files import replacing
from sparse_ops.data import Dataset, load
from sparse_ops.masks import prunable
from sparse_ops.report.machine import machine
from sparse_ops.training.recipes import Phase, Recipe, run

RESULTS = Path(__file__).parent / "results" / "methods.json"
# Where in --data each set is; the subset comes with the package.
FOLDERS = {"fashion-mnist": "fashion-mnist", "digits": "digits", "fashion-mnist-subset": None}


def counts(model: nn.Module) -> tuple[int, int]:
    """(weights of Conv2d and Linear that are not zero, all of them)."""
    weights = prunable(model).values()
    return sum(int(w.count_nonzero()) for w in weights), sum(w.numel() for w in weights)


def carry_out(experiment: Experiment, seed: int, data: Dataset, work: Path) -> dict[str, Any]:
    """One run: what it was, and what came of it."""
    recipe = experiment.recipe()
    folder = work / f"{experiment.name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    shared = {phase.name: work / f"{key}.pt" for phase, key in _keys(recipe, seed)}
    for name, path in shared.items():
        own = folder / f"{name}.checkpoint.pt"
        if path.is_file() and not own.is_file():
            shutil.copyfile(path, own)
    model, outcomes = run(
        recipe,
        data,
        seed=seed,
        folder=folder,
        progress=False,
        channels_last=True,
    )
    for name, path in shared.items():
        own = folder / f"{name}.checkpoint.pt"
        if own.is_file() and not path.is_file():
            with replacing(path) as temporary:
                shutil.copyfile(own, temporary)
    kept, every = counts(model)
    last = outcomes[-1]
    phases = [
        {
            "name": phase.name,
            "method": phase.method,
            **_logged(folder / f"{phase.name}.csv"),
            "top1": outcome.accuracy.top1,
            "uncut_top1": None if outcome.uncut is None else outcome.uncut.top1,
            "findings": outcome.findings,
        }
        for phase, outcome in zip(recipe.phases, outcomes, strict=True)
    ]
    return {
        "experiment": experiment.name,
        "seed": seed,
        "recipe": experiment.source,
        "changes": experiment.changes,
        "network": recipe.model,
        "data": data.name,
        "train": len(data.train),
        "held_out": recipe.data.get("validation", 0.0),
        "test": len(data.test),
        "batch_size": recipe.data.get("batch_size", 128),
        "phases": phases,
        "weights": every,
        "kept": kept,
        "top1": last.accuracy.top1,
        "epochs": sum(phase["epochs"] for phase in phases),
    }


def _keys(recipe: Recipe, seed: int) -> list[tuple[Phase, str]]:
    """For each phase a name that it shares with those before which the same has happened."""
    text = f"{recipe.data}{recipe.model}{seed}"
    keys = []
    for phase in recipe.phases:
        text += repr(phase)
        keys.append((phase, hashlib.sha256(text.encode()).hexdigest()[:16]))
    return keys


def _logged(path: Path) -> dict[str, Any]:
    """Epochs, and top-1 on the images held out, if any, after the last one.

    No seconds: runs that go on for hours share their machine, and would be no measurement.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        "epochs": len(rows),
        "validation_top1": float(rows[-1]["top1"]) if rows and rows[-1].get("top1") else None,
    }


def add(path: Path, found: dict[str, Any], command: str) -> None:
    """Puts a run into the JSON file, which is whole at any time."""
    here = asdict(machine())
    content = _content(path) or {"machine": here, "command": command, "runs": []}
    about = {key: here[key] for key in ("cpu", "isa", "threads", "torch", "commit")}
    content["runs"].append(found | about | {"command": command})
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def finished(path: Path) -> set[tuple[str, int]]:
    """(experiment, seed) of what is in the JSON file.

    Raises:
        ValueError: a run in it is of an experiment that has changed since.
    """
    runs = _content(path).get("runs", [])
    for one in runs:
        experiment = EXPERIMENTS.get(one["experiment"])
        if experiment is not None and one["changes"] != experiment.changes:
            raise ValueError(f"{path}: {experiment.name} has changed since; take its runs out")
    return {(one["experiment"], one["seed"]) for one in runs}


def _content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of names, in order")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--work", type=Path, default=Path("methods_run"))
    given = parser.parse_args(arguments)
    # In the order asked for; what is asked for twice is finished the second time.
    chosen = [e for only in given.only for n, e in EXPERIMENTS.items() if n.startswith(only)]
    if not chosen:
        parser.error(f"--only {given.only}: there are {', '.join(EXPERIMENTS)}")
    # Without folders, which change nothing.
    asked = ["--seeds", given.seeds] + (["--only", *given.only] if given.only != [""] else [])
    command = shlex.join(["python", "-m", "benchmarks.methods", *asked])
    read = cache(_reader(given.data))
    for seed in [int(number) for number in given.seeds.split(",")]:
        for experiment in chosen:
            if (experiment.name, seed) in finished(given.out):
                continue
            print(f"{experiment.name}, seed {seed}", flush=True)
            data = read(experiment.recipe().data["name"])
            found = carry_out(experiment, seed, data, given.work)
            add(given.out, found, command)
            print(f"  {found['top1']:.2%} of {found['test']}, {found['kept']} weights", flush=True)


def _reader(folder: Path) -> Callable[[str], Dataset]:
    def read(name: str) -> Dataset:
        inner = FOLDERS[name]
        return load(name, None if inner is None else folder / inner)

    return read


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")
