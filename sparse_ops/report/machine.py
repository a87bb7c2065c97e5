"""The machine that something was measured on."""

import ctypes
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from sparse_ops.ops import _native
from sparse_ops.planning.environment import best_isa, cores, cpu_name


@dataclass(frozen=True)
class Machine:
    """What a figure depends on.

    Attributes:
        cpu: its name, as it gives it.
        cores: how many this process may use.
        threads: how many torch uses.
        isa: the best instruction set that our kernels have here, or None.
        refused: instruction set -> why kernels for it cannot run here.
        commit: of our sources, where they are a git checkout.
    """

    cpu: str
    cores: int
    threads: int
    isa: str | None
    refused: dict[str, str]
    system: str
    python: str
    torch: str
    commit: str | None


def machine() -> Machine:
    """This machine, now."""
    refused = {isa: reason for isa, reason in _native.REFUSES.items() if reason is not None}
    return Machine(
        cpu=cpu_name(),
        cores=cores(),
        threads=torch.get_num_threads(),
        isa=best_isa(),
        refused=refused,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        commit=_commit(),
    )


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def keep_freed_memory() -> bool:
    """Tells the C library to keep freed memory for this process; whether it has been told.

    glibc gives large blocks back to the system, so that each call of a layer may ask for the pages
    of its output again: a millisecond for a few MiB, on whichever side it happens to be. Programs
    that measure call this first; then neither side pays. It cannot be taken back.
    """
    trim_threshold, mmap_threshold = -1, -3
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(mmap_threshold, 1 << 30)) and bool(mallopt(trim_threshold, 1 << 30))
