"""Threads, forks and processes at once: equal results, flat memory, whole files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLOW = pytest.mark.slow


def together(name, count, seconds):
    command = [sys.executable, "-m", "tests.faults.together", name, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("count", [20, pytest.param(10_000, marks=SLOW)])
def test_many_threads_with_changing_batches_get_equal_results(count):
    grown = float(together("callers", count, 3600))
    # Few calls say nothing of memory: arenas are still being found then.
    assert count < 1000 or grown < 0.02


@pytest.mark.parametrize("count", [2, pytest.param(100, marks=SLOW)])
def test_a_fork_after_a_forward_gives_the_same(count):
    assert together("forked", count, 600) == "equal"


@pytest.mark.slow
def test_two_processes_plan_one_model_at_once(tmp_path):
    code = """
import torch, sparse_ops as so
from tests.convert.models import EXAMPLE, masks_of_net, net
torch.manual_seed(0)
torch.set_num_threads(1)
model, x = net(), torch.randn(EXAMPLE)
for _ in range(3):
    plan = so.plan(model, x, masks_of_net(), budget_s=0.5, compile=False, progress=False)
    assert not any("cache" in note or "kept" in note for note in plan.notes), plan.notes
    plan.apply(model)(x)
"""
    environment = os.environ | {"SPARSE_OPS_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", code]
    both = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for each in both:
        _, said = each.communicate(timeout=600)
        assert each.returncode == 0, said
    (file,) = [path for path in tmp_path.iterdir() if path.suffix == ".json"]
    assert json.loads(file.read_text())["results"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
