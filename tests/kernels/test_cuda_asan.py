"""The CUDA kernels' own texts under AddressSanitizer, on a CPU: what they reach of tensors.

Shared memory is checked in every run (`cuda_on_host.h`).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import on_host

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(on_host.COMPILER is None, reason="there is no C++ compiler"),
]
CODE = """
import sys, torch
from pathlib import Path
from sparse_ops.patterns import PSD2_P8
from tests.kernels import on_host
from tests.rounding import assert_within_rounding
form, folder, old, new = sys.argv[1:]
config, arch = on_host.FORMS[form]
flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
shape, steps = (40, 24, 3, 3), [[2, 2], [1, 1], [1, 1]]
change = (lambda k: k.replace(old, new)) if old else None
dtype = torch.float16 if arch < 800 else torch.bfloat16
library = on_host.built(Path(folder), config, arch, arch >= 800, change, flags)
given = on_host.problem(shape, PSD2_P8, (7, 3), 2, dtype, False, steps)
launch = on_host.launcher(library)
y = on_host.convolved(*given[:4], steps, 0, PSD2_P8, False, config, arch, launch)
assert_within_rounding(y, *given[4:], 24 * 9 + 2)
print("clean")
"""
STAGE = "s + 2 < p.stages ? s + 2 : p.stages"
PLANTED = {
    "a pixel too much is written": (
        "mma",
        "m >= p.pixels) continue",
        "m >= p.pixels + 1) continue",
    ),
    "the list of stages is left": ("wgmma", STAGE, "s + 8"),
    "a copy is from two blocks further": (
        "cluster",
        "(size_t)(stage.block + first)",
        "(size_t)(stage.block + first + 2)",
    ),
}


def run(form, folder, old="", new=""):
    def where(name):
        command = [on_host.COMPILER, f"-print-file-name={name}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    if not os.path.isabs(where("libasan.so")):
        pytest.skip("the compiler has no AddressSanitizer")
    environment = os.environ | {
        "LD_PRELOAD": f"{where('libasan.so')} {where('libubsan.so')} {where('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0:new_delete_type_mismatch=0:detect_stack_use_after_return=0",
    }
    return subprocess.run(
        [sys.executable, "-c", CODE, form, str(folder), old, new],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("form", on_host.FORMS)
def test_the_address_sanitizer_finds_nothing(tmp_path, form):
    done = run(form, tmp_path)
    assert done.returncode == 0 and "clean" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize("name", PLANTED)
def test_it_finds_what_is_planted(tmp_path, name):
    done = run(PLANTED[name][0], tmp_path, *PLANTED[name][1:])
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr[-2000:]
