"""A race of one sparse convolution, as the three benchmarks of convolutions run it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.layers import Conv
from sparse_ops.ops._backend import Backend
from sparse_ops.ops._conv2d import Geometry

Call = Callable[..., Tensor]


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The images in either layout."""
    return {"contiguous": x, "channels_last": x.contiguous(memory_format=torch.channels_last)}


def packed_forms(
    run: Call, x: Tensor, weight: Any, bias: Tensor | None, layer: Conv, backend: str
) -> dict[str, Callable[[], Tensor]]:
    """form -> a call of a packed convolution, in either layout of its images."""
    # Patterns and channels know no groups.
    grouped = {"groups": layer.groups} if layer.groups > 1 else {}
    steps = layer.stride, layer.padding
    return {
        form: partial(run, given, weight, bias, *steps, backend=backend, **grouped)
        for form, given in layouts(x).items()
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
    place, generator = race.place, torch.Generator().manual_seed(0)
    padding = layer.padding
    x = place.put(torch.randn(batch, layer.channels, layer.size, layer.size, generator=generator))
    weight = place.put(torch.randn(mask.shape, generator=generator) * mask)
    bias = place.bias(layer.filters, generator)
    packed = kind.pack(weight, mask.to(weight.device))
    stride, around = (layer.stride, layer.stride), (padding, padding)
    # Some kernels are for one of the layouts.
    reasons, forms = [], packed_forms(run, x, packed, bias, layer, backend.name)
    for form, given in layouts(x).items():
        geometry = Geometry(stride, around, (1, 1), 1)
        if reason := backend.refuses(given, packed, bias, geometry, None, None):
            reasons.append(reason)
            del forms[form]
    if not forms:
        pytest.skip(reasons[-1])
    shift = None if bias is None else bias.double()
    exact = F.conv2d(x.double(), weight.double(), shift, layer.stride, padding)
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
        place.conv_forms(x, weight, bias, layer.stride, padding),
        forms,
        exact,
        int(dense_macs * packed.nnz / mask.numel()),
        place.itemsize * (x.numel() + exact.numel() + packed.nnz),
    )
