"""`sparse-ops train --recipe NAME`: a published experiment, as it was or shortened."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from sparse_ops.cli.errors import UserError


@dataclass(frozen=True)
class PhaseRun:
    """What `result.json` says of a phase; accuracies are on the test split, of its last weights.

    Attributes:
        best_epoch, best_validation: the epoch that was best on the images held out, and its top-1
            there; None where none are.
    """

    name: str
    method: str
    epochs: int
    top1: float
    top5: float
    loss: float
    sparsity: float
    seconds: float
    best_epoch: int | None
    best_validation: float | None


@dataclass(frozen=True)
class RecipeRun:
    """What `result.json` says of a recipe that was carried out.

    Attributes:
        parameters: all that learn, those removed included.
        weights, nnz: of Conv2d and Linear, and how many of them are kept.
        dense_macs, kept_macs: multiply-accumulates of one image, with all weights and those kept.
    """

    recipe: str
    title: str
    source: str
    remark: str
    published: dict[str, float]
    overrides: dict[str, Any]
    shorten: float
    model: str
    data: str
    seed: int
    phases: tuple[PhaseRun, ...]
    accuracy: float
    sparsity: float
    parameters: int
    weights: int
    nnz: int
    dense_macs: int
    kept_macs: int
    masks: dict[str, float]


def overrides_of(settings: Sequence[str]) -> dict[str, Any]:
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


def run_recipe(
    name: str,
    out: Path,
    overrides: dict[str, Any],
    *,
    shorten: float,
    seed: int,
    device: str,
    resume: bool,
) -> None:
    """Carries it out and writes model.pt, masks.safetensors, result.json, and a CSV a phase."""
    from sparse_ops.cli import networks
    from sparse_ops.cli.processes import joined, made_folder
    from sparse_ops.data import batches
    from sparse_ops.report import count_macs
    from sparse_ops.report.results import write_json
    from sparse_ops.training import recipes
    from sparse_ops.training.recipes.runs import load_data

    recipe = recipes.read(name, overrides)
    if shorten != 1:
        recipe = recipes.shortened(recipe, shorten)
    data = load_data(recipe)
    with joined(device) as (world, where):
        made_folder(out)
        checkpoints = [out / f"{phase.name}.checkpoint.pt" for phase in recipe.phases]
        if not resume and world.rank == 0:
            for file in checkpoints:
                file.unlink(missing_ok=True)
        world.wait()
        model, outcomes = recipes.run(
            recipe, data, seed=seed, device=where, folder=out, progress=world.rank == 0
        )
        world.wait()
        if world.rank:
            return
    last = outcomes[-1]
    networks.write(model, last.masks, out)
    image, _ = next(iter(batches(data.test, 1, shuffle=False)))
    layers = count_macs(model, image.to(where))
    result = RecipeRun(
        recipe=recipe.name,
        title=recipe.title,
        source=recipe.source,
        remark=recipe.remark,
        published=recipe.published,
        overrides=overrides,
        shorten=shorten,
        model=recipe.model["name"],
        data=data.name,
        seed=seed,
        phases=tuple(_phase_run(outcome) for outcome in outcomes),
        accuracy=last.accuracy.top1,
        sparsity=last.sparsity,
        parameters=sum(p.numel() for p in model.parameters()),
        weights=sum(layer.weights for layer in layers),
        nnz=sum(layer.nnz for layer in layers),
        dense_macs=sum(layer.dense for layer in layers),
        kept_macs=sum(layer.kept for layer in layers),
        masks={key: 1 - float(mask.float().mean()) for key, mask in last.masks.items()},
    )
    write_json(result, out / "result.json")
    for file in checkpoints:
        file.unlink(missing_ok=True)
    typer.echo(f"{recipe.title}; {recipe.source}")
    for phase in result.phases:
        typer.echo(
            f"{phase.name}: {phase.epochs} epochs on {data.name}, top-1 {phase.top1:.2%}, "
            f"top-5 {phase.top5:.2%}, sparsity {phase.sparsity:.2%}"
        )
    figures = ", ".join(f"{key} {value:g}" for key, value in recipe.published.items())
    typer.echo(
        f"{result.nnz:,} of {result.weights:,} weights, "
        f"{result.kept_macs:,} of {result.dense_macs:,} multiply-accumulates an image"
    )
    typer.echo(f"published: {figures or 'no figure'}. {recipe.remark}".strip())
    typer.echo(f"wrote {out}")


def _phase_run(outcome: Any) -> PhaseRun:
    best = outcome.history.best()
    return PhaseRun(
        outcome.name,
        outcome.method,
        outcome.epochs,
        outcome.accuracy.top1,
        outcome.accuracy.top5,
        outcome.accuracy.loss,
        outcome.sparsity,
        outcome.seconds,
        None if best is None else best.epoch,
        None if best is None else best.top1,
    )
