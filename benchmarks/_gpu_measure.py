"""The stages of gpu_run.py that measure: `python benchmarks/_gpu_measure.py STAGE`.

Times are medians of calls between events on the device, by turns where two things are compared;
inputs are fresh random numbers. Results are checked before they are timed.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.layers import RESNET18_CIFAR, RESNET18_IMAGENET, VGG16_CIFAR, Conv

DEADLINE = time.monotonic() + float(os.environ.get("SPARSE_OPS_SECONDS", "60"))
LAYERS = [*RESNET18_IMAGENET, *RESNET18_CIFAR, *VGG16_CIFAR]
# name -> type, and how torch may compute float32 convolutions.
PRECISIONS = {
    "bf16": (torch.bfloat16, "tf32"),
    "fp16": (torch.float16, "tf32"),
    "tf32": (torch.float32, "tf32"),
    "fp32": (torch.float32, "ieee"),
}
BATCH = 32


def milliseconds(*calls: Callable[[], object], rounds: int = 20) -> list[float]:
    """The median time of each call, by turns, after three rounds to warm up."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 3):
        for call, own in zip(calls, times, strict=True):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            stop.record()
            stop.synchronize()
            if turn >= 3:
                own.append(start.elapsed_time(stop))
    return [statistics.median(own) for own in times]


def problems() -> Iterator[tuple[str, Conv, Tensor, Tensor, Tensor]]:
    """(precision, layer, x, weight, bias) for all layers, until the time is up."""
    torch.backends.cudnn.benchmark = True
    for precision, (dtype, switch) in PRECISIONS.items():
        torch.backends.cudnn.conv.fp32_precision = switch
        for layer in LAYERS:
            if time.monotonic() > DEADLINE:
                print("out of time: the rest is left out")
                return
            x = torch.randn(BATCH, layer.channels, layer.size, layer.size, device="cuda")
            weight = torch.randn(layer.filters, layer.channels, 3, 3, device="cuda")
            bias = torch.randn(layer.filters, device="cuda")
            yield precision, layer, x.to(dtype), weight.to(dtype), bias.to(dtype)


def env() -> list[dict]:
    """Versions, and the card if there is one."""
    row: dict[str, object] = {"python": platform.python_version()}
    for name in ("torch", "triton", "numpy"):
        try:
            row[name] = import_module(name).__version__
        except ImportError as error:
            row[name] = str(error)
    row["cuda"], row["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    if torch.cuda.is_available():
        row["device"] = torch.cuda.get_device_name()
        row["properties"] = str(torch.cuda.get_device_properties(0))
    from sparse_ops.ops import _triton

    row["kernels"] = _triton.MISSING or "here"
    return [row]


def smoke() -> list[dict]:
    """Every kernel once, in every type, against float64."""
    from benchmarks._gpu_ours import check_all

    return check_all()


def ceilings() -> list[dict]:
    """What the card really does: a copy, and a dense product."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b, big = torch.randn_like(a), torch.randn(2**28, device="cuda")
    to = torch.empty_like(big)
    product, copy = milliseconds(lambda: a @ b, lambda: to.copy_(big))
    return [
        {"what": "bf16 product", "teraflops": 2 * 8192**3 / product / 1e9},
        {"what": "copy", "terabytes_per_second": 2 * big.numel() * 4 / copy / 1e9},
    ]


def dense() -> list[dict]:
    """cuDNN on every layer: both layouts, eager."""
    rows = []
    for precision, layer, x, weight, bias in problems():
        last, wlast = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
        with torch.inference_mode():
            nchw, nhwc = milliseconds(
                partial(F.conv2d, x, weight, bias, layer.stride, 1),
                partial(F.conv2d, last, wlast, bias, layer.stride, 1),
            )
        rows.append(
            {
                "network": layer.network,
                "layer": layer.label,
                "precision": precision,
                "batch": BATCH,
                "nchw_ms": nchw,
                "channels_last_ms": nhwc,
            }
        )
    return rows


def compiled() -> list[dict]:
    """The dense layers again, as torch.compile in mode max-autotune has them."""
    rows = []
    for precision, layer, x, weight, bias in problems():
        stride = layer.stride

        def plain(x: Tensor, weight: Tensor, bias: Tensor, stride: int = stride) -> Tensor:
            return F.conv2d(x, weight, bias, stride, 1)

        last, wlast = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
        torch._dynamo.reset()
        tuned = torch.compile(plain, mode="max-autotune")
        with torch.inference_mode():
            found = milliseconds(partial(tuned, last, wlast, bias))
        label = {"network": layer.network, "layer": layer.label, "precision": precision}
        rows.append(label | {"batch": BATCH, "max_autotune_ms": found[0]})
    return rows


def ours() -> list[dict]:
    """The sparse kernels against the faster of cuDNN's layouts, by turns."""
    from benchmarks._gpu_ours import race

    return [row for problem in problems() for row in race(milliseconds, BATCH, *problem)]


STAGES = {f.__name__: f for f in (env, smoke, ceilings, dense, compiled, ours)}

if __name__ == "__main__":
    found = {"rows": STAGES[sys.argv[1]]()}
    print(json.dumps(found, indent=1))
    if path := os.environ.get("SPARSE_OPS_RESULT"):
        Path(path).write_text(json.dumps(found))
