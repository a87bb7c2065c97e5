"""No operator reads or writes next to its tensors, whatever it is given: pages forbid it."""

import ctypes
import itertools
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparse_ops.ops import _native
from tests.guarded import SIDES, guarded

pytestmark = [
    pytest.mark.skipif(_native.BEST is None, reason=str(_native.MISSING)),
    pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by Linux's calls"),
]
# Lies about each operator's arguments.
LIES = 60


def run(what):
    command = [sys.executable, "-m", "tests.ops.test_guard_pages", what]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, cwd=root)


@pytest.mark.parametrize("side", SIDES)
def test_what_stands_next_to_a_tensor_cannot_be_read(side):
    done = run(side)
    # AddressSanitizer catches the signal and says so.
    assert done.returncode == -signal.SIGSEGV or "SEGV" in done.stderr


def test_operators_stay_within_their_tensors():
    done = run("operators")
    assert done.returncode == 0, done.stderr
    right, refused, ran = map(int, done.stdout.split())
    assert right > 0 and refused > right and ran > right


def operators():
    """Every operator on every instruction set, with arguments that are right, and that lie."""
    from tests.fuzz.operators import ARGUMENTS, HOWS, ISAS, LARGEST, changed
    from tests.program.hostile import NUMBERS

    chance, counts = random.Random(0), {"right": 0, "refused": 0, "ran": 0}
    for (name, make), isa, side in itertools.product(ARGUMENTS.items(), ISAS, SIDES):
        operator = getattr(torch.ops.sparse_ops, f"{name}_{isa}")
        for lie in range(LIES):
            arguments = make()
            if lie:
                which = chance.choice(list(arguments))
                change = {"how": chance.choice(HOWS), "at": lie, "to": chance.choice(NUMBERS)}
                arguments[which] = changed(arguments[which], change, which)
            given = [
                guarded(each, side) if isinstance(each, torch.Tensor) else each
                for each in arguments.values()
            ]
            if max(t.numel() for t in given if isinstance(t, torch.Tensor)) > LARGEST:
                continue
            try:
                operator(*given)
                counts["ran" if lie else "right"] += 1
            except RuntimeError:
                # The arguments that are right raise it, too.
                assert lie, f"{name} {isa}"
                counts["refused"] += 1
    print(*counts.values())


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] in SIDES:
        x = guarded(torch.randn(5), sys.argv[1])
        ctypes.string_at(x.data_ptr() + (x.nbytes if sys.argv[1] == "after" else -1), 1)
    else:
        operators()
