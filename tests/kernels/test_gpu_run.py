"""The command for whoever has a GPU, on a box that has none: a dry run through all of its code."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.readme import gpu_table

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, str(ROOT / "benchmarks" / "gpu_run.py")]


def card(stages):
    """The results with the name of a card in them."""
    row = stages["env"]["figures"]["rows"][0] | {"device": "a card"}
    return {"stages": stages | {"env": {"state": "done", "figures": {"rows": [row]}}}}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: this would be a real run")
def test_without_a_gpu_it_is_a_dry_run(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [*RUN, "--out", str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    logs = "".join(p.read_text()[-3000:] for p in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["gpu"] is False
    stages = found["stages"]
    assert stages["env"]["figures"]["rows"][0]["torch"] == torch.__version__
    assert {row["precision"] for row in stages["dense"]["figures"]["rows"]} >= {"bf16", "fp32"}
    assert stages["ncu"]["state"] == "dry run: ncu is not run"
    if importlib.util.find_spec("triton") is None:
        assert stages["ours"]["state"] == "there is no Triton"
        return
    for name in ("smoke", "build", "ours", "linear", "graphs", "tune", "compiled", "tests"):
        assert stages[name]["state"] == "done", name
    build = stages["build"]["figures"]["rows"][0]
    assert build["whole"] == build["workers"] == 1
    assert (tmp_path / "triton-cache").is_dir()
    ours = stages["ours"]["figures"]["rows"]
    assert any(row["removed"] == "PSD2_P8 sorted" for row in ours)
    # A whole run of this kind is a table of the README; a dry one is refused.
    assert "PSD2_P8 sorted" in gpu_table(found | {"gpu": True} | card(stages))
    with pytest.raises(ValueError, match="dry run"):
        gpu_table(found)
    names = {row["operator"] for row in stages["smoke"]["figures"]["rows"]}
    assert len(names) == 4
    assert json.loads((tmp_path / "tuned.json").read_text())


def test_a_stage_that_is_not_there_is_refused_in_words():
    done = subprocess.run([*RUN, "smok"], capture_output=True, text=True)
    assert done.returncode == 2 and "no stage smok; have env, ceilings" in done.stderr
