"""`sparse-ops show`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparse_ops.cli.errors import UserError


def show(
    file: Annotated[
        Path, typer.Argument(help="A checkpoint: .safetensors, .hdf5, .h5, .npz, .pt or .pth.")
    ],
    all: Annotated[bool, typer.Option("--all", help="Buffers and biases too.")] = False,
) -> None:
    """Prints what a checkpoint holds: names, shapes, types, and how many numbers are zero."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    about, tensors = contents(file)
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


def contents(file: Path) -> tuple[str, dict[str, Any]]:
    """What kind of file it is, in words, and its tensors as they stand in it.

    Raises:
        UserError: it holds no tensors, or is of another kind.
        OSError: there is no such file.
    """
    from sparse_ops.cli import networks

    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if file.suffix == ".safetensors":
        return _safetensors(file)
    if file.suffix in (".hdf5", ".h5", ".npz"):
        from sparse_ops.training import hdf5

        loaded = hdf5.load(file)
        kind = "NumPy arrays" if file.suffix == ".npz" else "HDF5"
        return kind, {str(name): value for name, value in loaded.items()}
    if file.suffix not in (".pt", ".pth", ".bin", ".ckpt"):
        raise UserError(
            f"{file.name} must end in .safetensors, .hdf5, .h5, .npz, .pt, .pth, .bin or .ckpt"
        )
    tensors, masks = networks.torch_load(file)
    kind = "tensors saved by torch"
    return kind + (f", with {len(masks)} masks of a sparsifier" if masks else ""), dict(tensors)


def _safetensors(file: Path) -> tuple[str, dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{file} is not a whole safetensors file: {error}") from error
    kinds = {"sparse_ops.masks": "masks, zero means removed", "sparse_ops.packed": "packed"}
    found = metadata.get("format", "")
    kind = next((words for start, words in kinds.items() if found.startswith(start)), "tensors")
    version = f", format {found} {metadata.get('version', '')}".rstrip() if found else ""
    return kind + version, tensors
