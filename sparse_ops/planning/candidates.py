"""Candidates: which sparse layers, on which backends, may take a dense layer's place.

Every layer and every backend is asked whether it refuses; their words are kept for the plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from sparse_ops.nn import (
    ChannelPrunedConv1d,
    ChannelPrunedConv2d,
    CSRConv1d,
    CSRConv2d,
    CSRConvTranspose2d,
    CSRLinear,
    PeriodicConv1d,
    PeriodicConv2d,
    SparseLayer,
)
from sparse_ops.nn._conv import SparseConv2d
from sparse_ops.nn._height_one import HeightOne
from sparse_ops.ops import channel_pruned_conv2d, csr_conv2d, csr_linear, periodic_conv2d
from sparse_ops.ops._backend import Backend
from sparse_ops.ops._conv2d import Geometry
from sparse_ops.ops._shapes import pair
from sparse_ops.planning.copies import sharing_copy


class Entry(NamedTuple):
    """A sparse layer, the name of its format, and the backends of its operator."""

    layer: Any
    format: str
    backends: Sequence[Backend]


# The more regular the earlier; of equally fast ones the earlier wins. To add a layer, add a line.
LAYERS = (
    Entry(PeriodicConv2d, "periodic", periodic_conv2d.BACKENDS),
    Entry(ChannelPrunedConv2d, "channel_pruned", channel_pruned_conv2d.BACKENDS),
    Entry(CSRConv2d, "csr", csr_conv2d.BACKENDS),
    Entry(CSRLinear, "csr", csr_linear.BACKENDS),
    Entry(PeriodicConv1d, "periodic", periodic_conv2d.BACKENDS),
    Entry(ChannelPrunedConv1d, "channel_pruned", channel_pruned_conv2d.BACKENDS),
    Entry(CSRConv1d, "csr", csr_conv2d.BACKENDS),
    Entry(CSRConvTranspose2d, "csr", csr_conv2d.BACKENDS),
)

# It unpacks to a dense weight at every call: the definition, never the faster one.
REFERENCE = "reference"
# The same kernels as for the instruction sets, for machines that have none of those.
PORTABLE = "scalar"
# The dense library on a GPU: what a layer that stays dense has without us.
DENSE = "dense"


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to run a masked layer.

    Attributes:
        kind: the class of the sparse layer.
        backend: the name of the backend.
        layer: the sparse layer, on that backend.
    """

    kind: str
    backend: str
    layer: SparseLayer


def entry_of(layer: SparseLayer) -> Entry:
    """The line of `LAYERS` for this layer.

    Raises:
        ValueError: there is none.
    """
    for entry in LAYERS:
        if type(layer) is entry.layer:
            return entry
    raise ValueError(f"{type(layer).__name__} is not one of convert.LAYERS")


def operator_arguments(layer: SparseLayer, x: Tensor) -> tuple[Any, ...]:
    """What the layer's operator hands to its backends when the layer is called with x."""
    if isinstance(layer, SparseConv2d):
        x = x.unsqueeze(-2) if isinstance(layer, HeightOne) else x
        stride, dilation = pair("stride", layer.stride, 1), pair("dilation", layer.dilation, 1)
        geometry = Geometry(stride, layer._inner, dilation, layer.groups)
        batched = x if x.dim() == 4 else x[None]
        return layer.padded(batched), layer.weight, layer.bias, geometry, layer.activation, None
    if isinstance(layer, CSRConvTranspose2d):
        geometry = Geometry((1, 1), layer.phases.padding, (1, 1), 1)
        batched, bias = x if x.dim() == 4 else x[None], layer.bias_of_rows()
        return batched, layer.weight, bias, geometry, layer.activation, None
    return x.reshape(-1, x.shape[-1]), layer.weight, layer.bias, layer.activation, None


def backend_refuses(layer: SparseLayer, backend: str, x: Tensor) -> str | None:
    """Why the backend of that name cannot run this layer on x, or None if it can."""
    for known in entry_of(layer).backends:
        if known.name == backend:
            return known.refuses(*operator_arguments(layer, x))
    return f"there is no backend {backend!r}"


def find(
    dense: nn.Module, mask: Tensor, x: Tensor, activation: str | None = None
) -> tuple[list[Candidate], list[str]]:
    """The candidates for a layer whose weight is masked already, and why the others are none.

    Args:
        dense: the masked convolution or Linear.
        mask: bool, of its weight's shape.
        x: an input of it.
        activation: what follows it, if the sparse layer is to apply that too.

    Returns:
        The candidates, in the order of `LAYERS`, and reasons, as "PeriodicConv2d: its mask ...".
    """
    found: list[Candidate] = []
    refused: dict[tuple[str, str], list[str]] = {}
    for entry in LAYERS:
        name = entry.layer.__name__
        if not isinstance(dense, entry.layer.DENSE):
            continue
        if (reason := entry.layer.refuses(dense, mask)) is not None:
            refused[name, reason] = []
            continue
        packed: SparseLayer | None = None
        for backend in entry.backends:
            if backend.name in (REFERENCE, DENSE):
                continue
            if backend.name == PORTABLE and any(candidate.kind == name for candidate in found):
                reason = "it is the same kernel without this machine's vector instructions"
                refused.setdefault((name, reason), []).append(backend.name)
                continue
            if packed is None:
                packed = entry.layer.from_dense(dense, mask, activation=activation)
                packed.train(dense.training)
            layer = sharing_copy(packed)
            assert isinstance(layer, SparseLayer)
            layer.backend = backend.name
            if (reason := backend.refuses(*operator_arguments(layer, x))) is None:
                found.append(Candidate(name, backend.name, layer))
            else:
                refused.setdefault((name, reason), []).append(backend.name)
    reasons = [
        f"{name} on {', '.join(backends)}: {reason}" if backends else f"{name}: {reason}"
        for (name, reason), backends in refused.items()
    ]
    return found, reasons
