"""Compiling for a GPU that is not here: our own launchers, on CPU tensors, stop before the launch.

A driver that only knows its target is set active, so that what gets compiled is what a GPU of that
kind would specialise for these very arguments.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction


class Resources(NamedTuple):
    """What one thread, or for `shared` one program, takes of a multiprocessor."""

    registers: int
    stack: int
    shared: int


class Compiled(NamedTuple):
    """One kernel, compiled."""

    name: str
    ptx: str
    resources: Resources | None


class _Driver:
    """As much of a driver as compiling asks for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        # Compiled kernels are kept by device: one for each kind.
        return self.capability

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def _resources(kernel: Any) -> Resources:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found is not None, said
    return Resources(int(found[1]), int(found[2]), kernel.metadata.shared)


@contextmanager
def compiling(capability: int, inspect: bool = True) -> Iterator[list[Compiled]]:
    """Within, a launch compiles for that capability (90 for 9.0) and adds to the list.

    Args:
        inspect: whether resources are looked up, too, which takes a while.
    """
    made: list[Compiled] = []
    run = JITFunction.run

    def only_compile(self: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        kernel = run(self, *arguments, grid=grid, warmup=True, **named)
        resources = _resources(kernel) if inspect else None
        made.append(Compiled(self.__name__, kernel.asm["ptx"], resources))
        return kernel

    before = driver._active
    driver.set_active(_Driver(capability))
    JITFunction.run = only_compile
    try:
        yield made
    finally:
        JITFunction.run = run
        driver._active = before
