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
wgmma = form == "wgmma"
flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
# Sorted, eight filters each are alike, as wgmma wants them.
shape, steps = (64 if wgmma else 40, 24, 3, 3), [[2, 2], [1, 1], [1, 1]]
change = (lambda k: k.replace(old, new)) if old else None
dtype = torch.float16 if arch < 800 else torch.bfloat16
more = {}
if wgmma:
    _, table, found = on_host.structure(PSD2_P8, shape, True)
    config = on_host.wgmma_choice.made(config[:8], found)
    more = on_host.wgmma_tables.tables(table, found, config, (9, 0)).texts
library = on_host.built(Path(folder), config, arch, arch >= 800, change, flags, more)
given = on_host.problem(shape, PSD2_P8, (7, 3), 2, dtype, wgmma, steps)
launch = on_host.launcher(library)
y = on_host.convolved(*given[:4], steps, 0, PSD2_P8, wgmma, config, arch, launch)
assert_within_rounding(y, *given[4:], 24 * 9 + 2)
print("clean")
"""
PLANTED = {
    "a pixel too much is written": (
        "mma",
        "m >= p.pixels) continue",
        "m >= p.pixels + 1) continue",
    ),
    "pixels beyond the last are read": (
        "wgmma",
        "first + r >= 0 && first + r < all",
        "first + r >= 0",
    ),
    "pixels before the first are read": (
        "wgmma",
        "first + r >= 0 && first + r < all",
        "first + r < all",
    ),
    "pixels beyond the last are written": (
        "wgmma",
        "if (inside && filter >= 0)",
        "if (filter >= 0)",
    ),
    "weights are copied from two blocks further": (
        "wgmma",
        "(size_t)first *",
        "(size_t)(first + 2) *",
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
