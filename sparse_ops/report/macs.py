"""Multiply-accumulates: how many a model does, and how many of them meet a kept weight."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparse_ops.convert.prepare import example_tuple, watch
from sparse_ops.masks import PRUNABLE
from sparse_ops.nn import SparseLayer


@dataclass(frozen=True)
class LayerMacs:
    """The multiply-accumulates of one layer for the example given.

    Attributes:
        dense: with every weight.
        kept: with those that are kept: the packed ones, or a dense layer's that are not zero.
        weights, nnz: how many weights there are, and how many are kept.
    """

    name: str
    kind: str
    dense: int
    kept: int
    weights: int
    nnz: int


def count_macs(model: nn.Module, example: Any) -> list[LayerMacs]:
    """Counts for every Conv2d, Linear and sparse layer that the model calls on the example.

    The model runs once, in the mode it is in.

    Raises:
        ValueError: the example holds no tensor, or an empty one.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, SparseLayer)
        or (isinstance(module, PRUNABLE) and isinstance(module.weight, Tensor))
    }
    counts = []
    for name, call in watch(model, layers, example_tuple(example)).items():
        shape, nnz = _weight(layers[name])
        weights = 1
        for size in shape:
            weights *= size
        positions = call.outputs // shape[0]
        kind = type(layers[name]).__name__
        counts.append(LayerMacs(name, kind, positions * weights, positions * nnz, weights, nnz))
    return counts


def _weight(layer: nn.Module) -> tuple[tuple[int, ...], int]:
    if isinstance(layer, SparseLayer):
        return layer.shape, layer.nnz
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return tuple(weight.shape), int(weight.count_nonzero())
