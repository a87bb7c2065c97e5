"""The smaller stages of gpu_run.py: checking the kernels, linear layers, tuning, profiling."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks._gpu_clock import graphed, ratios
from benchmarks._gpu_packs import SOME, SPARSITIES, packs
from benchmarks._gpu_setting import (
    BATCHES,
    CONVS,
    DEVICE,
    DRY,
    HALF,
    LINES,
    OFF,
    PRECISIONS,
    WITHOUT,
    at_row,
    conv_problem,
    in_time,
    known,
    last,
    leave_if_broken,
    milliseconds,
    off,
    rounds,
    use,
)
from benchmarks.layers import Conv
from sparse_ops import functional
from sparse_ops.formats import CSRWeight
from sparse_ops.functional import csr_linear

# A small choice, for a short visit; `tuning.CANDIDATES` is the whole list.
WGMMA = [
    (eights, together // eights, warpgroups, 64, *rings, 3, int(together <= 16))
    for eights in (2, 4, 8)
    for together, warpgroups, *rings in ((32, 2, 3, 6), (32, 2, 4, 4), (16, 2, 3, 6), (16, 1, 4, 4))
]
CANDIDATES = {
    "merged": [(1,), (2,), (4,), (8,)],
    "tap": [
        (eights, groups, *warps, chunk, 1)
        for eights, groups in ((4, 1), (4, 2), (2, 4), (8, 1))
        for warps in ((2, 4), (4, 2), (4, 1))
        for chunk in (64, 128)
    ],
    "wgmma": WGMMA,
    "row": [(64, 8, 4, 1)] if DRY else [(128, 8, 4, 1), (256, 8, 4, 1), (128, 16, 4, 1)],
    "set": [(16, 16, 16, 4, 1)]
    if DRY
    else [
        (128, 32, 32, 8, 3),
        (128, 64, 32, 8, 3),
        (128, 64, 64, 8, 3),
        (128, 32, 64, 4, 3),
        (64, 64, 32, 4, 3),
        (64, 128, 32, 8, 3),
        (64, 32, 64, 4, 4),
        (256, 32, 32, 8, 3),
        (128, 64, 64, 8, 4),
        (128, 64, 16, 8, 4),
    ],
}


def checked(
    run: Callable,
    x: Tensor,
    packed: Any,
    bias: Tensor | None,
    *steps: int,
    backend: str = "triton",
) -> float:
    """How far off it is; AssertionError if that is more than rounding."""
    y = run(x, packed, bias, *steps, backend=backend)
    dense, shift = packed.to_dense().double(), None if bias is None else bias.double()
    if run is csr_linear:
        exact = F.linear(x.double(), dense, shift)
    else:
        exact = F.conv2d(x.double(), dense, shift, *steps)
    error = off(y, exact)
    words = f"{run.__name__} by {backend}, {tuple(x.shape)} in {x.dtype}: off by {error:.2g}"
    assert error < OFF[x.dtype], words
    return error


def guarded(what: dict, row: Callable[[], dict]) -> dict:
    """A row, or what went wrong with it: the others do not hang on it."""
    if (found := known(what)) is not None:
        return found
    if what.get("backend") in WITHOUT:
        return what | {"failed": "left out: this backend hung or broke the device before"}
    with at_row(what):
        try:
            return what | row()
        except Exception as error:
            failed = what | {"failed": f"{type(error).__name__}: {error}"[:300]}
            leave_if_broken()
    return failed


def replayed(call: Callable[[], object]) -> Callable[[], object]:
    """The call as a CUDA graph; in a dry run, the call."""
    if not DRY:
        return graphed(call)
    call()
    return call


def smoke(precisions: Sequence[str] = tuple(PRECISIONS)) -> Iterator[dict]:
    """Every kernel once in each type, and its gradients, against float64."""
    for precision in precisions:
        dtype = use(precision)
        size, (filters, channels) = ((2, 3), (16, 8)) if DRY else ((13, 11), (136, 64))
        x = last(torch.randn(2, channels, *size, device=DEVICE).to(dtype))
        weight = torch.randn(filters, channels, 3, 3, device=DEVICE).to(dtype)
        bias = torch.randn(filters, device=DEVICE).to(dtype)
        for pack in packs(weight, SOME):
            for backend in pack.backends:
                what = {"operator": pack.run.__name__, "what": pack.removed, "precision": precision}
                row = partial(_smoke_row, pack.run, x, pack.weight, bias, backend)
                yield guarded(what | {"backend": backend}, row)
        matrix = weight[:, :, 0, 0].contiguous()
        packed = CSRWeight.pack(matrix, torch.rand(matrix.shape, device=DEVICE) > 0.8)
        what = {"operator": "csr_linear", "what": "80%", "precision": precision}
        flat = x[:, :, 0, 0].contiguous()
        yield guarded(what, partial(_smoke_row, csr_linear, flat, packed, bias, "triton"))


def _smoke_row(run: Callable, x: Tensor, packed: Any, bias: Tensor, backend: str) -> dict:
    steps = () if run is csr_linear else (1, 1)
    try:
        error = checked(run, x, packed, bias, *steps, backend=backend)
    except RuntimeError as reason:
        if "no backend for these arguments" in str(reason):
            return {"refused": str(reason).partition("; ")[2]}
        raise
    values = packed.values.clone().requires_grad_()
    y = run(x, packed.with_values(values), None, *steps, backend=backend)
    found = torch.autograd.grad(y.float().square().mean(), values)[0]
    assert bool(found.isfinite().all()), f"the gradient of {run.__name__} is not finite"
    return {"off": error}


def linear() -> Iterator[dict]:
    """csr_linear against the dense library, both as CUDA graphs; also where it refuses."""
    import_module("sparse_ops.ops.csr_linear").MOST_BATCH = 1 << 30
    for precision in PRECISIONS:
        dtype = use(precision)
        for line in LINES:
            shape = (line.out_features, line.in_features)
            weight = torch.randn(shape, device=DEVICE).to(dtype)
            bias = torch.randn(shape[0], device=DEVICE).to(dtype)
            for sparsity in SPARSITIES:
                packed = CSRWeight.pack(weight, torch.rand(shape, device=DEVICE) >= sparsity)
                for batch in (1, 9) if DRY else (1, 8, 16, 128, 1024):
                    if not in_time():
                        return
                    x = torch.randn(batch, shape[1], device=DEVICE).to(dtype)
                    what = {"layer": line.label, "precision": precision, "batch": batch}
                    what["removed"] = f"{sparsity:.0%} of weights"
                    yield guarded(what, partial(_linear_row, x, weight, bias, packed))


@torch.inference_mode()
def _linear_row(x: Tensor, weight: Tensor, bias: Tensor, packed: Any) -> dict:
    checked(csr_linear, x, packed, bias)
    mine, theirs = rounds(
        replayed(partial(csr_linear, x, packed, bias, backend="triton")),
        replayed(partial(F.linear, x, weight, bias)),
    )
    times = {"ours_ms": statistics.median(mine), "dense_ms": statistics.median(theirs)}
    return times | ratios(theirs, mine) | {"ideal": weight.numel() / max(1, packed.nnz)}


def tune() -> Iterator[dict]:
    """Configurations for periodic layers, as they are and sorted, and the backends, dense too."""
    for precision in PRECISIONS:
        dtype = use(precision)
        for conv in [layer for layer in CONVS if DRY or layer.channels >= 128]:
            x, what = conv_problem(conv, BATCHES[-1], dtype)
            weight = torch.randn(conv.filters, conv.channels, 3, 3, device=DEVICE).to(dtype)
            for pack in packs(weight, ("PSD2_P8 sorted", "PSD2_P8")):
                if not in_time():
                    return
                row = partial(_tuned_row, conv.stride, x, pack.run, pack.weight)
                yield guarded(what | {"removed": pack.removed}, row)


def _tuned_row(stride: int, x: Tensor, run: Callable, packed: Any) -> dict:
    found = functional.tune(
        run, x, packed, None, stride, 1, milliseconds=milliseconds, candidates=CANDIDATES
    )
    return {f"{name}_ms": time for name, time in found.items()}


def profile() -> Iterator[dict]:
    """Each kernel, and cuDNN's, once on a middle-sized layer, in a range for a profiler.

    Weights are none of inference_mode: what follows from those is worked out at each call.
    """
    layer = CONVS[0] if DRY else Conv("resnet18", 256, 256, 14)
    dtype = use(HALF)
    x, what = conv_problem(layer, BATCHES[-1], dtype)
    weight = torch.randn(layer.filters, layer.channels, 3, 3, device=DEVICE).to(dtype)
    calls: dict[str, Callable[[], object]] = {
        "cuDNN": partial(F.conv2d, x, last(weight), None, layer.stride, 1)
    }
    for pack in packs(weight, ("PSD2_P8 sorted", "PSD1_P8 sorted", "99% of weights")):
        for backend in pack.backends:
            call = partial(pack.run, x if pack.last else x.contiguous(), pack.weight, None, 1, 1)
            calls[f"{pack.removed} {backend}"] = partial(call, backend=backend)
    for name, call in calls.items():
        yield what | {"what": name} | _profiled(call)


@torch.inference_mode()
def _profiled(call: Callable[[], object]) -> dict:
    try:
        call()
    except RuntimeError as error:
        return {"refused": str(error)[:200]}
    if not DRY:
        torch.cuda.synchronize()
        torch.cuda.nvtx.range_push("measured")
        call()
        torch.cuda.synchronize()
        torch.cuda.nvtx.range_pop()
    return {}
