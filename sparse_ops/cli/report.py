"""`sparse-ops report`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sparse_ops.cli.errors import UserError, check_can_write


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of train, sweep or demo; JSON of bench, claims, benchmarks."),
    ],
    html: Annotated[Path | None, typer.Option(help="The page to write.")] = None,
    plots: Annotated[
        Path | None, typer.Option(help="A folder for the figures as SVG and PNG.")
    ] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "sparse_ops report",
) -> None:
    """Makes one self-contained page, or plots, of what runs and measurements have left."""
    from sparse_ops._files import replacing
    from sparse_ops.report.drawings import figures
    from sparse_ops.report.page import page
    from sparse_ops.report.plots import write_plots
    from sparse_ops.report.reading import gather

    if html is None and plots is None:
        raise UserError("--html FILE or --plots FOLDER is needed, or both")
    if html is not None:
        check_can_write(html)
    found = gather(runs)
    if html is not None:
        text = page(found, title, " ".join(["sparse-ops", *sys.argv[1:]]))
        with replacing(html) as temporary:
            temporary.write_text(text, encoding="utf-8")
        typer.echo(f"wrote {html} ({len(text.encode()):,} bytes)")
    if plots is not None:
        written = write_plots(figures(found), plots)
        typer.echo(f"wrote {len(written)} files to {plots}")
    for why in found.passed_over.values():
        typer.echo(f"passed over: {why}")
