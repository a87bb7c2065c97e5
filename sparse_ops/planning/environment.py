"""The machine and the software that a measurement holds for."""

import functools
import hashlib
import os
import platform
from importlib import import_module, metadata
from pathlib import Path

import torch

from sparse_ops.ops import _native


def cpu_name() -> str:
    """The CPU's name, as it gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def best_isa() -> str | None:
    """The best instruction set that our kernels have here, or None."""
    return _native.BEST


@functools.cache
def build() -> str:
    """The package: its version, and which compiled code it has."""
    try:
        version = metadata.version("sparse-ops")
    except metadata.PackageNotFoundError:
        version = "not installed"
    if _native.MISSING is not None:
        return f"{version}, no compiled code"
    code = import_module("sparse_ops._C").__file__
    assert code is not None
    return f"{version}, {hashlib.sha256(Path(code).read_bytes()).hexdigest()[:16]}"


def environment() -> dict[str, str | int]:
    """All that has to be the same for a measurement to be used again."""
    gpu = "none"
    if torch.cuda.is_initialized():
        gpu = f"{torch.cuda.get_device_name()}, by CUDA graphs"
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "isa": best_isa() or "none",
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sparse_ops": build(),
    }
