"""What `torch.save` wrote, read without running anything that is in it, unless the user says so."""

import argparse
import contextlib
import datetime
import pathlib
import pickle
import re
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from sparse_ops.cli import file_kinds, numpy_pickles, torchscript_files
from sparse_ops.cli.errors import UserError

_BUILTINS = (bool, int, float, str, bytes, list, dict, tuple)
TRUST = "--trust-pickle reads that, by running whatever code is in the file"


def _harmless() -> list[Any]:
    """Types of plain data that people have beside their tensors; torch itself allows fewer.

    None of them does anything when it is made but to hold what it is given.
    """
    paths = []
    for kind in ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath"):
        # The other system's paths cannot be made here: all become pure ones. Python 3.13 has moved
        # them to another module.
        pure = getattr(pathlib, f"Pure{kind.removeprefix('Pure')}")
        paths += [(pure, f"{module}.{kind}") for module in ("pathlib", "pathlib._local")]
    # torch fills no others than its own dicts and lists.
    filled = [(_dict, "collections.defaultdict"), (_list, "collections.deque")]
    dates = [datetime.datetime, datetime.date, datetime.time, datetime.timedelta]
    plain = [argparse.Namespace, types.SimpleNamespace, *_BUILTINS]
    return [*numpy_pickles.STANDING_FOR, *filled, *paths, *dates, *plain]


def _dict(*_: Any) -> dict[Any, Any]:
    return {}


def _list(*_: Any) -> list[Any]:
    return []


def load(path: Path, trust_pickle: bool = False) -> tuple[str, Any]:
    """What the file is, in words, and what it holds, on the CPU.

    Raises:
        UserError: it is no such file, is damaged, or holds more than plain data; says what.
        OSError: there is no such file, or it cannot be read.
    """
    kind = file_kinds.kind_of(path)
    if kind == file_kinds.SCRIPT:
        return kind, torchscript_files.read_state(path)
    if kind == file_kinds.PICKLE and not trust_pickle:
        raise UserError(f"{path} cannot be read as tensors only: it is {kind}; {TRUST}")
    if kind not in (file_kinds.TORCH, file_kinds.LEGACY, file_kinds.PICKLE):
        raise UserError(
            f"{path} cannot be read as tensors only: it is {kind} "
            "(wanted: what torch.save(model.state_dict(), path) writes)"
        )
    if trust_pickle:
        return kind, _unpickled(path, kind)
    with safe_globals(_harmless()):
        try:
            return kind, torch.load(path, map_location="cpu", weights_only=True)
        # A damaged file fails in any way; one that ends too soon is an OSError to torch.
        except Exception as error:
            words = _why(path, kind, error)
            raise UserError(f"{path} cannot be read as tensors only: {words}") from error


def _why(path: Path, kind: str, error: Exception) -> str:
    """What stands in a file that cannot be read as tensors only."""
    named = re.findall(r"GLOBAL ([\w.]+)", str(error))
    if kind == file_kinds.TORCH and isinstance(error, pickle.UnpicklingError):
        # Of a damaged pickle, what its beginning has named will do.
        with contextlib.suppress(Exception):
            named = sorted(get_unsafe_globals_in_checkpoint(path)) or named
    if not named:
        # Behind what torch advises stands what went wrong.
        words = str(error).rpartition("WeightsUnpickler error:")[2].strip() or type(error).__name__
        return f"it is {kind}, damaged or of what is not plain data: {words.splitlines()[0]}"
    # torch's own are many in a model, and the others say more.
    named.sort(key=lambda name: name.startswith("torch."))
    more = f" and {len(named) - 4} more" if len(named) > 4 else ""
    whole = any(name.startswith("torch.nn.modules.") for name in named)
    what = "a whole model, pickled" if whole else "objects beside tensors"
    return f"it holds {what}, of {', '.join(named[:4])}{more}; {TRUST}"


def _unpickled(path: Path, kind: str) -> Any:
    # Classes of the folder one works in; an installed script does not look there.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        if kind == file_kinds.PICKLE:
            with path.open("rb") as file:
                return pickle.load(file)
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} cannot be unpickled: {words}") from error
