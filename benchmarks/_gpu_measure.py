"""One stage of gpu_run.py: `python benchmarks/_gpu_measure.py STAGE`.

Times are medians of calls between events on the device, by turns where two things are compared;
inputs are fresh random numbers. Results are checked before they are timed, and every row is written
down as soon as it is known.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module

import torch

from benchmarks._gpu_setting import DRY, write

SMI = ("--query-gpu=driver_version,power.limit,clocks.max.sm,clocks.sm", "--format=csv,noheader")


def env() -> Iterator[dict]:
    """Versions, and the card if there is one."""
    row: dict[str, object] = {"python": platform.python_version()}
    for name in ("torch", "triton", "numpy", "sparse_ops"):
        try:
            row[name] = import_module(name).__version__
        except ImportError as error:
            row[name] = str(error)
    row["cuda"], row["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    if torch.cuda.is_available():
        row["device"] = torch.cuda.get_device_name()
        row["properties"] = str(torch.cuda.get_device_properties(0))
        row["driver, power, clocks"] = said("nvidia-smi", *SMI)
        row["free, all bytes"] = str(torch.cuda.mem_get_info())
    # Triton compiles its launchers with it.
    row["C compiler"] = shutil.which(os.environ.get("CC", "cc")) or "none: Triton wants one"
    try:
        row["kernels"] = import_module("sparse_ops.ops._triton").MISSING or "here"
        row["cuda kernels"] = import_module("sparse_ops.ops._cuda").MISSING or "here"
        row["architectures"] = str(sorted(import_module("sparse_ops.ops._cuda").ARCHITECTURES))
    except ImportError as error:
        row["kernels"] = str(error)
    yield row


def said(*command: str) -> str:
    """What a command prints, or why it does not."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


# stage -> where it is; only what a stage needs is imported: the dense side needs torch alone.
STAGES = {
    **dict.fromkeys(("ceilings", "compiled"), "_gpu_dense"),
    **dict.fromkeys(("layers", "rest", "small"), "_gpu_ours"),
    **dict.fromkeys(("smoke", "linear", "tune", "profile"), "_gpu_sparse"),
    "network": "_gpu_network",
}


def prepared() -> None:
    """Makes sure that our kernels can run; exits with the reason if not."""
    missing = import_module("sparse_ops.ops._triton").MISSING
    if missing is not None:
        sys.exit(f"no kernels to run: {missing}")
    if DRY and missing is None:
        # As it comes, the interpreter neither multiplies bfloat16 nor runs with numpy 2.4.
        import_module("tests.kernels.interpreter").install()


if __name__ == "__main__":
    name = sys.argv[1]
    if name != "env" and STAGES[name] != "_gpu_dense":
        prepared()
    stage = env if name == "env" else getattr(import_module(f"benchmarks.{STAGES[name]}"), name)
    found: list[dict] = []
    for row in stage():
        found.append(row)
        write(found)
        print(json.dumps(row), flush=True)
