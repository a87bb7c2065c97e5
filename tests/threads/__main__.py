"""Draws the cases, builds `callers.cpp` with ThreadSanitizer, and runs it: see `tests.threads`."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils import cpp_extension

from sparse_ops.formats import ChannelPrunedWeight, CSRWeight
from sparse_ops.ops import program as programs
from tests.program.random_programs import random_program

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "threads"
PROGRAMS = 12
SECONDS = 60.0
TYPES = {torch.int8: 1, torch.uint8: 0, torch.int32: 3, torch.int64: 4, torch.float32: 6}
PROGRAM, CONV, LINEAR, CHANNELS = range(4)
# What ThreadSanitizer's processes end with.
RACE = 66
# One instruction set: what threads share is the same in all.
OTHERS = ("avx2", "avx512", "neon")
LEFT_OUT = ("test_step", *(f"{what}_{isa}" for what in ("row_sparse", "tiles") for isa in OTHERS))


def cases():
    """(kind, numbers, tensors), the last tensors being the outputs."""
    for seed in range(PROGRAMS):
        program, inputs = random_program(seed)
        encoded, constants = program.encoded(), list(program.constants)
        for batch in (1, 5, 16, 18):
            given = [
                x[:1].repeat(batch, 1, 1, 1) + torch.randn(batch, *x.shape[1:]) for x in inputs
            ]
            outputs = programs.run(given, encoded, constants, "scalar")
            yield PROGRAM, [len(given), len(constants)], [encoded, *given, *constants, *outputs]
    for batch, size in ((1, 9), (3, 14), (16, 5), (33, 4)):
        x, bias = torch.randn(batch, 6, size, size), torch.randn(10)
        numbers = [10, 6, 3, 3, 2, 2, 1, 1, 1, 1, 1]
        weight = torch.randn(10, 6, 3, 3)
        sparse = CSRWeight.pack(weight, torch.rand(weight.shape) > 0.7)
        y = F.conv2d(x, sparse.to_dense(), bias, 2, 1).relu()
        tensors = [x, sparse.crow_indices, sparse.col_indices, sparse.values, bias, y]
        yield CONV, numbers, tensors
        mask = torch.ones(weight.shape, dtype=torch.bool)
        mask[::3], mask[:, 1] = False, False
        few = ChannelPrunedWeight.pack(weight, mask)
        y = F.conv2d(x, few.to_dense(), bias, 2, 1).relu()
        kept = few.out_channels, few.in_channels
        yield CHANNELS, numbers, [x, few.values, *kept, bias, y]
        flat = CSRWeight.pack(torch.randn(40, 70), torch.rand(40, 70) > 0.8)
        x, bias = torch.randn(batch, 70), torch.randn(40)
        y = F.linear(x, flat.to_dense(), bias).relu()
        yield LINEAR, [], [x, flat.crow_indices, flat.col_indices, flat.values, bias, y]


def words(*numbers):
    return struct.pack(f"{len(numbers)}q", *numbers)


def written(tensor):
    content = tensor.contiguous().numpy().tobytes()
    head = words(TYPES[tensor.dtype], tensor.dim(), *tensor.shape, len(content))
    return head + content.ljust(-(-len(content) // 8) * 8, b"\0")


def write(path):
    all_cases = list(cases())
    parts = [words(len(all_cases))]
    for kind, numbers, tensors in all_cases:
        parts += [words(kind, len(numbers), *numbers, len(tensors)), *map(written, tensors)]
    path.write_bytes(b"".join(parts))


def build():
    sources = [*ROOT.glob("csrc/cpu/*.cpp"), *ROOT.glob("csrc/program/*.cpp")]
    sources = [source for source in sorted(sources) if source.stem not in LEFT_OUT]
    # A build that was killed has left its lock, which would be waited for without end.
    (BUILD / "lock").unlink(missing_ok=True)
    cpp_extension.load(
        "callers",
        [str(source) for source in [Path(__file__).with_name("callers.cpp"), *sources]],
        extra_cflags=[
            "-O0",
            "-g1",
            "-fsanitize=thread",
            "-DTORCH_TARGET_VERSION=0x020a000000000000",
        ],
        extra_ldflags=["-fsanitize=thread", "-rdynamic"],
        build_directory=str(BUILD),
        is_python_module=False,
        is_standalone=True,
    )
    return BUILD / "callers"


def run(callers, path, seconds, *more):
    libraries = Path(torch.__file__).parent / "lib"
    environment = {"LD_LIBRARY_PATH": str(libraries), "TSAN_OPTIONS": f"exitcode={RACE}"}
    command = [str(callers), str(path), str(seconds), *more]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def main():
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / "cases.bin"
    torch.manual_seed(0)
    write(path)
    callers = build()
    planted = run(callers, path, 5, "race")
    if planted.returncode != RACE or "data race" not in planted.stderr:
        sys.exit(f"the race that is planted was not found: {planted.returncode} {planted.stderr}")
    done = run(callers, path, SECONDS)
    print(done.stdout, done.stderr[-20000:])
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
