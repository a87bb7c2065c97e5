"""Files that are whole or not there: everything the library writes goes through `replacing`."""

import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to, and renames it if the block ends well.

    What a killed writer of `path` left behind a day ago or earlier is deleted.

    Raises:
        OSError: the folder does not exist or cannot be written; the message names it. Whatever
            happens, a file already at `path` stays as it was, and no temporary file is left.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder, a file name was wanted")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: there is no folder {target.parent}")
    _remove_leftovers(target)
    try:
        prefix = f".{target.name}."
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise type(error)(f"cannot write {target}: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; give this one the mode that an ordinary open would have.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


# No writer takes as long; one that was killed left its file behind.
LEFTOVER_S = 24 * 3600


def _remove_leftovers(target: Path) -> None:
    """Deletes what killed writers of this file left behind, a day ago or earlier."""
    # Eight letters, digits and underscores: what mkstemp puts between.
    ours = re.compile(re.escape(f".{target.name}.") + r"[a-z0-9_]{8}\.tmp")
    # Whatever cannot be read or deleted, by somebody else's doing perhaps, is no matter here.
    with suppress(OSError), os.scandir(target.parent) as files:
        for file in files:
            if ours.fullmatch(file.name) and time.time() - file.stat().st_mtime > LEFTOVER_S:
                os.unlink(file.path)


def write_tensors(
    tensors: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file, which is whole or not there.

    Raises:
        OSError: it cannot be written; one that was there stays as it was.
    """
    with replacing(path) as temporary:
        try:
            save_file(dict(tensors), temporary, dict(metadata))
        except SafetensorError as error:
            # So it says, too, that the disk is full.
            raise OSError(f"cannot write {os.fspath(path)}: {error}") from error


@contextmanager
def alone(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within, no other process is in here for that file: for reading, changing and writing it.

    A file beside it, PATH.lock, stays. Where the system has no such locks, it does nothing.

    Raises:
        OSError: the lock cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    target = Path(path)
    with open(target.with_name(f"{target.name}.lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
