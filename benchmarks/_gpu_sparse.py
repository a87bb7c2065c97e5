"""Our side of gpu_run.py: that the kernels are right, how long they take, and what tuning gives."""

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks._gpu_clock import queueing_ms, ratios
from benchmarks._gpu_packs import SPARSITIES, packed_convs
from benchmarks._gpu_setting import (
    BATCHES,
    CONVS,
    DEVICE,
    DRY,
    LINES,
    OFF,
    PRECISIONS,
    conv_problems,
    in_time,
    last,
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
CANDIDATES = {
    "merged": [(1,), (2,), (4,), (8,)],
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


def checked(run: Callable, x: Tensor, packed: Any, bias: Tensor | None, *steps: int) -> float:
    """How far off it is; AssertionError if that is more than rounding."""
    y = run(x, packed, bias, *steps, backend="triton")
    dense, shift = packed.to_dense().double(), None if bias is None else bias.double()
    if run is csr_linear:
        exact = F.linear(x.double(), dense, shift)
    else:
        exact = F.conv2d(x.double(), dense, shift, *steps)
    error = off(y, exact)
    assert error < OFF[x.dtype], f"{run.__name__} {tuple(x.shape)} in {x.dtype}: off by {error:.2g}"
    return error


def guarded(what: dict, row: Callable[[], dict]) -> dict:
    """A row, or what went wrong with it: the others do not hang on it."""
    try:
        return what | row()
    except Exception as error:
        return what | {"failed": f"{type(error).__name__}: {error}"[:300]}


def smoke() -> Iterator[dict]:
    """Every kernel once in each type, and its gradients, against float64."""
    for precision in PRECISIONS:
        dtype = use(precision)
        size, (filters, channels) = ((2, 3), (16, 8)) if DRY else ((13, 11), (136, 64))
        x = last(torch.randn(2, channels, *size, device=DEVICE).to(dtype))
        weight = torch.randn(filters, channels, 3, 3, device=DEVICE).to(dtype)
        bias = torch.randn(filters, device=DEVICE).to(dtype)
        for removed, run, packed in packed_convs(weight, some=True):
            what = {"operator": run.__name__, "what": removed, "precision": precision}
            yield guarded(what, partial(_smoke_row, run, x, packed, bias))
        matrix = weight[:, :, 0, 0].contiguous()
        packed = CSRWeight.pack(matrix, torch.rand(matrix.shape, device=DEVICE) > 0.8)
        what = {"operator": "csr_linear", "what": "80%", "precision": precision}
        flat = x[:, :, 0, 0].contiguous()
        yield guarded(what, partial(_smoke_row, csr_linear, flat, packed, bias))


def _smoke_row(run: Callable, x: Tensor, packed: Any, bias: Tensor) -> dict:
    steps = () if run is csr_linear else (1, 1)
    error = checked(run, x, packed, bias, *steps)
    values = packed.values.clone().requires_grad_()
    y = run(x, packed.with_values(values), None, *steps, backend="triton")
    found = torch.autograd.grad(y.float().square().mean(), values)[0]
    assert bool(found.isfinite().all()), f"the gradient of {run.__name__} is not finite"
    return {"off": error}


def ours() -> Iterator[dict]:
    """The convolutions against the dense library's faster layout, by turns."""
    for what, layer, x, weight in conv_problems():
        for removed, run, packed in packed_convs(weight.contiguous()):
            if not in_time():
                return
            row = partial(_against_dense, layer.stride, x, weight, run, packed)
            yield guarded(what | {"removed": removed}, row)


@torch.inference_mode()
def _against_dense(stride: int, x: Tensor, weight: Tensor, run: Callable, packed: Any) -> dict:
    plain, wplain = x.contiguous(), weight.contiguous()
    # As many images as make the very kernel that is timed, specialised for its multiples of 16.
    checked(run, x[:16], packed, None, stride, 1)
    mine, nchw, nhwc = rounds(
        partial(run, x, packed, None, stride, 1, backend="triton"),
        partial(F.conv2d, plain, wplain, None, stride, 1),
        partial(F.conv2d, x, weight, None, stride, 1),
    )
    dense = min(nchw, nhwc, key=statistics.median)
    return compared(mine, dense, weight, packed)


def linear() -> Iterator[dict]:
    """csr_linear against the dense library, by turns."""
    for precision in PRECISIONS:
        dtype = use(precision)
        for line in LINES:
            shape = (line.out_features, line.in_features)
            weight = torch.randn(shape, device=DEVICE).to(dtype)
            bias = torch.randn(shape[0], device=DEVICE).to(dtype)
            for sparsity in SPARSITIES:
                packed = CSRWeight.pack(weight, torch.rand(shape, device=DEVICE) >= sparsity)
                for batch in (1, 9) if DRY else (1, 16, 128, 1024):
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
        partial(csr_linear, x, packed, bias, backend="triton"), partial(F.linear, x, weight, bias)
    )
    return compared(mine, theirs, weight, packed)


def compared(mine: list[float], theirs: list[float], weight: Tensor, packed: Any) -> dict:
    times = {"ours_ms": statistics.median(mine), "dense_ms": statistics.median(theirs)}
    return times | ratios(theirs, mine) | {"ideal": weight.numel() / max(1, packed.nnz)}


def replayed(call: Callable[[], object]) -> Callable[[], object]:
    """The call as a CUDA graph; in a dry run, the call."""
    call()
    if DRY:
        return call
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def graphs() -> Iterator[dict]:
    """Small batches as CUDA graphs on both sides, where launches would be all of the time."""
    for what, layer, x, weight in conv_problems((1,) if DRY else (1, 8)):
        for removed, run, packed in packed_convs(weight.contiguous(), some=True):
            row = partial(_replayed_row, layer.stride, x, weight, run, packed)
            yield guarded(what | {"removed": removed}, row)


@torch.inference_mode()
def _replayed_row(stride: int, x: Tensor, weight: Tensor, run: Callable, packed: Any) -> dict:
    mine = partial(run, x, packed, None, stride, 1, backend="triton")
    theirs = partial(F.conv2d, x, weight, None, stride, 1)
    times = rounds(replayed(mine), replayed(theirs))
    host = [queueing_ms(call, times=2 if DRY else 50) for call in (mine, theirs)]
    queueing = {"ours_queueing_ms": host[0], "dense_queueing_ms": host[1]}
    return compared(*times, weight, packed) | queueing


def tune() -> Iterator[dict]:
    """Configurations for periodic layers, as they are and sorted, and the backends, dense too."""
    layers = [layer for layer in CONVS if DRY or layer.channels >= 128]
    for what, layer, x, weight in conv_problems(BATCHES[:1], layers):
        for removed, run, packed in packed_convs(weight.contiguous(), some=True):
            if removed.startswith("PSD2_P8"):
                row = partial(_tuned_row, layer.stride, x, run, packed)
                yield guarded(what | {"removed": removed}, row)


def _tuned_row(stride: int, x: Tensor, run: Callable, packed: Any) -> dict:
    found = functional.tune(
        run, x, packed, None, stride, 1, milliseconds=milliseconds, candidates=CANDIDATES
    )
    return {f"{name}_ms": time for name, time in found.items()}


def profile() -> Iterator[dict]:
    """Each kernel once on a middle-sized layer, for a profiler to look at."""
    layer = CONVS[0] if DRY else Conv("resnet18", 256, 256, 14)
    for what, _, x, weight in conv_problems(BATCHES[:1], [layer]):
        for removed, run, packed in packed_convs(weight.contiguous(), some=True):
            run(x, packed, None, 1, 1, backend="triton")
            yield what | {"removed": removed}
