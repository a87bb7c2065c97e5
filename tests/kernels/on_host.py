"""Our CUDA kernels under g++, on CPU tensors, by our own launchers: what runs is the kernel's text.

`cuda_on_host.h` says what is emulated, and what is caught.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional as F

from sparse_ops.ops import _kernels

cuda = _kernels.kernels("periodic_conv2d")
choice = _kernels.kernels("tap_choice")
tap_tables = _kernels.kernels("tap_tables")
wgmma_choice = _kernels.kernels("wgmma_choice")
wgmma_tables = _kernels.kernels("wgmma_tables")
configs = _kernels.kernels("configs")
sets = _kernels.kernels("sets")
nvrtc = _kernels.kernels("_nvrtc")

HERE = Path(__file__).parent
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
# The kernel's forms: each a configuration and an architecture.
FORMS = {
    "mma": (configs.TapConfig(1, 2, 1, 2, 32, 1), 800),
    "hmma": (configs.TapConfig(2, 2, 1, 1, 32, 1), 700),
    "wgmma": (configs.WgmmaConfig(2, 2, 2, 32, 2, 3, 2, 1), 900),
}
MAIN = """
#include "cuda_on_host.h"
#include "KERNEL.cuh"
extern "C" const char* emulate(const sparse_ops::Problem* p, unsigned first, unsigned blocks,
                               unsigned threads, unsigned shared, unsigned seed) {
  return host::run([p] { KERNEL(*p); }, first, blocks, threads, shared, seed);
}
"""


class Emulated(RuntimeError):
    """What the emulation caught, in words."""


def built(
    folder: Path,
    config: tuple[int, ...],
    arch: int,
    bf16: bool,
    change: Callable[[str], str] | None = None,
    flags: tuple[str, ...] = ("-O1",),
    more: dict[str, str] | None = None,
) -> ctypes.CDLL:
    """A configuration's kernel as a library for this CPU; `change`, if any, is done to its texts
    first, and must change one; `more`: what the kernel includes.
    """
    texts = nvrtc.sources() | (more or {})
    changed = {name: change(text) if change else text for name, text in texts.items()}
    assert change is None or changed != texts
    for name, text in changed.items():
        (folder / name).write_text(text)
    (folder / "main.cpp").write_text(MAIN.replace("KERNEL", config.kernel))
    defines = cuda.defines_of(config)
    macros = {**defines, "BF16": int(bf16), "HOST": arch}
    command = [COMPILER, "-std=c++17", "-shared", "-fPIC", "-w", "-Wno-unknown-pragmas", *flags]
    command += [f"-DSPARSE_OPS_{name}={number}" for name, number in macros.items()]
    library = folder / "emulated.so"
    command += [f"-I{HERE}", "-o", str(library), str(folder / "main.cpp")]
    subprocess.run(command, check=True)
    found = ctypes.CDLL(str(library))
    found.emulate.restype = ctypes.c_char_p
    return found


def launcher(
    library: ctypes.CDLL, seed: int = 0, first: Callable[[int], int] = lambda blocks: 0
) -> Callable[..., None]:
    """What stands in for `periodic_conv2d.on_card`; `first` of so many blocks is run first."""

    def launch(x, config, blocks, shared, problem, text):
        sizes = (first(blocks), blocks, config.threads, shared, seed)
        if words := library.emulate(ctypes.byref(problem), *map(ctypes.c_uint, sizes)):
            raise Emulated(words.decode())

    return launch


@cache
def structure(pattern, shape, sort=False):
    """(places of the values, what is alike) of a weight on a pattern; `sort`: class by class."""
    mask = pattern.mask(shape)
    if sort:
        orders = [(torch.arange(n) % pattern.period).argsort(stable=True) for n in shape[:2]]
        mask = mask[orders[0]][:, orders[1]]
    kept = mask.flatten(1)
    table = torch.where(kept, kept.flatten().cumsum(0).reshape(kept.shape) - 1, -1).int()
    return mask, table, tap_tables.alike(table, shape[2] * shape[3])


def problem(shape, pattern, size, batch, dtype, sort, steps):
    """(x, weight, bias, residual, exact, magnitude), the last two in float64."""
    torch.manual_seed(0)
    O, I = shape[:2]
    x = torch.randn(batch, I, *size).to(dtype).contiguous(memory_format=torch.channels_last)
    mask, _, _ = structure(pattern, shape, sort)
    weight = torch.randn(shape).to(dtype) * mask
    bias = torch.randn(O).to(dtype)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), *steps)
    residual = torch.randn(exact.shape).to(dtype)
    magnitude = F.conv2d(x.double().abs(), weight.double().abs(), bias.double().abs(), *steps)
    exact, magnitude = exact + residual.double(), magnitude + residual.double().abs()
    return x, weight, bias, residual, exact, magnitude


def convolved(
    x, weight, bias, residual, steps, activation, pattern, sort, config, arch, launch, processors=3
):
    """The launcher's whole way, from a dense weight on a pattern to y."""
    shape = tuple(weight.shape)
    mask, table, found = structure(pattern, shape, sort)
    capability = divmod(arch // 10, 10)
    wgmma = isinstance(config, configs.WgmmaConfig)
    tables = (wgmma_tables if wgmma else tap_tables).tables(table, found, config, capability)
    values = torch.cat([weight[mask], weight.new_zeros(1)])
    blocks = values[tables.source.long()]
    geometry = cuda.Geometry.of(list(shape), *steps)
    entries = cuda.entries_for(tables, config, choice.Maps.of(x, geometry))
    more = (bias, residual, geometry, activation, capability)
    return cuda.periodic_conv2d(
        x, blocks, tables, entries, config, shape[0], *more, launch, processors
    )
