"""Our kernels in gpu_run.py: that they are right, and how long they take."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.layers import Conv
from sparse_ops import patterns
from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.functional import csr_conv2d, csr_linear, periodic_conv2d

# The most that a result may be off, of the largest output: 4 units of its own type's rounding.
OFF = {torch.float32: 2e-3, torch.float16: 4 * 2.0**-11, torch.bfloat16: 4 * 2.0**-8}


def off(y: Tensor, exact: Tensor) -> float:
    """The largest error, of the largest exact output."""
    return float((y.double() - exact).abs().max() / exact.abs().max())


def check_all() -> list[dict]:
    """Every kernel once in each type; AssertionError if one is wrong."""
    rows = []
    for dtype, limit in OFF.items():
        x = torch.randn(2, 64, 13, 11, device="cuda").to(dtype)
        shape = (136, 64, 3, 3)
        weight = torch.randn(shape, device="cuda").to(dtype)
        bias = torch.randn(shape[0], device="cuda").to(dtype)
        random = torch.rand(shape, device="cuda") > 0.9
        matrix = weight[:, :, 0, 0].contiguous()
        line = torch.rand(matrix.shape, device="cuda") > 0.8
        rows_of_x = torch.randn(33, 64, device="cuda").to(dtype)
        periodic = PeriodicWeight.pack(weight, patterns.PSD2_P8.mask(shape).cuda())
        csr, linear = CSRWeight.pack(weight, random), CSRWeight.pack(matrix, line)
        for name, run, given, packed in (
            ("periodic_conv2d", periodic_conv2d, x, periodic),
            ("csr_conv2d", csr_conv2d, x, csr),
            ("csr_linear", csr_linear, rows_of_x, linear),
        ):
            dense = packed.to_dense().double()
            if name == "csr_linear":
                exact = F.linear(given.double(), dense, bias.double())
            else:
                exact = F.conv2d(given.double(), dense, bias.double())
            error = off(run(given, packed, bias, backend="triton"), exact)
            assert error < limit, f"{name} in {dtype} is off by {error:.2g}"
            rows.append({"operator": name, "dtype": str(dtype), "off": error})
    return rows


def race(
    milliseconds: Callable[..., list[float]],
    batch: int,
    precision: str,
    layer: Conv,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> list[dict]:
    """One row a pattern: our kernel and cuDNN in both layouts, by turns."""
    rows = []
    last, wlast = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    for name in ("PSD4_P8", "PSD2_P8", "PSD1_P8"):
        mask = patterns.NAMED[name].mask(tuple(weight.shape)).cuda()
        packed = PeriodicWeight.pack(weight, mask, patterns.NAMED[name])
        with torch.inference_mode():
            y = periodic_conv2d(x, packed, bias, layer.stride, 1, backend="triton")
            exact = F.conv2d(x.double(), packed.to_dense().double(), bias.double(), layer.stride, 1)
            error = off(y, exact)
            assert error < OFF[x.dtype], f"{layer.label} {name}: off by {error:.2g}"
            ours, nchw, nhwc = milliseconds(
                lambda p=packed: periodic_conv2d(x, p, bias, layer.stride, 1, backend="triton"),
                lambda: F.conv2d(x, weight, bias, layer.stride, 1),
                lambda: F.conv2d(last, wlast, bias, layer.stride, 1),
            )
        rows.append(
            {
                "network": layer.network,
                "layer": layer.label,
                "precision": precision,
                "pattern": name,
                "batch": batch,
                "ours_ms": ours,
                "dense_ms": min(nchw, nhwc),
                "speedup": min(nchw, nhwc) / ours,
                "ideal": mask.numel() / packed.nnz,
            }
        )
    return rows
