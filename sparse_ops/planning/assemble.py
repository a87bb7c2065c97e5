"""Assembling: the fast model, from a masked dense one and what each of its layers becomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparse_ops.nn import SparseLayer
from sparse_ops.nn._folded import ACTIVATION, Folded
from sparse_ops.planning.candidates import LAYERS
from sparse_ops.planning.fold import Folding
from sparse_ops.planning.masked import MARK, replaced
from sparse_ops.planning.measure import Comparison


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one layer, and why.

    Attributes:
        name: in `model.named_modules()`.
        kind: "Conv2d", "Conv1d", "ConvTranspose2d" or "Linear".
        shape: of the dense weight.
        nnz: how many weights are kept.
        macs: dense multiply-accumulates for the example; of them nnz / weights are kept.
        becomes: the class of the packed layer, or None if it stays dense.
        backend: the backend of the packed layer.
        activation: what the packed layer applies to its output beside.
        measured: the packed layer, or the best candidate for it, against the dense one; None if
            there was nothing to measure.
        reason: why, in words.
        left: the weight's shape without the channels that were removed; None if none was.
        constant: whether no weight is left, so that its bias took the layer's place.
        dead_kept: how many outputs are always the same number and yet had to stay.
        dead_why: why they had to, in words.
        zeros: the regularity of its zeros, in words.
        floor_ms: the least time that the machine could take for one call with the kept weights, as
            `roofline` has it; None if that was not measured.
        bytes: that its calls have to move at least: what it is given and gives, and the kept
            weights; None likewise.
        refused: the candidates that cannot be, each with the reason: "PeriodicConv2d: its mask is
            not periodic".
        slower: the candidates that can, and were slower than the one that is measured.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    nnz: int
    macs: int
    becomes: str | None
    backend: str | None
    activation: str | None
    measured: Comparison | None
    reason: str
    left: tuple[int, ...] | None = None
    constant: bool = False
    dead_kept: int = 0
    dead_why: str = ""
    zeros: str = ""
    floor_ms: float | None = None
    refused: tuple[str, ...] = ()
    slower: tuple[str, ...] = ()
    bytes: int | None = None

    @property
    def weights(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def sparsity(self) -> float:
        return 1 - self.nnz / self.weights

    @property
    def kept_macs(self) -> int:
        return round(self.macs * self.nnz / self.weights)

    @property
    def dense_ms(self) -> float | None:
        return None if self.measured is None else self.measured.dense_ms

    @property
    def packed_ms(self) -> float | None:
        return None if self.measured is None else self.measured.packed_ms

    @property
    def floor_reached(self) -> float | None:
        """The floor as a fraction of the time that the layer takes as what it becomes."""
        if self.floor_ms is None or self.measured is None:
            return None
        taken = self.measured.packed_ms if self.becomes else self.measured.dense_ms
        return self.floor_ms / taken

    @property
    def speedup(self) -> float | None:
        return None if self.measured is None else self.measured.speedup


def weight_name(layer: str) -> str:
    """The name of a layer's weight, which is that of its mask."""
    return f"{layer}.weight" if layer else "weight"


def packed_layer(dense: nn.Module, mask: Tensor, layer: LayerPlan) -> SparseLayer:
    """What `layer` says that `dense`, masked, becomes; in its mode, trainable where it is."""
    kinds = {entry.layer.__name__: entry.layer for entry in LAYERS}
    packed: SparseLayer = kinds[str(layer.becomes)].from_dense(
        dense, mask, activation=layer.activation, backend=layer.backend
    )
    packed.train(dense.training)
    if hasattr(dense, MARK):
        setattr(packed, MARK, getattr(dense, MARK))
    packed.values.requires_grad_(dense.get_parameter("weight").requires_grad)
    if packed.bias is not None:
        packed.bias.requires_grad_(dense.get_parameter("bias").requires_grad)
    return packed


def assemble_(
    model: nn.Module, masks: Mapping[str, Tensor], layers: Sequence[LayerPlan], folding: Folding
) -> nn.Module:
    """Exchanges the layers of a masked model for their packed ones, in place; returns the model."""
    for layer in layers:
        if layer.becomes is None:
            continue
        dense = model.get_submodule(layer.name)
        mask = masks.get(weight_name(layer.name))
        if mask is None:
            mask = torch.ones_like(dense.get_parameter("weight"), dtype=torch.bool)
        model = replaced(model, layer.name, packed_layer(dense, mask, layer))
        if layer.activation is not None:
            place, _ = folding.activations[layer.name]
            model = replaced(model, place, Folded(layer.name, ACTIVATION))
    return model
