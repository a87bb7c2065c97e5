"""gpu_run.py with NVIDIA's tools, which are not here: others of their names stand in for them."""

import gc
import os
import re
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import _gpu_clock, _gpu_packs, _gpu_sparse, _gpu_stages, gpu_run
from benchmarks.layers import Conv

ROOT = Path(__file__).parents[2]
# It runs what it is given, and writes the table that ncu would; or says why it may not.
NCU = """#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in
    --log-file) log="$2";;
    */python*) break;;
  esac
  shift
done
"$@" || exit 7
TABLE
"""
TABLE = """cat > "$log" <<END
==PROF== Connected to process 1
"ID","Kernel Name","gpu__time_duration.sum"
"","","usecond"
"0","periodic_conv2d","41.5"
"1","cudnn, fprop","98.0"
END"""
MAY_NOT = """echo "==ERROR== ERR_NVGPUCTRPERM - no permission" > "$log" """


def of(name):
    return next(stage for stage in gpu_run.STAGES if stage.name == name)


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Puts a script on PATH under a tool's name."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def made(name, text):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)

    return made


def test_ncu_looks_at_a_range_and_writes_to_the_work_folder():
    command = _gpu_stages.command_of(of("ncu"), "/py", "/work")
    assert command[command.index("--nvtx-include") + 1] == "measured/"
    assert command[command.index("--log-file") + 1] == "/work/ncu.csv" and "/py" in command


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [True, False])
def test_ncu_runs_our_kernels_and_cudnns_and_its_table_becomes_rows(tmp_path, tool, allowed):
    pytest.importorskip("triton")
    tool("ncu", NCU.replace("TABLE", TABLE if allowed else MAY_NOT))
    row = gpu_run.run_stage(of("ncu"), 300, tmp_path, gpu=False)
    log = (tmp_path / "ncu.log").read_text()
    for kind, backends in (
        ("PSD2_P8 sorted", _gpu_packs.OURS),
        ("PSD1_P8 sorted", _gpu_packs.OURS),
        ("99% of weights", ("triton",)),
    ):
        assert all(f'"what": "{kind} {backend}"' in log for backend in backends), log
    assert '"what": "cuDNN"' in log and '"refused": ' in log
    if not allowed:
        words = "failed (ncu measured nothing: ERR_NVGPUCTRPERM - no permission)"
        assert row["state"] == words and row["figures"] == {"rows": []}
        return
    assert row["state"] == "done", log
    first, second = row["figures"]["rows"]
    assert (first["what"], first["gpu__time_duration.sum usecond"]) == ("periodic_conv2d", 41.5)
    assert second["what"] == "cudnn, fprop"


def test_what_a_profiler_looks_at_is_one_call_of_each_that_is_not_refused(monkeypatch):
    said = []

    def run(name, *_, backend):
        if backend == "triton":
            raise RuntimeError("no backend for these arguments")
        said.append((name, backend))

    def packs(weight, kinds):
        for kind in kinds:
            yield _gpu_packs.Pack(kind, partial(run, kind), None, ("cuda", "triton"))

    monkeypatch.setattr(_gpu_sparse, "DRY", False)
    monkeypatch.setattr(_gpu_sparse, "BATCHES", (1,))
    monkeypatch.setattr(_gpu_sparse, "Conv", lambda *_: Conv("small", 8, 16, 3))
    monkeypatch.setattr(_gpu_sparse, "packs", packs)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: said.append("wait"))
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", said.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: said.append("end"))
    rows = list(_gpu_sparse.profile())
    kinds = ["PSD2_P8 sorted", "PSD1_P8 sorted", "99% of weights"]
    expected = ["wait", "measured", "wait", "end"]
    for kind in kinds:
        # Once before: what is compiled or packed then is not looked at.
        call = (kind, "cuda")
        expected += [call, "wait", "measured", call, "wait", "end"]
    assert said == expected
    assert [row["what"] for row in rows if "refused" in row] == [f"{k} triton" for k in kinds]
    assert len(rows) == 1 + 2 * len(kinds)


def test_what_a_profiler_looks_at_has_weights_that_are_worked_out_once(monkeypatch):
    """Those of inference_mode would be laid out again at each call, in the range."""
    seen = []

    def packs(weight, kinds):
        own = torch.zeros(1)

        def run(*_, backend):
            seen.append((weight, own, torch.is_inference_mode_enabled()))

        yield _gpu_packs.Pack(kinds[0], run, None, ("cuda",))

    monkeypatch.setattr(_gpu_sparse, "DRY", True)
    monkeypatch.setattr(_gpu_sparse, "CONVS", [Conv("small", 8, 16, 3)])
    monkeypatch.setattr(_gpu_sparse, "packs", packs)
    modes = [torch.is_inference_mode_enabled() for _ in _gpu_sparse.profile()]
    ((weight, own, within),) = seen
    assert within and not weight.is_inference() and not own.is_inference()
    assert modes == [False, False]


def test_what_is_recorded_lives_as_long_as_what_replays_it(monkeypatch):
    """A graph knows addresses alone: a freed input was an illegal address on a card."""

    class Graph:
        replayed = 0

        def replay(self):
            Graph.replayed += 1

    monkeypatch.setattr(_gpu_clock, "record", lambda call: (Graph(), call()))
    x = torch.ones(3)
    of_x = weakref.ref(x)
    replay = _gpu_clock.graphed(partial(torch.add, x, 1))
    del x
    gc.collect()
    assert of_x() is not None
    replay()
    assert Graph.replayed == 1
    del replay
    gc.collect()
    assert of_x() is None


@pytest.mark.parametrize("option", ["--kernel-name", "--kernel-regex", "--filter"])
def test_sanitizers_check_our_kernels_only_by_what_their_version_calls_it(tool, option):
    assert _gpu_stages.only_ours("") == ()
    tool("compute-sanitizer", f"#!/bin/sh\necho '{option} arg   Filter'\n")
    command = _gpu_stages.command_of(of("memcheck"), "/py", "/work")
    filters = 2 * len(_gpu_stages.OURS)
    assert command[1 : 1 + filters : 2] == [option] * len(_gpu_stages.OURS)
    assert command[2 : 2 + filters : 2] == [f"kns={name}" for name in _gpu_stages.OURS]
    assert command[1 + filters : 5 + filters] == ["--error-exitcode", "9", "--tool", "memcheck"]


def test_sanitizers_check_every_kernel_of_ours():
    paths = (ROOT / "kernels").rglob("*.[pc]*")
    text = "".join(path.read_text() for path in paths if path.suffix in (".py", ".cuh"))
    # The others that Triton compiles are parts of these.
    compiled = re.findall(r"@triton\.jit.*\ndef (\w+)\(", text)
    found = {name for name in compiled if f"{name}[(" in text}
    assert len(found) >= 8 and "_fill_kernel" in found
    found |= set(re.findall(r"(\w+)\(const (?:__grid_constant__ )?sparse_ops::Problem p", text))
    assert {"periodic_conv2d", "periodic_conv2d_wgmma"} <= found
    for kernel in found:
        assert any(name in kernel for name in _gpu_stages.OURS), kernel
