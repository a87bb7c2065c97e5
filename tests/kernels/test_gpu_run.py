"""The command for whoever has a GPU, on a box that has none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: this would be a real run")
def test_without_a_gpu_it_is_a_dry_run(tmp_path):
    script = ROOT / "benchmarks" / "gpu_run.py"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["gpu"] is False
    assert found["stages"]["env"]["figures"]["rows"][0]["torch"] == torch.__version__
    assert found["stages"]["ours"]["state"] == "dry run: no GPU"
    assert done.stdout.splitlines()[-1].startswith("written to ")


def test_the_measuring_stages_can_be_imported():
    from benchmarks import _gpu_measure, _gpu_ours, gpu_run

    named = {s.command[1] for s in gpu_run.STAGES if s.command[0] == gpu_run.MEASURE}
    assert named == set(_gpu_measure.STAGES)
    assert callable(_gpu_ours.race)
