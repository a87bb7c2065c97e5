"""`sparse-ops claims`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sparse_ops.cli.errors import UserError, check_can_write


def claims(
    out: Annotated[
        Path | None, typer.Option(help="The JSON; default: benchmarks/results/claims.json.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Where networks that are trained are kept.")] = Path(
        "claims_run"
    ),
    only: Annotated[
        list[str] | None, typer.Option(help="Beginnings of cases, such as sabr; repeatable.")
    ] = None,
    train_only: Annotated[
        bool, typer.Option(help="Only train what has to be; needs no quiet machine.")
    ] = False,
    data: Annotated[str, typer.Option(help="Images to learn from.")] = "fashion-mnist-subset",
    folder: Annotated[Path | None, typer.Option(help="Where they are.")] = None,
    images: Annotated[
        int, typer.Option(help="How many of them; at most as many to test on.")
    ] = 4000,
    epochs: Annotated[int, typer.Option(help="Passes over them.")] = 2,
    batch_size: Annotated[int, typer.Option(help="Of training.")] = 128,
    amp: Annotated[str | None, typer.Option(help="Train in bfloat16; default: float32.")] = None,
    budget: Annotated[float, typer.Option(help="Seconds for each plan.")] = 60.0,
    seconds: Annotated[float, typer.Option(help="Seconds for each comparison.")] = 4.0,
    compile: Annotated[bool, typer.Option(help="Also try torch.compile, on both sides.")] = True,
    threads: Annotated[int | None, typer.Option(help="Default: as torch has them.")] = None,
) -> None:
    """Measures what the published documents claim, on this machine, and judges it.

    Needs a checkout. What is in the file already is not measured again; all of it takes hours.
    """
    import torch
    from rich.console import Console

    program = _program()
    counts = {"images": images, "epochs": epochs, "batch-size": batch_size}
    for name, value in (counts | {"threads": threads or 1}).items():
        if value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    if amp not in (None, "bfloat16"):
        raise UserError(f"--amp must be bfloat16, got {amp}")
    for name, amount in (("budget", budget), ("seconds", seconds)):
        if not amount > 0:
            raise UserError(f"--{name} must be above 0, got {amount}")
    compile_s = 60.0 if compile else None
    pace = program.Pace(images, epochs, batch_size, amp, budget, seconds, compile_s)
    target = program.RESULTS if out is None else out
    check_can_write(target)
    if threads is not None:
        torch.set_num_threads(threads)
    found = program.run(
        target,
        work,
        pace,
        only=only or (),
        train_only=train_only,
        data=data,
        folder=folder,
        command=" ".join(["sparse-ops", *_without_folders(sys.argv[1:])]),
        say=typer.echo,
    )
    if train_only:
        typer.echo(f"trained what has to be, in {work}; without --train-only it is measured")
        return
    Console().print(_table(found))
    typer.echo(f"wrote {target}")


def _without_folders(arguments: list[str]) -> list[str]:
    """Where files lie changes no figure, and is another place on another machine."""
    folders = ("--out", "--work", "--folder")
    kept = []
    words = iter(arguments)
    for word in words:
        if word in folders:
            next(words, None)
        elif not word.startswith(tuple(f"{name}=" for name in folders)):
            kept.append(word)
    return kept


def _program() -> Any:
    """The module benchmarks.claims of the checkout that this package is in.

    Raises:
        UserError: it is in none.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "benchmarks" / "claims.py").is_file():
        raise UserError(
            "claims are measured from a checkout: benchmarks/claims.py is not part of what is "
            f"installed, and not in {root}"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    from importlib import import_module

    return import_module("benchmarks.claims")


def _table(found: Any) -> Any:
    """Claim, figure, ours, verdict."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="claims, and what was measured here", box=SIMPLE_HEAD)
    for title in ("claim", "measured as", "claimed", "here", "verdict"):
        table.add_column(title, overflow="fold")
    for each in found:
        table.add_row(
            each.claim,
            each.quantity,
            "-" if each.claimed is None else f"{each.claimed:.3g} {each.unit}",
            "-" if each.measured is None else f"{each.measured:.3g} {each.unit}",
            each.verdict,
        )
    return table
