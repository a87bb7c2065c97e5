"""The build stage of gpu_run.py: what the timing stages need of Triton, compiled on all cores.

A kernel takes a second or more to compile, and there are some for each type. So processes that
see no GPU walk through the layers, each its share, and fill Triton's cache on disk; nothing is
launched. What is missing in the end is compiled when it is called.
"""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._gpu_packs import packed_convs
from benchmarks._gpu_setting import BATCHES, CONVS, DEADLINE, DRY, PRECISIONS, in_time, use
from sparse_ops.formats import ChannelPrunedWeight
from sparse_ops.ops import _triton_calls
from sparse_ops.ops._kernels import kernels
from sparse_ops.ops._row_sparse import columns_of
from tests.kernels.compile_only import compiling

# Of a card that is not there: an H200.
CAPABILITY, MULTIPROCESSORS = (9, 0), 132


def build() -> Iterator[dict]:
    """Starts as many processes as there are cores, and waits for them while there is time."""
    capability, count = CAPABILITY, MULTIPROCESSORS
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        count = torch.cuda.get_device_properties(0).multi_processor_count
    workers = 1 if DRY else max(1, min(16, (os.cpu_count() or 2) - 2))
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    share = [str(n) for n in (*capability, count, workers)]
    command = [sys.executable, str(Path(__file__)), *share]
    start = time.monotonic()
    started = [subprocess.Popen([*command, str(n)], env=environment) for n in range(workers)]
    codes: list[int | None] = []
    for process in started:
        try:
            codes.append(process.wait(max(0.1, DEADLINE - time.monotonic())))
        except subprocess.TimeoutExpired:
            process.kill()
            codes.append(None)
    row = {"workers": workers, "whole": codes.count(0), "stopped": codes.count(None)}
    row["seconds"] = round(time.monotonic() - start, 1)
    if failed := [code for code in codes if code]:
        row["failed"] = f"{len(failed)} of {workers} workers, with {failed[0]}"
    yield row


def compile_share(capability: tuple[int, int], count: int, workers: int, own: int) -> None:
    """Compiles the convolutions of every workers-th problem, on tensors that hold nothing."""
    configs = kernels("configs")
    configs.capability = lambda device: capability
    configs._multiprocessors = lambda device: count
    number = 0
    with compiling(10 * capability[0] + capability[1], inspect=False) as made, torch.no_grad():
        for precision, layer in itertools.product(PRECISIONS, CONVS):
            dtype = use(precision)
            weight = torch.randn(layer.filters, layer.channels, 3, 3).to(dtype)
            shape = (BATCHES[0], layer.channels, layer.size, layer.size)
            x = torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
            for _, run, packed in packed_convs(weight):
                if not in_time():
                    return
                if number % workers == own:
                    _launch(run.__name__, x, packed, layer.stride)
                number += 1
    print(f"worker {own}: {len({kernel.ptx for kernel in made})} kernels")


def _launch(name: str, x: Tensor, packed: Any, stride: int) -> None:
    steps = (list(packed.shape), [stride, stride], [1, 1], [1, 1])
    if isinstance(packed, ChannelPrunedWeight):
        kept = (packed.values, packed.out_channels, packed.in_channels)
        _triton_calls.channel_pruned_conv2d(x, *kept, None, None, *steps, 0)
    else:
        launch = getattr(_triton_calls, name)
        launch(x, *columns_of(packed), packed.values, None, None, *steps, 1, 0)


if __name__ == "__main__":
    major, minor, *rest = (int(n) for n in sys.argv[1:])
    compile_share((major, minor), *rest)
