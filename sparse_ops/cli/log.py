"""`sparse-ops log`."""

from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from sparse_ops.cli.errors import UserError
from sparse_ops.cli.training_result import LAST

# What else would be too wide for a terminal.
SHORT = {"examples_per_second": "per s", "validation_loss": "held-out loss", "sparsity": "zeros"}


def log(
    runs: Annotated[list[Path], typer.Argument(help="Folders of train, or of sweep.")],
    every: Annotated[int, typer.Option(help="Show each n-th epoch; 0: none.")] = 0,
) -> None:
    """Prints what training runs did: settings, epochs, and how they ended."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from sparse_ops.report.reading import gather
    from sparse_ops.training.figures import of_one_tensor

    if every < 0:
        raise UserError(f"--every must be 0 or more, got {every}")
    found = gather(runs)
    if not found.histories and not found.trainings:
        raise UserError("there is no log of a training run: a .csv, or a result.json")
    console = Console(highlight=False)
    for run in found.trainings:
        settings = f", {run.about}" if run.about else ""
        console.print(
            f"{run.source}: {run.model} on {run.data}, {run.method}{settings}, seed {run.seed}, "
            f"{epochs(run.epochs)}: top-1 {run.accuracy:.2%}, sparsity {run.sparsity:.2%}",
            markup=False,
            soft_wrap=True,
        )
    for history in found.histories:
        columns = history.columns
        console.print(f"{history.source}: {ending(columns)}", markup=False, soft_wrap=True)
        if every:
            table = Table(box=SIMPLE_HEAD)
            kinds = dict.fromkeys(n.partition(":")[0] for n in columns if of_one_tensor(n))
            columns = {n: column for n, column in columns.items() if not of_one_tensor(n)}
            for name in columns:
                table.add_column(SHORT.get(name, name), justify="right", overflow="fold")
            last = len(columns["epoch"]) - 1
            for row in range(last + 1):
                if row % every == every - 1 or row == last:
                    table.add_row(*(_cell(column[row]) for column in columns.values()))
            console.print(table)
            if kinds:
                console.print(f"tensor by tensor in the file, and in report: {', '.join(kinds)}")


def ending(columns: dict[str, list[Any]]) -> str:
    """How a run ended: epochs, time, loss, the last, the best and the mean top-1."""
    loss = [v for v in columns["loss"] if v is not None]
    seconds = sum(v for v in columns.get("seconds", ()) if v is not None)
    words = [f"{epochs(len(columns['epoch']))} in {seconds:.1f} s", f"loss {loss[-1]:.6f}"]
    words[-1] += f" (mean of the last {len(loss[-LAST:])}: {mean(loss[-LAST:]):.6f})"
    top1 = [v for v in columns.get("top1", ()) if v is not None]
    if top1:
        best = max(top1)
        number = columns["epoch"][columns["top1"].index(best)]
        words.append(
            f"validation top-1 {top1[-1]:.2%}, mean of the last {len(top1[-LAST:])} evaluations "
            f"{mean(top1[-LAST:]):.2%}, best {best:.2%} after epoch {number:.0f}"
        )
    rate = [v for v in columns.get("examples_per_second", ()) if v is not None]
    if rate:
        words.append(f"{mean(rate):,.0f} examples/s")
    return ", ".join(words)


def epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
