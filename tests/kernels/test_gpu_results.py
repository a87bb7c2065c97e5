"""What gpu_run.py makes of what it measures; CUDA graphs; kernels that are built ahead."""

import contextlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import _gpu_build, _gpu_packs, _gpu_sparse
from benchmarks import _gpu_results as results


def run_of(card, of="abc", **rows):
    """What a run on a card leaves."""
    stages = {"env": {"state": "done", "seconds": 1.0, "figures": {"rows": [{"device": card}]}}}
    for name, own in rows.items():
        own = [row | {"card": card} for row in own]
        stages[name] = {"state": "done", "seconds": 1.0, "figures": {"rows": own}}
    return {"commit": of, "gpu": True, "stages": stages}


def test_rows_of_an_earlier_run_stay_and_new_ones_take_their_place(tmp_path):
    a, b = {"layer": "a", "batch": 32}, {"layer": "b", "batch": 32}
    old = run_of("H100", ours=[a | {"ms": 1.0}, b | {"ms": 2.0}], tune=[a | {"ms": 9.0}])
    (tmp_path / "gpu.json").write_text(json.dumps(old))
    found = results.earlier(tmp_path, "abc", True)
    new = run_of("H100", ours=[b | {"ms": 3.0}, b | {"batch": 1, "ms": 4.0}])
    both = results.joined(found, new)["stages"]
    assert [row["ms"] for row in both["ours"]["figures"]["rows"]] == [1.0, 3.0, 4.0]
    assert both["tune"]["figures"]["rows"][0]["ms"] == 9.0
    # Of another card, of another commit, or of a dry run, nothing is taken.
    assert results.joined(found, run_of("H200"))["stages"].keys() == {"env"}
    assert results.earlier(tmp_path, "another", True) is None
    assert results.earlier(tmp_path, "abc", False) is None
    (tmp_path / "gpu.json").write_text("{")
    assert results.earlier(tmp_path, "abc", True) is None


def test_rows_of_one_process_go_to_their_own_stages():
    whole = {"stages": {}}
    rows = [{"stage": "dense", "layer": "a", "ms": 1.0}, {"stage": "ours", "layer": "a", "ms": 2.0}]
    results.add(whole, "layers", {"state": "done", "seconds": 5.0, "figures": {"rows": rows}})
    more = [{"stage": "dense", "layer": "b", "ms": 3.0}, {"layer": "c"}]
    results.add(whole, "rest", {"state": "out of time", "seconds": 6.0, "figures": {"rows": more}})
    stages = whole["stages"]
    assert [row["layer"] for row in stages["dense"]["figures"]["rows"]] == ["a", "b"]
    assert stages["ours"]["state"] == "done" and stages["dense"]["state"] == "out of time"
    assert stages["layers"] == {"state": "done", "seconds": 5.0, "figures": None}
    assert stages["rest"]["figures"]["rows"] == [{"layer": "c"}]


def test_where_there_is_no_git_a_variable_says_the_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("SPARSE_OPS_COMMIT", raising=False)
    assert results.commit() is None
    monkeypatch.setenv("SPARSE_OPS_COMMIT", "0123abc")
    assert results.commit() == "0123abc"


NCU = """==PROF== Connected to process 1
"ID","Kernel Name","gpu__time_duration.sum","sm__pipe_tensor_cycles_active.avg.pct","sm__clock"
"","","usecond","%","Ghz"
"0","periodic_conv2d","1,041.5","61.2","1.7"
"1","cudnn, fprop","98.0","n/a","1.7"
"2","cut
"""


def test_what_ncu_measured_becomes_rows():
    rows = results.from_ncu(NCU)
    assert [row["what"] for row in rows] == ["periodic_conv2d", "cudnn, fprop"]
    assert rows[0]["gpu__time_duration.sum usecond"] == 1041.5
    assert rows[0]["sm__pipe_tensor_cycles_active.avg.pct %"] == 61.2
    assert not any("clock" in name for name in rows[0]) and len(rows[1]) == 3
    refused = "==ERROR== ERR_NVGPUCTRPERM - no permission to access counters\n"
    assert results.from_ncu(refused) == []
    assert results.error_of_ncu(refused).startswith("ERR_NVGPUCTRPERM - no permission")


def test_both_sides_are_recorded_once_and_replayed(monkeypatch):
    said = []

    class Stream:
        def wait_stream(self, other):
            said.append("wait")

    class Graph:
        def replay(self):
            said.append("replay")

    @contextlib.contextmanager
    def within(what):
        said.append(type(what).__name__)
        yield

    monkeypatch.setattr(_gpu_sparse, "DRY", False)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", within)
    replay = _gpu_sparse.replayed(lambda: said.append("call"))
    assert said == ["call", "wait", "Stream", *["call"] * 3, "wait", "Graph", "call"]
    replay()
    assert said[-1] == "replay"


@pytest.mark.slow
def test_what_is_built_ahead_is_what_is_launched(tmp_path, monkeypatch):
    """One of each kernel is compiled by another process; a launch then finds it in the cache."""
    pytest.importorskip("triton")
    from sparse_ops.formats import CSRWeight
    from sparse_ops.ops import _kernels, _triton_calls
    from tests.kernels.compile_only import compiling

    if _kernels.INTERPRETED:
        pytest.skip("these kernels are interpreted")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    configs = _kernels.kernels("configs")
    monkeypatch.setattr(configs, "capability", lambda device: (9, 0))

    def calls():
        for filters, batch in ((64, 2), (64, 4)):
            weight = _gpu_packs.pack(
                torch.ones(filters, 64, 3, 3).bfloat16(), "PSD2_P8 sorted"
            ).weight
            assert isinstance(weight, CSRWeight)
            x = (
                torch.zeros(batch, 64, 8, 8)
                .bfloat16()
                .contiguous(memory_format=torch.channels_last)
            )
            steps = (list(weight.shape), [1, 1], [1, 1], [1, 1])
            kept = (weight.crow_indices, weight.col_indices, weight.values)
            _triton_calls.csr_conv2d(x, *kept, None, None, *steps, 1, 0)

    with _gpu_build.noting() as noted, torch.enable_grad():
        calls()
    assert 2 <= len(noted) < 4
    file = tmp_path / "launches"
    file.write_bytes(pickle.dumps(((9, 0), list(noted.values()))))
    command = [sys.executable, "benchmarks/_gpu_build.py", str(file), "1", "0"]
    root = Path(__file__).parents[2]
    paths = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    before = sorted(path.name for path in (tmp_path / "cache").iterdir())
    with compiling(90, inspect=False) as made, torch.enable_grad():
        calls()
    assert len(made) == 4
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == before
