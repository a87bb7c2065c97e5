"""SIGKILL at random moments: the old file or the new one, and training resumes to the bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("count", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_what_is_written_is_whole_or_as_it_was(tmp_path, count):
    command = [sys.executable, "-m", "tests.faults.killed", str(count), "1", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"Saving", "Masks", "Measurements", "Training", "Fetching"}
    # Most are killed while they write; a run of training may have ended.
    assert all(killed >= count * 0.5 for name, killed in result.items() if name != "Training")
