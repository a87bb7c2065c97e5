"""What is installed is what is here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_file_is_installed_and_no_folder_is_doubtful(tmp_path):
    pytest.importorskip("setuptools", "77")
    info, built = tmp_path / "info", tmp_path / "built"
    info.mkdir()
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(info)]
    done = subprocess.run(
        [*command, "build_py", "--build-lib", str(built)],
        cwd=ROOT,
        env=os.environ | {"SPARSE_OPS_NATIVE": "0", "SPARSE_OPS_CUDA": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "absent from the `packages` configuration" not in done.stderr

    def files(folder):
        found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        kinds = (".pyc", ".so")
        return {path for path in found if path.suffix not in kinds and path.name[0] != "."}

    kernels = {Path("kernels") / path for path in files(ROOT / "kernels")}
    assert files(built / "sparse_ops") == files(ROOT / "sparse_ops") | kernels
