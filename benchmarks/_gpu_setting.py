"""What the stages of gpu_run.py share: the device, the shapes, the clock, and the file of results.

With SPARSE_OPS_DRY=1 there is no GPU: the same code then runs on the CPU, in Triton's interpreter
if there is a Triton, on shapes so small that nothing can be learnt from its times.
"""

import faulthandler
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import _gpu_clock
from benchmarks import _gpu_results as results
from benchmarks.layers import (
    LINEARS,
    RESNET18_CIFAR,
    RESNET18_IMAGENET,
    VGG16_CIFAR,
    Conv,
    Linear,
)
from kernels.clock import rounds_on_device

DRY = os.environ.get("SPARSE_OPS_DRY") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not DRY else "cpu"
DEADLINE = time.monotonic() + float(os.environ.get("SPARSE_OPS_SECONDS", "60"))
CONVS = [Conv("dry", 8, 16, 3)] if DRY else [*RESNET18_IMAGENET, *VGG16_CIFAR, *RESNET18_CIFAR]
# Six of ResNet-18, for the first minutes.
FIRST_CONVS = CONVS if DRY else [c for c in RESNET18_IMAGENET if c.label != "64→128 3×3 @56 /2"]
LINES = [Linear("dry", 9, 5)] if DRY else LINEARS
# The larger first: there, a kernel shows what it can do.
BATCHES = (1,) if DRY else (256, 32)
# name -> type, and whether torch may use TF32 for float32.
PRECISIONS = {
    "bf16": (torch.bfloat16, True),
    "fp16": (torch.float16, True),
    "tf32": (torch.float32, True),
    "fp32": (torch.float32, False),
}
# Volta and Turing have neither bfloat16 nor TF32.
IS_OLD = DEVICE == "cuda" and torch.cuda.get_device_capability() < (8, 0)
# What is asked first, and where there is time for one only.
HALF = "fp16" if IS_OLD else "bf16"
if DRY or IS_OLD:
    PRECISIONS = {name: PRECISIONS[name] for name in (HALF, "fp32")}
# The most that a result may be off, of the largest exact one: 4 units of its type's rounding.
OFF = {torch.float32: 2e-3, torch.float16: 4 * 2.0**-11, torch.bfloat16: 4 * 2.0**-8}


rounds: Callable[..., list[list[float]]] = _gpu_clock.rounds_on_host if DRY else rounds_on_device


def milliseconds(*calls: Callable[[], object]) -> list[float]:
    """The median of each call, by turns."""
    return _gpu_clock.medians(rounds(*calls))


def in_time() -> bool:
    return time.monotonic() < DEADLINE


def use(precision: str) -> torch.dtype:
    """The type of that name, torch's switches set for it."""
    dtype, tf32 = PRECISIONS[precision]
    torch.backends.cudnn.benchmark = True
    # The older switches: with the newer ones set, torch refuses to answer for the older, and parts
    # of torch.compile still ask for these.
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    return dtype


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def conv_problem(layer: Conv, batch: int, dtype: torch.dtype) -> tuple[Tensor, dict]:
    """(x in channels_last, fresh random numbers; what it is).

    Layers have no bias: cuDNN would add one in a kernel of its own, and ours in the same.
    """
    precision = next(name for name, of in PRECISIONS.items() if of == (dtype, _tf32()))
    what = {"network": layer.network, "layer": layer.label, "precision": precision, "batch": batch}
    x = torch.randn(batch, layer.channels, layer.size, layer.size, device=DEVICE)
    return last(x.to(dtype)), what


def _tf32() -> bool:
    return torch.backends.cuda.matmul.allow_tf32


def off(y: Tensor, exact: Tensor) -> float:
    """The largest error, of the largest exact output."""
    return float((y.double() - exact).abs().max() / exact.abs().max())


def card() -> str:
    """What the rows were measured on."""
    return torch.cuda.get_device_name() if DEVICE == "cuda" else "no card"


_named = os.environ.get("SPARSE_OPS_RESULT")
RESULT = Path(_named) if _named else None
# Backends that hung or broke the device, and cost this stage a start already.
WITHOUT = os.environ.get("SPARSE_OPS_WITHOUT", "").split()
# A row takes a few seconds, with what has to be compiled; a kernel that hangs, forever.
MOST_ROW_S = 600 if DRY else 25


def _from_before() -> dict[tuple, dict]:
    """The rows that a stage had when it was begun again."""
    try:
        rows = json.loads(RESULT.read_text())["rows"] if WITHOUT and RESULT else []
    except (OSError, ValueError):
        rows = []
    return {(row.get("stage"), results.about(row)): row for row in rows}


_before = _from_before()


def known(what: dict) -> dict | None:
    """The row about this, if the stage had it when it was begun again."""
    return next((row for (_, about), row in _before.items() if about == results.about(what)), None)


@contextmanager
def at_row(what: dict) -> Iterator[None]:
    """Within, the process ends if it hangs; and whoever finds it ended, finds at what."""
    if RESULT is None or "backend" not in what:
        yield
        return
    now = results.now_file(RESULT)
    now.write_text(json.dumps(what))
    faulthandler.dump_traceback_later(MOST_ROW_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
    now.unlink(missing_ok=True)


def leave_if_broken() -> None:
    """Ends the process if the device can no longer be used: all that follows would fail, too."""
    if DEVICE != "cuda":
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        print(f"the device is lost: {error}", flush=True)
        sys.stdout.flush()
        # Not by way of what wants to clean up on a device.
        os._exit(86)


def write(rows: list[dict]) -> None:
    """Puts the rows where gpu_run.py looks for them: all so far, whole or not at all."""
    if RESULT is None:
        return
    new = {(row.get("stage"), results.about(row)): row | {"card": card()} for row in rows}
    partial = RESULT.with_name(RESULT.name + ".partial")
    partial.write_text(json.dumps({"rows": list((_before | new).values())}))
    partial.replace(RESULT)
