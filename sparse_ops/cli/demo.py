"""`sparse-ops demo`."""

import itertools
from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Few images, one epoch: to see that it works.")
    ] = False,
) -> None:
    """Trains two networks with masks on real images, packs them, and measures what it brings."""
    from rich.console import Console

    from sparse_ops.cli.demonstration import QUICK, STEPS, Pace, demonstrate
    from sparse_ops.report.machine import keep_freed_memory
    from sparse_ops.report.table import network_table

    keep_freed_memory()
    progress = Console(stderr=True, highlight=False, soft_wrap=True)
    number = itertools.count(1)

    def say(text: str) -> None:
        progress.print(f"{next(number):2d}/{STEPS}  {text}", markup=False)

    results, remarks = demonstrate(out, QUICK if quick else Pace(), say)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    console.print(network_table(results.networks))
    for remark in remarks:
        console.print(f"- {remark}", markup=False)
    machine = results.machine
    console.print(
        f"{machine.cpu}, threads: {machine.threads}, {machine.isa or 'no compiled kernels'}, "
        f"torch {machine.torch}; {results.seconds:.0f} s; files in {out}",
        markup=False,
    )
