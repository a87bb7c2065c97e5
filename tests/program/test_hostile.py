"""Whatever numbers a program has, it is refused in words or runs; nothing else happens."""

import subprocess
import sys

import pytest

from sparse_ops.ops import _native


@pytest.mark.skipif(_native.BEST is None, reason=str(_native.MISSING))
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by Linux's rules")
@pytest.mark.parametrize("first", [0, 1000])
def test_damaged_programs_are_refused(first):
    command = [sys.executable, "-m", "tests.program.hostile", str(first), str(first + 1000)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused, ran = map(int, done.stdout.split())
    assert refused + ran <= 1000 and refused > 500 and ran > 50
