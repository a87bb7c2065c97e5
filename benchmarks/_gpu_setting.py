"""What the stages of gpu_run.py share: the device, the shapes, the clock, and the file of results.

With SPARSE_OPS_DRY=1 there is no GPU: the same code then runs on the CPU, in Triton's interpreter
if there is a Triton, on shapes so small that nothing can be learnt from its times.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.layers import (
    LINEARS,
    RESNET18_CIFAR,
    RESNET18_IMAGENET,
    VGG16_CIFAR,
    Conv,
    Linear,
)
from sparse_ops.ops.tuning import cuda_milliseconds

DRY = os.environ.get("SPARSE_OPS_DRY") == "1"
DEVICE = "cpu" if DRY else "cuda"
DEADLINE = time.monotonic() + float(os.environ.get("SPARSE_OPS_SECONDS", "60"))
CONVS = [Conv("dry", 8, 16, 3)] if DRY else [*RESNET18_IMAGENET, *VGG16_CIFAR, *RESNET18_CIFAR]
LINES = [Linear("dry", 9, 5)] if DRY else LINEARS
BATCHES = (1,) if DRY else (32, 256)
# name -> type, and how torch may compute float32 convolutions.
PRECISIONS = {
    "bf16": (torch.bfloat16, "tf32"),
    "tf32": (torch.float32, "tf32"),
    "fp16": (torch.float16, "tf32"),
    "fp32": (torch.float32, "ieee"),
}
# The most that a result may be off, of the largest exact one: 4 units of its type's rounding.
OFF = {torch.float32: 2e-3, torch.float16: 4 * 2.0**-11, torch.bfloat16: 4 * 2.0**-8}


def _seconds_on_cpu(*calls: Callable[[], object]) -> list[float]:
    times = []
    for call in calls:
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return times


milliseconds: Callable[..., list[float]] = _seconds_on_cpu if DRY else cuda_milliseconds


def in_time() -> bool:
    return time.monotonic() < DEADLINE


def use(precision: str) -> torch.dtype:
    """The type of that name, torch's switches set for it."""
    dtype, switch = PRECISIONS[precision]
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.conv.fp32_precision = switch
    torch.backends.cuda.matmul.fp32_precision = switch
    return dtype


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def conv_problems(
    batches: tuple[int, ...] = BATCHES, layers: list[Conv] = CONVS
) -> Iterator[tuple[dict, Conv, Tensor, Tensor, Tensor]]:
    """(what it is, layer, x, weight, bias), fresh random numbers, until the time is up."""
    for batch in batches:
        for precision in PRECISIONS:
            dtype = use(precision)
            for layer in layers:
                if not in_time():
                    return
                x = torch.randn(batch, layer.channels, layer.size, layer.size, device=DEVICE)
                weight = torch.randn(layer.filters, layer.channels, 3, 3, device=DEVICE)
                bias = torch.randn(layer.filters, device=DEVICE)
                what = {
                    "network": layer.network,
                    "layer": layer.label,
                    "precision": precision,
                    "batch": batch,
                }
                yield what, layer, last(x.to(dtype)), last(weight.to(dtype)), bias.to(dtype)


def off(y: Tensor, exact: Tensor) -> float:
    """The largest error, of the largest exact output."""
    return float((y.double() - exact).abs().max() / exact.abs().max())


def write(rows: list[dict]) -> None:
    """Puts the rows where gpu_run.py looks for them: all so far, whole or not at all."""
    if path := os.environ.get("SPARSE_OPS_RESULT"):
        partial = Path(path + ".partial")
        partial.write_text(json.dumps({"rows": rows}))
        partial.replace(path)
