"""A race of one sparse convolution, as the three benchmarks of convolutions run it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.dense import conv2d_forms
from benchmarks.layers import Conv
from sparse_ops.ops._backend import Backend
from sparse_ops.ops._conv2d import Geometry

Call = Callable[..., Tensor]


def packed_forms(
    run: Call, x: Tensor, weight: Any, bias: Tensor, layer: Conv, backend: str
) -> dict[str, Callable[[], Tensor]]:
    """form -> a call of a packed convolution, in either layout of its images."""
    padding = layer.kernel // 2
    last = x.contiguous(memory_format=torch.channels_last)
    return {
        "contiguous": lambda: run(x, weight, bias, layer.stride, padding, backend=backend),
        "channels_last": lambda: run(last, weight, bias, layer.stride, padding, backend=backend),
    }


def race_conv(
    race,
    operator: str,
    backend: Backend,
    run,
    kind,
    layer: Conv,
    mask: Tensor,
    batch: int,
    what: str,
) -> None:
    """Packs a random weight with the mask and races the backend against the dense forms."""
    generator = torch.Generator().manual_seed(0)
    padding = layer.kernel // 2
    x = torch.randn(batch, layer.channels, layer.size, layer.size, generator=generator)
    weight = torch.randn(mask.shape, generator=generator) * mask
    bias = torch.randn(layer.filters, generator=generator)
    packed = kind.pack(weight, mask)
    stride, around = (layer.stride, layer.stride), (padding, padding)
    if reason := backend.refuses(x, packed, bias, Geometry(stride, around, (1, 1), 1), None):
        pytest.skip(reason)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), layer.stride, padding)
    dense_macs = layer.macs * batch
    row = {
        "operator": operator,
        "network": layer.network,
        "layer": layer.label,
        "what": what,
        "backend": backend.name,
        "batch": batch,
        "kept": packed.nnz / mask.numel(),
        "ideal": mask.numel() / max(1, packed.nnz),
    }
    race(
        row,
        conv2d_forms(x, weight, bias, layer.stride, padding),
        packed_forms(run, x, packed, bias, layer, backend.name),
        exact,
        int(dense_macs * packed.nnz / mask.numel()),
        4 * (x.numel() + exact.numel() + packed.nnz),
    )
