"""Devices and processes of a training run, and the folder it writes to."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_ops.cli.errors import UserError

if TYPE_CHECKING:
    import torch

    from sparse_ops.training.distribution import World


@contextmanager
def joined(device: str) -> "Iterator[tuple[World, torch.device]]":
    """The processes that torchrun has started, and the device of this one.

    Raises:
        UserError: there is no such device here.
    """
    import torch

    from sparse_ops.training.distribution import from_torchrun

    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"--device must be cpu, cuda or the like, got {device!r}") from error
    if where.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"--device {device}: torch finds no CUDA device here")
        if where.index is None:
            where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(where)
    with from_torchrun(where) as world:
        yield world, where


def made_folder(folder: Path) -> None:
    """Raises UserError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
