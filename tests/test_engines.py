"""Other engines beside ours: processes that speak, fail in words, and are timed by turns."""

import sys
import time

import numpy as np
import pytest
import torch

pytest.importorskip("benchmarks.engines", reason="the benchmarks are not here")

from benchmarks import engine_process, engines


def test_an_engine_that_is_not_here_says_so(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 3), dtype=np.float32))
    missing = next(n for n in engine_process.ENGINES if not _is_here(n))
    with pytest.raises(RuntimeError, match="ModuleNotFoundError: No module named"):
        engines.Engine(sys.executable, missing, tmp_path / "model.onnx", tmp_path / "x.npy", 1)


def _is_here(name):
    import importlib.util

    return importlib.util.find_spec({"mnn": "MNN"}.get(name, name)) is not None


def test_an_engine_in_a_process_answers_and_is_timed(tmp_path, monkeypatch):
    child = tmp_path / "engine_process.py"
    own = engine_process.__file__
    child.write_text(
        f"import sys; sys.path.insert(0, {str(own)!r}.rsplit('/', 1)[0])\n"
        "import time, engine_process as e\n"
        "def slow(path, x, threads):\n"
        "    print('what engines print', flush=True)\n"
        "    def call():\n"
        "        ends = time.perf_counter() + 0.004\n"
        "        while time.perf_counter() < ends: pass\n"
        "        return 2 * x\n"
        "    return call\n"
        "e.ENGINES['onnxruntime'] = slow\n"
        "e.main(*sys.argv[1:])\n"
    )
    monkeypatch.setattr(engines, "__file__", str(tmp_path / "engines.py"))
    x = torch.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "x.npy", x.numpy())
    python, model = sys.executable, tmp_path / "model.onnx"
    engine = engines.Engine(python, "onnxruntime", model, tmp_path / "x.npy", 1)
    try:
        assert torch.equal(engine.output, 2 * x.flatten())
        wall, _ = engine.turn(3)
        assert wall >= 0.012
        found = engines.beside(engine, lambda: time.sleep(0.001), 0.0)
        assert found["pairs"] + found["dropped"] == engines.FEWEST
        assert found["ms"] >= 4
    finally:
        engine.close()


def test_pythons_are_named_or_this_one():
    assert engines.pythons([]) == dict.fromkeys(engines.NAMES, sys.executable)
    found = engines.pythons(["mnn=/a/python", "deepsparse=/b/python"])
    assert (found["mnn"], found["deepsparse"]) == ("/a/python", "/b/python")
    for wrong in ("mnn", "tensorrt=/a"):
        with pytest.raises(SystemExit, match="--python must be one of"):
            engines.pythons([wrong])
