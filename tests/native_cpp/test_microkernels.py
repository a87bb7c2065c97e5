"""The microkernels without torch: under emulation for aarch64, and for this CPU."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CPU = ROOT / "csrc" / "cpu"
# -Og: with -O1 compiling takes two to three times as long; with -O0 running does.
FLAGS = ("-std=c++17", "-Og", "-ffp-contract=fast", "-Wall", "-Wextra", "-Werror=return-type")
# Bodies compile for a minute or more where others want the processor, too.
SECONDS = 900


def tools(*names):
    """The first words of commands, or a skipped test that says which is missing."""
    missing = [name for name in names if shutil.which(name.split()[0]) is None]
    if missing:
        pytest.skip(f"there is no {' and no '.join(missing)} here")
    return names


def built(compiler, folder, *links):
    """The test's program: every instruction set's file, which is empty on another processor."""
    # The slowest to compile first.
    sources = [*CPU.glob("row_sparse_*.cpp"), *CPU.glob("tiles_*.cpp"), *HERE.glob("*.cpp")]

    def compiled(source):
        out = folder / f"{source.stem}.o"
        command = [*compiler.split(), *FLAGS, f"-I{CPU}", "-c", str(source), "-o", str(out)]
        return out, subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(compiled, sources))
    for out, each in done:
        assert each.returncode == 0, f"{out.stem}: {each.stderr[-3000:]}"
    program = folder / "microkernels"
    objects = [str(out) for out, _ in done]
    linked = subprocess.run(
        [*compiler.split(), *links, *objects, "-o", str(program)], capture_output=True, text=True
    )
    assert linked.returncode == 0, linked.stderr[-3000:]
    return program


def output_of(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.portable
def test_neon_keeps_the_contract(tmp_path):
    compiler, emulator = tools("aarch64-linux-gnu-g++", "qemu-aarch64")
    program = built(compiler, tmp_path, "-static")
    assert output_of(emulator, str(program)) == ["scalar: 0 wrong", "neon: 0 wrong"]


@pytest.mark.portable
def test_what_this_cpu_has_keeps_the_contract(tmp_path):
    (compiler,) = tools(os.environ.get("CXX", "c++"))
    found = output_of(str(built(compiler, tmp_path)))
    assert found and all(line.endswith(": 0 wrong") for line in found)
