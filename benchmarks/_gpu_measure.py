"""One stage of gpu_run.py: `python benchmarks/_gpu_measure.py STAGE`.

Times are medians of calls between events on the device, by turns where two things are compared;
inputs are fresh random numbers. Results are checked before they are timed, and every row is written
down as soon as it is known.
"""

import json
import platform
import sys
from collections.abc import Iterator
from importlib import import_module

import torch

from benchmarks import _gpu_dense, _gpu_sparse
from benchmarks._gpu_setting import DRY, write
from sparse_ops.ops import _triton


def env() -> Iterator[dict]:
    """Versions, and the card if there is one."""
    row: dict[str, object] = {"python": platform.python_version()}
    for name in ("torch", "triton", "numpy"):
        try:
            row[name] = import_module(name).__version__
        except ImportError as error:
            row[name] = str(error)
    row["cuda"], row["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    if torch.cuda.is_available():
        row["device"] = torch.cuda.get_device_name()
        row["properties"] = str(torch.cuda.get_device_properties(0))
    row["kernels"] = _triton.MISSING or "here"
    yield row


STAGES = {
    f.__name__: f
    for f in (
        env,
        _gpu_dense.ceilings,
        _gpu_dense.dense,
        _gpu_dense.compiled,
        _gpu_sparse.smoke,
        _gpu_sparse.ours,
        _gpu_sparse.linear,
        _gpu_sparse.graphs,
        _gpu_sparse.tune,
        _gpu_sparse.profile,
    )
}

if __name__ == "__main__":
    stage = STAGES[sys.argv[1]]
    if stage.__module__.endswith("_gpu_sparse") and _triton.MISSING is not None:
        sys.exit(f"no kernels to run: {_triton.MISSING}")
    if DRY and _triton.MISSING is None:
        # As it comes, the interpreter neither multiplies bfloat16 nor runs with numpy 2.4.
        from tests.kernels import interpreter

        interpreter.install()
    found: list[dict] = []
    for row in stage():
        found.append(row)
        write(found)
        print(json.dumps(row), flush=True)
