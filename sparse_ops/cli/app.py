"""The commands, one file each."""

from typing import Annotated

import typer

from sparse_ops.cli.bench import bench
from sparse_ops.cli.claims import claims
from sparse_ops.cli.convert import convert
from sparse_ops.cli.demo import demo
from sparse_ops.cli.errors import one_line
from sparse_ops.cli.info import info
from sparse_ops.cli.log import log
from sparse_ops.cli.recipes import recipes
from sparse_ops.cli.report import report
from sparse_ops.cli.show import show
from sparse_ops.cli.sweep import sweep
from sparse_ops.cli.train import train

app = typer.Typer(
    help="Pruned PyTorch networks, measured faster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from sparse_ops import __version__

        typer.echo(f"sparse-ops {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show it and stop."),
    ] = False,
) -> None:
    """Pruned PyTorch networks, measured faster."""


# To add a command, add a line.
COMMANDS = (train, sweep, recipes, convert, bench, show, log, report, claims, info, demo)
for command in COMMANDS:
    app.command()(one_line(command))
