"""Our side of gpu_run.py: that the kernels are right, how long they take, and what tuning gives."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

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
    use,
)
from benchmarks.layers import Conv
from sparse_ops import functional, patterns
from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.functional import channel_pruned_conv2d, csr_conv2d, csr_linear, periodic_conv2d

SPARSITIES = (0.9, 0.95, 0.99)
# A small choice, for a short visit; `tuning.CANDIDATES` is the whole list.
CANDIDATES = {
    "merged": [(1,), (2,), (4,), (8,)],
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
    ],
}


def packed_convs(weight: Tensor, some: bool = False) -> Iterator[tuple[str, Callable, Any]]:
    """(what is removed, the operator, the packed weight); only one of each kind if `some`."""
    shape = tuple(weight.shape)
    for name in ("PSD2_P8",) if some else ("PSD2_P8", "PSD4_P16", "PSD1_P16", "PS2_P6"):
        pattern = patterns.NAMED[name]
        mask = pattern.mask(shape).to(weight.device)
        yield name, periodic_conv2d, PeriodicWeight.pack(weight, mask, pattern)
    for sparsity in SPARSITIES[:1] if some else SPARSITIES:
        mask = torch.rand(shape, device=weight.device) >= sparsity
        yield f"{sparsity:.0%} of weights", csr_conv2d, CSRWeight.pack(weight, mask)
    for part in (2,) if some else (2, 4):
        kept = (range(0, shape[0], part), range(0, shape[1], part))
        mask = patterns.Channels(*(tuple(k) for k in kept)).mask(shape).to(weight.device)
        packed = ChannelPrunedWeight.pack(weight, mask)
        yield f"all but 1/{part} of channels", channel_pruned_conv2d, packed


def checked(run: Callable, x: Tensor, packed: Any, bias: Tensor, *steps: int) -> float:
    """How far off it is; AssertionError if that is more than rounding."""
    y = run(x, packed, bias, *steps, backend="triton")
    dense, shift = packed.to_dense().double(), bias.double()
    if run is csr_linear:
        exact = F.linear(x.double(), dense, shift)
    else:
        exact = F.conv2d(x.double(), dense, shift, *steps)
    error = off(y, exact)
    assert error < OFF[x.dtype], f"{run.__name__} {tuple(x.shape)} in {x.dtype}: off by {error:.2g}"
    return error


def smoke() -> Iterator[dict]:
    """Every kernel once in each type, and its gradients, against float64."""
    for precision in PRECISIONS:
        dtype = use(precision)
        size, (filters, channels) = ((2, 3), (16, 8)) if DRY else ((13, 11), (136, 64))
        x = last(torch.randn(2, channels, *size, device=DEVICE).to(dtype))
        weight = torch.randn(filters, channels, 3, 3, device=DEVICE).to(dtype)
        bias = torch.randn(filters, device=DEVICE).to(dtype)
        for what, run, packed in packed_convs(weight, some=True):
            error = checked(run, x, packed, bias, 1, 1)
            values = packed.values.clone().requires_grad_()
            y = run(x, packed.with_values(values), None, 1, 1, backend="triton")
            found = torch.autograd.grad(y.float().square().mean(), values)[0]
            assert bool(found.isfinite().all()), f"the gradient of {run.__name__} is not finite"
            yield {"operator": run.__name__, "what": what, "precision": precision, "off": error}
        matrix = weight[:, :, 0, 0].contiguous()
        packed = CSRWeight.pack(matrix, torch.rand(matrix.shape, device=DEVICE) > 0.8)
        error = checked(csr_linear, x[:, :, 0, 0].contiguous(), packed, bias)
        yield {"operator": "csr_linear", "what": "80%", "precision": precision, "off": error}


def ours() -> Iterator[dict]:
    """All four operators against the dense library's faster layout, by turns."""
    for what, layer, x, weight, bias in conv_problems():
        plain, wplain = x.contiguous(), weight.contiguous()
        for removed, run, packed in packed_convs(weight.contiguous()):
            if not in_time():
                return
            with torch.inference_mode():
                checked(run, x[:2], packed, bias, layer.stride, 1)
                mine, nchw, nhwc = milliseconds(
                    partial(run, x, packed, bias, layer.stride, 1, backend="triton"),
                    partial(F.conv2d, plain, wplain, bias, layer.stride, 1),
                    partial(F.conv2d, x, weight, bias, layer.stride, 1),
                )
            yield what | {"removed": removed} | compared(mine, min(nchw, nhwc), weight, packed)


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
                    with torch.inference_mode():
                        checked(csr_linear, x, packed, bias)
                        mine, theirs = milliseconds(
                            partial(csr_linear, x, packed, bias, backend="triton"),
                            partial(F.linear, x, weight, bias),
                        )
                    what = {"layer": line.label, "precision": precision, "batch": batch}
                    removed = {"removed": f"{sparsity:.0%} of weights"}
                    yield what | removed | compared(mine, theirs, weight, packed)


def compared(mine: float, theirs: float, weight: Tensor, packed: Any) -> dict:
    return {
        "ours_ms": mine,
        "dense_ms": theirs,
        "speedup": theirs / mine,
        "ideal": weight.numel() / max(1, packed.nnz),
    }


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
    for what, layer, x, weight, bias in conv_problems((1,) if DRY else (1, 8)):
        for removed, run, packed in packed_convs(weight.contiguous(), some=True):
            with torch.inference_mode():
                mine, theirs = milliseconds(
                    replayed(partial(run, x, packed, bias, layer.stride, 1, backend="triton")),
                    replayed(partial(F.conv2d, x, weight, bias, layer.stride, 1)),
                )
            yield what | {"removed": removed} | compared(mine, theirs, weight, packed)


def tune() -> Iterator[dict]:
    """Configurations of periodic_conv2d, and its backends, dense included."""
    layers = [layer for layer in CONVS if DRY or layer.channels >= 128]
    for what, layer, x, weight, bias in conv_problems(BATCHES[:1], layers):
        pattern = patterns.PSD2_P8
        mask = pattern.mask(tuple(weight.shape)).to(weight.device)
        packed = PeriodicWeight.pack(weight.contiguous(), mask, pattern)
        found = functional.tune(
            periodic_conv2d,
            x,
            packed,
            bias,
            layer.stride,
            1,
            milliseconds=milliseconds,
            candidates=CANDIDATES,
        )
        yield what | {f"{name}_ms": time for name, time in found.items()}


def profile() -> Iterator[dict]:
    """Each kernel once on a middle-sized layer, for a profiler to look at."""
    layer = CONVS[0] if DRY else Conv("resnet18", 256, 256, 14)
    for what, _, x, weight, bias in conv_problems(BATCHES[:1], [layer]):
        for removed, run, packed in packed_convs(weight.contiguous(), some=True):
            run(x, packed, bias, 1, 1, backend="triton")
            yield what | {"removed": removed}
