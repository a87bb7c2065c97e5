"""Whatever numbers a program has, it is refused in words or runs; nothing else happens."""

import subprocess
import sys

import pytest

from sparse_ops.ops import _native


@pytest.mark.skipif(_native.BEST is None, reason=str(_native.MISSING))
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux's rules")
def test_damaged_programs_are_refused():
    command = [sys.executable, "-m", "tests.program.hostile", "0", "1500"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused, ran = map(int, done.stdout.split())
    assert refused + ran <= 1500 and refused > 750 and ran > 75
