"""What was measured fastest on a card: kernels' configurations and backends, kept in one file.

SPARSE_OPS_TUNED names the file; by default it is ~/.cache/sparse_ops/tuned.json. A file that is
damaged is as good as none: nothing has to be tuned to run.

    {card and versions: {problem: {"set": [128, 64, 32, 8, 3], "backends": {"triton": 0.1}}}}
"""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from sparse_ops._files import alone, replacing
from sparse_ops.ops._kernels import INTERPRETED

Table = dict[str, dict[str, dict[str, Any]]]
Named = TypeVar("Named")

# A file that is larger is not one of ours.
MOST_BYTES = 64 << 20


class Limits(NamedTuple):
    """What a configuration may be (`kernels/configs.py`).

    Attributes:
        each: the least and the most of each number.
        powers: the places of those that are powers of two.
        together: the most that the first two are as a product: the sums of one program.
    """

    each: tuple[tuple[int, int], ...]
    powers: tuple[int, ...] = ()
    together: int = 1024


# A number from elsewhere may ask for a program that takes minutes to compile, or cannot be.
# merged: how many classes are left (`kernels/grouping.py`).
WARPS, STAGES = (1, 16), (1, 8)
WGMMA = ((1, 8), (1, 32), (1, 3), (16, 128), (2, 8), (2, 8), (1, 3), (0, 1))
KINDS = {
    "merged": Limits(((1, 1024),)),
    "set": Limits(((16, 256), (16, 256), (16, 128), WARPS, STAGES), (0, 1, 2, 3), 32768),
    "row": Limits(((16, 1024), (1, 64), WARPS, STAGES), (0, 1, 2), 8192),
    "tap": Limits(((1, 8), (1, 8), (1, 4), (1, 4), (16, 128), (1, 16)), (0, 2, 3, 4), 8),
    "wgmma": Limits(WGMMA, (0, 3), 32),
    "linear": Limits(((1, 8), (16, 1024), (1, 256), WARPS, STAGES), (0, 1, 3), 8192),
}


def allowed(kind: str, numbers: Any) -> bool:
    """Whether these are numbers that a kernel of that kind may be configured by."""
    limits = KINDS[kind]
    if not isinstance(numbers, list | tuple) or len(numbers) != len(limits.each):
        return False
    if not all(type(n) is int for n in numbers):
        return False
    within = all(a <= n <= b for n, (a, b) in zip(numbers, limits.each, strict=True))
    powers = all(numbers[place].bit_count() == 1 for place in limits.powers)
    return within and powers and (len(numbers) < 2 or numbers[0] * numbers[1] <= limits.together)


def path() -> Path:
    """The file."""
    named = os.environ.get("SPARSE_OPS_TUNED")
    if named:
        return Path(named)
    # Unlike Path.home, this is no error for a user without a home.
    home = os.path.expanduser("~")
    folder = Path(home) / ".cache" if os.path.isabs(home) else Path(tempfile.gettempdir())
    return folder / "sparse_ops" / "tuned.json"


def read(file: Path) -> Table:
    """What is in the file; nothing if it cannot be read or is not what `keep` writes."""
    try:
        if file.stat().st_size > MOST_BYTES:
            return {}
        found = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
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
    return tuple(found) if allowed(kind, found) else None


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
        return found if isinstance(found, float | int) and found > 0 else math.inf

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
    _table.setdefault(own, {}).setdefault(what, {})[kind] = found
    with alone(file):
        on_disk = read(file)
        on_disk.setdefault(own, {}).setdefault(what, {})[kind] = found
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(on_disk, indent=1) + "\n")
