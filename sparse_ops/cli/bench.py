"""`sparse-ops bench`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sparse_ops.cli.convert import MODEL_HELP, OPTION_HELP
from sparse_ops.cli.errors import UserError, check_can_write


def bench(
    packed: Annotated[Path, typer.Argument(help="A packed file.")],
    model: Annotated[
        str,
        typer.Option(
            help=MODEL_HELP + " Default: as the file says; none, if its network is one program."
        ),
    ] = "",
    input: Annotated[
        str, typer.Option(help="One example's shape. Default: as the file says, or 1,28,28.")
    ] = "",
    batch: Annotated[list[int] | None, typer.Option(help="Batch size; repeatable.")] = None,
    classes: Annotated[
        int | None, typer.Option(help="Of one of our models. Default: as the file says, or 10.")
    ] = None,
    more: Annotated[list[str] | None, typer.Option("--set", help=OPTION_HELP)] = None,
    seconds: Annotated[float, typer.Option(help="Seconds to spend on each batch size.")] = 5.0,
    compile: Annotated[bool, typer.Option(help="Also try torch.compile, on both sides.")] = True,
    out: Annotated[Path | None, typer.Option(help="Write the rows there as JSON.")] = None,
) -> None:
    """Times a packed model against the fastest dense form of what it was, on this machine."""
    import sparse_ops
    from sparse_ops.cli import file_note, networks
    from sparse_ops.cli.named_network import network_of
    from sparse_ops.convert import to_dense
    from sparse_ops.planning.checkpoint import NeedsModel
    from sparse_ops.planning.describe import shrunk_modules
    from sparse_ops.planning.verify_model import check_model
    from sparse_ops.report.machine import Machine, keep_freed_memory, machine
    from sparse_ops.report.results import Row, write_json
    from sparse_ops.report.table import bench_table
    from sparse_ops.report.versus import dense_against_packed

    @dataclass(frozen=True)
    class Bench:
        command: str
        machine: Machine
        rows: tuple[Row, ...]

    if out is not None:
        check_can_write(out)
    keep_freed_memory()
    if seconds <= 0:
        raise UserError(f"--seconds must be above 0, got {seconds}")
    known, missing = file_note.noted(packed), f"{packed} does not say of what model it is"
    if not model and ":" in str(known.get("model")):
        # A file may come from a stranger: what it names is not imported unless the user says so.
        raise UserError(f"{packed} is of {known['model']}: --model {known['model']} runs that")
    shape, built = networks.input_shape(input or "1,28,28"), None
    if model or "model" in known:
        network = network_of(known, model, input, classes, more or (), missing)
        shape, built = network.shape, network.build().eval()
    try:
        fast = sparse_ops.load(packed, built, compile=False)
    except NeedsModel as error:
        raise UserError(f"--model is needed: {missing}, and {error}") from error
    unpacked = to_dense(fast)
    # Of a layer that lost channels the file has what is left; how fast the whole of it would be
    # does not depend on its numbers, so that the model as it was built will do.
    shrunk = shrunk_modules(fast)
    dense = to_dense(built) if shrunk and built is not None else unpacked
    rows = []
    for size in batch or [1, 64]:
        example = networks.random_example(size, shape)
        check_model(unpacked, fast, example)
        rows.append(
            dense_against_packed(
                dense, fast, example, compile_s=60.0 if compile else None, seconds=seconds
            )
        )
    from rich.console import Console

    Console().print(bench_table(packed.name, rows))
    if shrunk:
        typer.echo(
            "dense is the model as it was before channels were removed: "
            f"{len(shrunk)} of its modules are others now"
        )
    elif built is None:
        typer.echo(
            "dense is what the file has with its sparse layers unpacked; with --model it is the "
            "model as it was"
        )
    else:
        typer.echo("dense is the same model with its packed layers unpacked, zeros as numbers")
    for row in rows:
        for form, reason in row.skipped.items():
            typer.echo(f"batch {row.batch}: {form} was left out: {reason}")
    if out is not None:
        command = " ".join(["sparse-ops", *sys.argv[1:]])
        write_json(Bench(command, machine(), tuple(rows)), out)
