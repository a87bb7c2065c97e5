"""`sparse-ops show`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparse_ops.cli.convert import TRUST_HELP

if TYPE_CHECKING:
    from sparse_ops.cli.checkpoints import Contents


def show(
    file: Annotated[
        Path,
        typer.Argument(help="A checkpoint: torch.save, TorchScript, .safetensors, .hdf5, .npz."),
    ],
    all: Annotated[bool, typer.Option("--all", help="Buffers and biases too.")] = False,
    key: Annotated[str, typer.Option(help="Which of its state dicts; default: a list.")] = "",
    trust_pickle: Annotated[bool, typer.Option("--trust-pickle", help=TRUST_HELP)] = False,
) -> None:
    """Prints what a checkpoint holds: names, shapes, types, and how many numbers are zero."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from sparse_ops.cli import checkpoints

    held = checkpoints.contents(file, trust_pickle)
    about, states = held.kind, held.chosen(key)
    if len(states) > 1:
        _list(held)
        return
    if held.masks:
        about += f", with {len(held.masks)} masks of a sparsifier"
    ((inside, tensors),) = states.items()
    if inside != checkpoints.ROOT:
        about += f", under {inside}"
    table = Table(title=f"{file.name}: {about}", box=SIMPLE_HEAD)
    table.add_column("name", overflow="fold")
    for title in ("shape", "type", "numbers", "zero"):
        table.add_column(title, justify="right")
    zeros = total = hidden = 0
    for name, tensor in tensors.items():
        found, size = _zeros(tensor), tensor.numel()
        if tensor.dim() > 1:
            zeros, total = zeros + found, total + size
        elif not all and not about.startswith("packed"):
            hidden += 1
            continue
        shape = "×".join(str(s) for s in tensor.shape) or "one"
        kind = str(tensor.dtype).removeprefix("torch.")
        table.add_row(str(name), shape, kind, f"{size:,}", f"{found / max(1, size):.2%}")
    console = Console(highlight=False)
    console.print(table)
    size = file.stat().st_size
    said = f"{len(tensors)} entries, {size:,} bytes"
    if about.startswith("packed"):
        said += "; what is removed is not in a packed file"
    elif total:
        said += f"; {zeros:,} of {total:,} numbers with more than one dimension are zero"
        said += f" ({zeros / total:.2%})"
    if hidden:
        said += f"; {hidden} of one dimension are not shown (--all)"
    console.print(said, markup=False, soft_wrap=True)


def _zeros(tensor: Any) -> int:
    """How many numbers are zero; of a mask, how many are removed."""
    return tensor.numel() - int(tensor.count_nonzero())


def _list(held: "Contents") -> None:
    typer.echo(f"{held.path.name}: {held.kind}, with {len(held.states)} state dicts")
    for key, state in held.states.items():
        numbers = sum(tensor.numel() for tensor in state.values())
        typer.echo(f"  --key {key}  {len(state)} tensors, {numbers:,} numbers")
