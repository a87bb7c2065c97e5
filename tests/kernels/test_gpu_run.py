"""The command for whoever has a GPU, on a box that has none: a dry run through all of its code."""

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_run
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
    out, work = tmp_path / "out", tmp_path / "work"
    done = subprocess.run(
        [*RUN, "--out", str(out), "--work", str(work)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    logs = "".join(p.read_text()[-3000:] for p in work.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    # Caches and logs stay in the work folder; what travels is four files at the most.
    assert {path.name for path in out.iterdir()} <= {
        "gpu.json",
        "tuned.json",
        "logs.tgz",
        "ncu.csv",
    }
    with tarfile.open(out / "logs.tgz") as archive:
        assert "layers.log" in archive.getnames()
    found = json.loads((out / "gpu.json").read_text())
    assert found["gpu"] is False
    assert "dry run, whose times mean nothing: there is no GPU (" in done.stdout
    assert "CUDA" in done.stdout.partition("there is no GPU (")[2]
    stages = found["stages"]
    assert stages["env"]["figures"]["rows"][0]["torch"] == torch.__version__
    assert stages["ncu"]["state"] == "dry run: ncu is not run"
    every = [row for s in stages.values() for row in (s["figures"] or {}).get("rows", [])]
    assert {row["card"] for row in every} == {"no card"}
    if importlib.util.find_spec("triton") is None:
        assert stages["layers"]["state"] == "there is no Triton"
        return
    for name in ("layers", "rest", "network", "linear", "small", "tune", "compiled", "tests"):
        assert stages[name]["state"] == "done", name
    assert {row["precision"] for row in stages["dense"]["figures"]["rows"]} >= {"bf16", "fp32"}
    build = stages["build"]["figures"]["rows"][0]
    assert build["whole"] == build["workers"] == 1 and build["kernels"] > 5
    assert (work / "triton-cache").is_dir()
    ours = stages["ours"]["figures"]["rows"]
    assert {"PSD2_P8 sorted", "PSD1_P8 sorted", "99% of weights"} <= {r["removed"] for r in ours}
    assert {"cuda", "wgmma", "triton", "dense, smaller"} == {row["backend"] for row in ours}
    assert any(row.get("fused") for row in ours)
    assert "gather_ms" in stages["gather"]["figures"]["rows"][0]
    # A whole run of this kind is a table of the README; a dry one is refused.
    assert "PSD2_P8 sorted" in gpu_table(found | {"gpu": True} | card(stages))
    with pytest.raises(ValueError, match="dry run"):
        gpu_table(found)
    (network,) = stages["network"]["figures"]["rows"]
    assert network["network"] == "dry" and network["off"] < 1e-3
    names = {row["operator"] for row in stages["smoke"]["figures"]["rows"]}
    assert len(names) == 4
    assert json.loads((out / "tuned.json").read_text())


AT_ROWS = """
import os, time
from benchmarks import _gpu_setting as setting
from benchmarks._gpu_sparse import guarded
setting.MOST_ROW_S = 1
def broken():
    PLANTED
rows = []
for backend, make in (("triton", lambda: {"ms": 1.0}), ("cuda", broken), ("dense", lambda: {})):
    for layer in ("a", "b"):
        rows.append(guarded({"layer": layer, "backend": backend}, make))
        setting.write(rows)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "planted",
    [
        "time.sleep(600)",
        "os.abort()",
        "setting.DEVICE = 'cuda'; torch.cuda.synchronize = lost; raise RuntimeError('lost')",
    ],
    ids=["hangs", "crashes", "breaks the device"],
)
def test_a_backend_that_takes_its_process_along_costs_one_start_and_no_other_row(
    tmp_path, monkeypatch, planted
):
    monkeypatch.setattr(gpu_run, "AGAIN_S", 1.0)
    lost = "import torch\ndef lost():\n    raise RuntimeError('an illegal address')\n"
    code = lost + AT_ROWS.replace("PLANTED", planted)
    stage = gpu_run.Stage("planted", 100.0, 0.1, ("python", "-c", code))
    row = gpu_run.run_stage(stage, 100.0, tmp_path, gpu=True)
    assert row["state"] == "failed (2 of 6 rows)"
    rows = row["figures"]["rows"]
    assert [(r["layer"], r["backend"]) for r in rows] == [
        (layer, backend) for backend in ("triton", "cuda", "dense") for layer in ("a", "b")
    ]
    assert all("left out" in r["failed"] for r in rows if r["backend"] == "cuda")
    assert all(r["ms"] == 1.0 for r in rows if r["backend"] == "triton")


def test_a_stage_that_is_not_there_is_refused_in_words():
    done = subprocess.run([*RUN, "smok"], capture_output=True, text=True)
    assert done.returncode == 2 and "no stage smok; have env, ceilings" in done.stderr


def test_the_two_parts_are_not_asked_for_at_once():
    for words in (["--first", "--second"], ["--first", "env"]):
        done = subprocess.run([*RUN, *words], capture_output=True, text=True)
        assert done.returncode == 2 and "one of --first, --second and names" in done.stderr
