"""A training run from its options to its files."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from sparse_ops.cli.asked import Asked, Prepared, prepared
from sparse_ops.cli.errors import UserError


def carry_out(
    asked: Asked, out: Path, *, device: str, resume: bool, force: bool, hdf5: bool
) -> None:
    """Trains, and writes model.pt, masks.safetensors, result.json, and a CSV file a phase.

    Raises:
        UserError: a finished run is in the folder, or something asked for cannot be done.
    """
    from sparse_ops.cli import networks
    from sparse_ops.cli.gsm_files import Hdf5Files
    from sparse_ops.cli.processes import joined, made_folder
    from sparse_ops.cli.training_result import result_of, told
    from sparse_ops.report.results import write_json
    from sparse_ops.training import recipes

    result = out / "result.json"
    if result.is_file() and not force:
        raise UserError(
            f"{out} holds a finished run: --force does away with it, another --out keeps it"
        )
    made = prepared(asked)
    with joined(device) as (world, where), _logging(world.rank == 0):
        made_folder(out)
        files = Hdf5Files(out, made.recipe.model["name"]) if hdf5 and world.rank == 0 else None
        if world.rank == 0:
            result.unlink(missing_ok=True)
            _clear(made, out, () if resume else (".checkpoint.pt", ".best.pt"))
            _announce(made, asked.epochs)
        world.wait()
        if files is not None:
            files.begin(made.model)
        model, outcomes = recipes.run(
            made.recipe,
            made.data,
            model=made.model,
            seed=asked.seed,
            device=where,
            folder=out,
            progress=world.rank == 0,
            amp=asked.amp,
            before_cut=None if files is None else files.before_cut,
        )
        world.wait()
        if world.rank:
            return
    networks.write(model, outcomes[-1].masks, out)
    if files is not None:
        files.end(model)
    run = result_of(asked, made, model, outcomes, where)
    write_json(run, result)
    _clear(made, out, (".checkpoint.pt", ".best.pt"))
    for line in told(run):
        typer.echo(line)
    typer.echo(f"wrote {out}")


def _announce(made: Prepared, epochs: int | None) -> None:
    """Says what is going to happen, before it takes hours; `epochs` are those asked for."""
    for phase in made.recipe.phases:
        typer.echo(f"{phase.name}: {phase.method}, {phase.epochs} epochs", err=True)
    total = sum(phase.epochs for phase in made.recipe.phases)
    if epochs is not None and total != epochs:
        typer.echo(
            f"{total} epochs in all, not {epochs}: {made.recipe.name} has parts of one epoch at "
            "least, and options may say how long one is",
            err=True,
        )
    strengths = {k: pair for k, pair in made.changed.items() if not _is_count(k)}
    if strengths:
        changes = ", ".join(f"{key} {old} → {new}" for key, (old, new) in strengths.items())
        typer.echo(f"fewer steps than published, so: {changes}", err=True)


def _is_count(key: str) -> bool:
    """Whether it is a number of epochs, of which there are fewer."""
    last = key.rpartition(".")[2]
    counts = ("epochs", "warm_up", "max_epochs", "fine_tune", "drops", "begin", "end")
    return last in counts or ".schedule." in key


def _clear(made: Prepared, out: Path, endings: tuple[str, ...]) -> None:
    for phase in made.recipe.phases:
        for ending in endings:
            (out / f"{phase.name}{ending}").unlink(missing_ok=True)


@contextmanager
def _logging(shown: bool) -> Iterator[None]:
    """Shows what the package logs, for the time of a run; of a progress bar it keeps clear."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # Looked up each time: a bar puts its own stream there.
            print(self.format(record), file=sys.stderr, flush=True)

    logger, handler = logging.getLogger("sparse_ops"), Handler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    level, passed_on = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if shown else logging.ERROR)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = passed_on
