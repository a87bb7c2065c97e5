"""`sparse-ops sweep`."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer

from sparse_ops.cli.convert import MODEL_HELP
from sparse_ops.cli.errors import UserError


@dataclass(frozen=True)
class Point:
    """One run of a sweep: a level (a sparsity or a pattern's name) and a seed."""

    level: float | str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.level}-seed{self.seed}"


def sweep(
    out: Annotated[Path, typer.Option(help="The folder for all runs; made if it is not there.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    method: Annotated[str, typer.Option(help="As for train.")],
    sparsity: Annotated[list[float] | None, typer.Option(help="A level; repeatable.")] = None,
    pattern: Annotated[list[str] | None, typer.Option(help="A pattern; repeatable.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="A seed; repeatable. Default: 0.")] = None,
    more: Annotated[
        list[str] | None, typer.Option("--set", help="As for train; repeatable.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="As for train.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the data set is.")] = None,
    validation: Annotated[float | None, typer.Option(help="As for train.")] = None,
    epochs: Annotated[int | None, typer.Option(help="As for train.")] = None,
    lr: Annotated[float | None, typer.Option(help="As for train.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="As for train.")] = None,
    device: Annotated[str, typer.Option(help="Where to train, such as cuda.")] = "cpu",
    time: Annotated[
        int | None, typer.Option(help="Also convert each network and time it at this batch size.")
    ] = None,
    budget: Annotated[float, typer.Option(help="Seconds for the plan of each.")] = 20.0,
    seconds: Annotated[float, typer.Option(help="Seconds for the comparison of each.")] = 3.0,
) -> None:
    """Trains one method at several sparsities and seeds; `report` draws what came of it.

    A run is a folder as `train` makes it. Those that are finished are not done again; one that was
    interrupted goes on.
    """
    if bool(sparsity) == bool(pattern):
        raise UserError("--sparsity or --pattern is needed, one of them, once for each level")
    if time is not None and time < 1:
        raise UserError(f"--time must be at least 1, got {time}")
    levels: list[float | str] = [*(sparsity or ()), *(pattern or ())]
    points = [Point(*pair) for pair in itertools.product(levels, dict.fromkeys(seed or [0]))]
    out.mkdir(parents=True, exist_ok=True)
    settings = {
        "model": model,
        "method": method,
        "set": sorted(more or ()),
        "data": data,
        "validation": validation,
        "epochs": epochs,
        "lr": lr,
        "batch_size": batch_size,
    }
    _same(out / "sweep.json", settings)
    for number, point in enumerate(points, start=1):
        run = out / point.name
        typer.echo(f"{number}/{len(points)}  {point.name}")
        if not (run / "result.json").is_file():
            _train(point, run, settings, folder, device)
        if time is not None and not (run / f"bench{time}.json").is_file():
            _time(run, settings, folder, time, budget, seconds)
    _print(points, out)


def _same(path: Path, settings: dict[str, Any]) -> None:
    """Writes the settings, or compares them with those of the runs that are there.

    Raises:
        UserError: the folder is of a sweep with other settings.
    """
    from sparse_ops._files import replacing

    text = json.dumps({"sweep": settings}, indent=2) + "\n"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8")).get("sweep", {})
        changed = [key for key in settings if before.get(key) != settings[key]]
        if changed:
            said = ", ".join(f"{k} was {before.get(k)}, is {settings[k]}" for k in changed)
            raise UserError(f"{path.parent} is of another sweep: {said}; name another --out")
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _train(
    point: Point, run: Path, settings: dict[str, Any], folder: Path | None, device: str
) -> None:
    from sparse_ops.cli.train import train

    named = isinstance(point.level, str)
    train(
        out=run,
        model=settings["model"],
        method=settings["method"],
        more=list(settings["set"]),
        sparsity=None if named else float(point.level),
        pattern=str(point.level) if named else None,
        data=settings["data"],
        folder=folder,
        validation=settings["validation"],
        epochs=settings["epochs"],
        lr=settings["lr"],
        batch_size=settings["batch_size"],
        device=device,
        seed=point.seed,
        resume=True,
    )


def _time(
    run: Path, settings: dict[str, Any], folder: Path | None, batch: int, budget: float, race: float
) -> None:
    """Converts a run's network; writes its plan, and a race as `bench` does, beside it."""
    from dataclasses import asdict

    import sparse_ops
    from sparse_ops._files import replacing
    from sparse_ops.cli import checkpoints, networks
    from sparse_ops.data import load
    from sparse_ops.report.machine import keep_freed_memory, machine
    from sparse_ops.report.versus import dense_against_packed

    keep_freed_memory()
    data = load(settings["data"] or "fashion-mnist-subset", folder)
    shape = tuple(data.train.images.shape[1:])
    dense = networks.build(settings["model"], classes=len(data.classes), channels=shape[0]).eval()
    checkpoints.load_(dense, checkpoints.contents(run / "model.pt"))
    masks = sparse_ops.masks.load(run / "masks.safetensors")
    weights = sparse_ops.masks.weights(dense)
    masks = {name: mask for name, mask in masks.items() if name in weights}
    example = networks.random_example(batch, shape)
    plan = sparse_ops.plan(dense, example, masks or None, budget_s=budget)
    row = dense_against_packed(dense, plan.apply(dense), example, seconds=race)
    every = sum(weight.numel() for weight in weights.values())
    removed = sum(int((~mask).sum()) for mask in masks.values())
    about = {"name": f"{settings['model']}, {settings['method']}", "kept": 1 - removed / every}
    content = {
        "machine": asdict(machine()),
        "command": f"sparse-ops sweep --time {batch}",
        "rows": [asdict(row) | about],
    }
    for name, text in ((f"plan{batch}", plan.to_json()), (f"bench{batch}", json.dumps(content))):
        with replacing(run / f"{name}.json") as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _print(points: list[Point], out: Path) -> None:
    """A line a level: mean and standard deviation over the seeds."""
    for level in dict.fromkeys(point.level for point in points):
        found = []
        for point in points:
            path = out / point.name / "result.json"
            if point.level == level and path.is_file():
                found.append(json.loads(path.read_text(encoding="utf-8")))
        top1 = [run["accuracy"] for run in found]
        spread = f" ± {100 * stdev(top1):.2f}" if len(top1) > 1 else ""
        kept = mean(run["sparsity"] for run in found)
        typer.echo(
            f"{level}: top-1 {100 * mean(top1):.2f}{spread} %, sparsity {kept:.2%}, "
            f"{len(found)} seeds"
        )
    typer.echo(f"sparse-ops report {out} --html {out / 'report.html'}  draws it")
