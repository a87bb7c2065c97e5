"""Every argument of every kernel arrives where a card would read it, by Triton's own launcher."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparse_ops.ops import _kernels

try:
    import triton
except ImportError:
    pytest.skip("there is no Triton for this machine", allow_module_level=True)
if (reason := _kernels.too_old(triton.__version__)) is not None:
    pytest.skip(reason, allow_module_level=True)

from tests.kernels.launched import STAND_IN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver"),
    pytest.mark.skipif(_kernels.INTERPRETED, reason="these kernels are interpreted"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
]
KERNELS = {
    "_pack_kernel",
    "_fill_kernel",
    "_set_conv2d_fwd_kernel",
    "_set_conv2d_weight_kernel",
    "_row_conv2d_fwd_kernel",
    "_row_conv2d_weight_kernel",
    "_csr_linear_fwd_kernel",
    "_csr_linear_sum_kernel",
}


def test_a_launcher_hands_on_what_it_was_given(tmp_path):
    (tmp_path / "libcuda.c").write_text(STAND_IN)
    library = tmp_path / "libcuda.so.1"
    soname = "-Wl,-soname,libcuda.so.1"
    build = ["cc", "-shared", "-fPIC", soname, "-o", str(library), str(tmp_path / "libcuda.c")]
    subprocess.run(build, check=True)
    (tmp_path / "libcuda.so").symlink_to(library)
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(tmp_path),
        "TRITON_LIBCUDA_PATH": str(tmp_path),
        "TRITON_CACHE_DIR": str(tmp_path / "cache"),
        "LAUNCH_FILE": str(tmp_path / "launch"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.launched"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row[0] for row in rows} == KERNELS
    for name, blocks, threads, given, taken, grid, wanted in rows:
        assert (blocks, threads) == (grid, wanted) and taken == given, name
    # A stride over 2^31 arrives whole.
    assert any(2**31 + 16 in row[4] for row in rows)
