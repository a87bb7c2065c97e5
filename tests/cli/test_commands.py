"""`sparse-ops info` and `demo`, and what starting costs."""

import os
import subprocess
import sys

import pytest
import torch

import sparse_ops
from tests.cli.running import run
from tests.processes import python


def test_info_names_torch_and_every_instruction_set():
    output = run("info").output
    for word in (torch.__version__, "avx512", "avx2", "scalar", "CPU"):
        assert word in output


def test_the_version_is_shown():
    assert run("--version").output.strip() == f"sparse-ops {sparse_ops.__version__}"


def test_a_reader_that_has_had_enough_is_no_error():
    """As of `sparse-ops recipes | head -n 1`."""
    command = [sys.executable, "-m", "sparse_ops", "recipes"]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.stderr == ""


def test_importing_the_library_leaves_the_heavy_parts_out():
    code = (
        "import sys, sparse_ops as so\n"
        "heavy = {'matplotlib', 'typer', 'sparse_ops.training', 'sparse_ops.cli'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert so.training.METHODS and so.models.MODELS and so.data.NAMES and so.report\n"
    )
    python(code)


@pytest.mark.slow
def test_the_demo_runs_from_end_to_end_without_a_terminal(tmp_path):
    output = run("demo", "--quick", "--out", tmp_path / "demo").output
    assert "LeNet-300-100" in output and "small VGG" in output
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert {"lenet300.safetensors", "vgg.safetensors", "results.json"} <= names
