"""What the README promises, as far as a test can hold it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sparse_ops as so
from tests.processes import python

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    code = code.replace("epochs=3", "epochs=1, progress=False")
    names: dict = {}
    exec(code, names)
    assert (tmp_path / "vgg.safetensors").exists()
    with torch.no_grad():
        expected = names["model"](names["example"])
        torch.testing.assert_close(names["fast"](names["example"]), expected, rtol=1e-3, atol=1e-3)


def test_tables_are_those_of_the_committed_results():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.readme", "--check"], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_results_name_machine_command_and_spread():
    files = list((ROOT / "benchmarks" / "results").glob("*.json"))
    assert files
    for file in files:
        data = json.loads(file.read_text())
        if file.name == "gpu.json":
            continue
        assert data["machine"]["cpu"] and data["machine"]["torch"] and data["command"]
        for row in data.get("rows", []):
            # A race, or the cost of a training method in milliseconds.
            low, middle, high = (
                ("low", "speedup", "high") if "speedup" in row else ("low_ms", "own_ms", "high_ms")
            )
            assert row[low] <= row[middle] <= row[high] and row["pairs"] >= 3


def test_results_of_a_card_name_it_and_their_spread():
    data = json.loads((ROOT / "benchmarks" / "results" / "gpu.json").read_text())
    rows = {name: stage["figures"]["rows"] for name, stage in data["stages"].items()}
    assert data["gpu"] and data["commit"] and rows["env"][0]["device"] and rows["env"][0]["torch"]
    timed = [row for name in ("ours", "linear") for row in rows[name] if "speedup" in row]
    assert timed and all(row["low"] <= row["speedup"] <= row["high"] for row in timed)
    # What has no spread says so.
    assert "no spreads" in data["stages"]["configs"]["about"]
    assert all(row["off"] < 2.0**-6 for row in rows["configs"])


def test_importing_brings_in_little_more_than_torch():
    code = "import sys, torch; before = set(sys.modules); import sparse_ops; "
    code += "print(*{m.partition('.')[0] for m in set(sys.modules) - before})"
    heavy = {"matplotlib", "typer", "rich", "PIL", "pytest", "triton", "scipy", "sympy"}
    assert not heavy & set(python(code).split())


@pytest.mark.parametrize("name", so.__all__)
def test_every_public_name_is_there(name):
    assert getattr(so, name) is not None
