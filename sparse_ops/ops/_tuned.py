"""What was measured fastest on a card: kernels' configurations and backends, kept in one file.

SPARSE_OPS_TUNED names the file; by default it is ~/.cache/sparse_ops/tuned.json. A file that is
damaged is as good as none: nothing has to be tuned to run.

    {card and versions: {problem: {"set": [128, 64, 32, 8, 3], "backends": {"triton": 0.1}}}}
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sparse_ops._files import replacing
from sparse_ops.ops._kernels import INTERPRETED

Table = dict[str, dict[str, dict[str, Any]]]
Named = TypeVar("Named")

# How many numbers a configuration has, by kind (`kernels/configs.py`); merged: how many classes are
# left (`kernels/sets.py`).
KINDS = {"merged": 1, "set": 5, "row": 4, "linear": 5}


def path() -> Path:
    """The file."""
    named = os.environ.get("SPARSE_OPS_TUNED")
    return Path(named) if named else Path.home() / ".cache" / "sparse_ops" / "tuned.json"


def read(file: Path) -> Table:
    """What is in the file; nothing if it cannot be read or is not what `keep` writes."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and all(
        isinstance(problems, dict) and all(isinstance(entry, dict) for entry in problems.values())
        for problems in found.values()
    )
    return found if whole else {}


_table: Table = read(path())
# While something is measured: the configuration to use, and what was asked for.
_trial: ContextVar[tuple[str, tuple[int, ...]] | None] = ContextVar("trial", default=None)
_asked: ContextVar[list[tuple[str, str, str]] | None] = ContextVar("asked", default=None)


@cache
def card(device: torch.device) -> str:
    """A device and all that a kernel's speed may change with."""
    versions = [f"torch {torch.__version__}"]
    for package in ("triton", "sparse-ops"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} of a checkout")
    if device.type != "cuda":
        return ", ".join(["interpreter", *versions])
    major, minor = torch.cuda.get_device_capability(device)
    return ", ".join([f"{torch.cuda.get_device_name(device)} ({major}.{minor})", *versions])


def problem(x: Tensor, shape: Sequence[int], kept: int, *rest: object) -> str:
    """What is computed, in words: one entry of the table."""
    last = x.dim() == 4 and not x.is_contiguous()
    sizes = "x".join(str(n) for n in x.shape), "x".join(str(n) for n in shape)
    return f"{sizes[0]}{' last' if last else ''} {x.dtype} * {sizes[1]} {kept} {rest}"


def _entry(kind: str, x: Tensor, what: str) -> Any:
    own = card(x.device)
    if (asked := _asked.get()) is not None:
        asked.append((kind, own, what))
    return _table.get(own, {}).get(what, {}).get(kind)


def config(kind: str, x: Tensor, shape: Sequence[int], kept: int, *rest: object) -> Any:
    """The numbers of the configuration measured fastest for this problem, or None."""
    if (trial := _trial.get()) is not None and trial[0] == kind:
        return trial[1]
    if not _table and _asked.get() is None:
        return None
    found = _entry(kind, x, problem(x, shape, kept, *rest))
    good = isinstance(found, list) and len(found) == KINDS[kind]
    if not good or not all(isinstance(n, int) and 1 <= n <= 1024 for n in found):
        return None
    return tuple(found)


def preferred(backends: Sequence[Named], x: Tensor, weight: Any, *rest: Any) -> Sequence[Named]:
    """The backends, those first that were measured faster for these arguments on this card."""
    if torch.compiler.is_compiling() or not (x.is_cuda or INTERPRETED):
        return backends
    if not _table and _asked.get() is None:
        return backends
    steps = tuple(a for a in rest if isinstance(a, tuple))
    what = problem(x, weight.shape, weight.nnz, type(weight).__name__, *steps)
    times = _entry("backends", x, what)
    if not isinstance(times, dict):
        return backends

    def order(backend: Any) -> float:
        found = times.get(backend.name)
        return found if isinstance(found, float | int) else float("inf")

    return sorted(backends, key=order)


@contextmanager
def trying(kind: str, numbers: tuple[int, ...]) -> Iterator[None]:
    """Within, kernels of that kind run in that configuration."""
    token = _trial.set((kind, numbers))
    try:
        yield
    finally:
        _trial.reset(token)


@contextmanager
def asking() -> Iterator[list[tuple[str, str, str]]]:
    """Within, gathers (kind, card, problem) of everything that is looked up."""
    asked: list[tuple[str, str, str]] = []
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


def keep(kind: str, own: str, what: str, found: Any) -> None:
    """Adds to what is in the file by now, whoever wrote it.

    Raises:
        OSError: the file cannot be written.
    """
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    for table in (_table, on_disk := read(file)):
        table.setdefault(own, {}).setdefault(what, {})[kind] = found
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(on_disk, indent=1) + "\n")
