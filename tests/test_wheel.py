"""The wheel: one file, put where there is no compiler and nothing else, runs a packed model."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import sparse_ops

ROOT = Path(__file__).parents[1]

CODE = """
import pathlib, sys
import torch, sparse_ops as so
from sparse_ops.ops import _native

assert pathlib.Path(so.__file__).is_relative_to(sys.prefix), so.__file__
assert _native.MISSING is None, _native.MISSING
torch.manual_seed(0)
model = so.models.lenet5().eval()
masks = so.masks.keep_largest({n: w.abs() for n, w in so.masks.prunable(model).items()}, 9000)
so.masks.apply_(model, masks)
x = torch.randn(4, 1, 28, 28)
expected = model(x)
for name, mask in masks.items():
    layer = name.removesuffix(".weight")
    dense = model.get_submodule(layer)
    kind = so.CSRLinear if isinstance(dense, torch.nn.Linear) else so.CSRConv2d
    model.set_submodule(layer, kind.from_dense(dense, mask))
so.save(model, "packed.safetensors")
fast = so.load("packed.safetensors", so.models.lenet5().eval())
with torch.inference_mode():
    torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-5)
print("ran", so.data.load("fashion-mnist-subset").test.images.shape[0])
"""


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built with the objects that are there already; it takes minutes where there are none."""
    pytest.importorskip("setuptools", "77")
    folder = tmp_path_factory.mktemp("wheel")
    # With PYTHONPATH nothing: what is built is what is here.
    command = (sys.executable, "setup.py", "-q", "bdist_wheel", "-d", folder)
    run(*command, SPARSE_OPS_NATIVE="1", SPARSE_OPS_CUDA="0")
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_one_wheel_is_for_every_python(wheel):
    version = sparse_ops.__version__
    assert wheel.name.startswith(f"sparse_ops-{version}-cp310-abi3-")


@pytest.mark.slow
def test_it_runs_a_packed_model_where_there_is_nothing_else(wheel, tmp_path):
    home = tmp_path / "env"
    run(sys.executable, "-m", "venv", "--without-pip", home)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    # Its dependencies are this environment's. A line in a .pth file brings its folder along, not
    # what other .pth files in that would, such as this checkout.
    site = next((home / "lib").glob("python*/site-packages"))
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    alone = {"PATH": str(home / "bin"), "PYTHONPATH": "", "CXX": "/nothing", "CC": "/nothing"}
    code = (python, "-c", CODE)
    assert run(*code, cwd=tmp_path, SPARSE_OPS_CACHE="off", **alone).strip() == "ran 2000"
    said = run(home / "bin" / "sparse-ops", "--version", cwd=tmp_path, **alone)
    assert said.strip() == f"sparse-ops {sparse_ops.__version__}"
