"""Errors of a user, as one line."""

import functools
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console


class UserError(Exception):
    """Something the user asked for cannot be done; the message says what and why."""


def one_line(command: Callable[..., None]) -> Callable[..., None]:
    """The command, but errors that say what is wrong are printed as one line, with exit code 1.

    Those are ValueError, OSError, and RuntimeError, the library's words for what a caller or a file
    got wrong; anything else is a bug, and keeps its traceback.
    """

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except BrokenPipeError:
            # Whoever read the output has had enough, as `head`; typer ends the program quietly.
            raise
        except (UserError, ValueError, OSError, RuntimeError, ImportError) as error:
            message = " ".join(str(error).split()) or type(error).__name__
            console = Console(stderr=True, highlight=False, soft_wrap=True)
            console.print(f"error: {message}", markup=False)
            raise typer.Exit(1) from None

    return run


def check_can_write(path: Any) -> None:
    """Fails before hours of work, not after: raises OSError if `path` cannot be written.

    Nothing is left behind, and a file already there stays as it is.
    """
    import os
    from pathlib import Path

    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder, a file name was wanted")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"cannot write {target}: the folder {target.parent} is read-only")
