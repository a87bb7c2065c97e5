"""Multiply-accumulates: how many a model does, and how many of them meet a kept weight."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparse_ops.masks import PRUNABLE
from sparse_ops.nn import CSRConvTranspose2d, SparseLayer
from sparse_ops.ops._program_code import ROWS, Step
from sparse_ops.ops._program_reference import rows_to_dense
from sparse_ops.ops._program_shapes import shapes
from sparse_ops.planning.masked import example_tuple, watch
from sparse_ops.program.checks import columns_of, rows_of
from sparse_ops.program.dense import DenseSteps
from sparse_ops.program.network import ProgramModel

COUNTED = (*PRUNABLE, nn.ConvTranspose2d)


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
    """Counts for every Conv2d, ConvTranspose2d, Linear and sparse layer that the model calls on the
    example.

    The model runs once, in the mode it is in.

    Raises:
        ValueError: the example holds no tensor, or an empty one.
    """
    if isinstance(model, ProgramModel | DenseSteps):
        return _of_program(model, example_tuple(example))
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, SparseLayer)
        or (isinstance(module, COUNTED) and isinstance(module.weight, Tensor))
    }
    counts = []
    for name, call in watch(model, layers, example_tuple(example)).items():
        shape, nnz = _weight(layers[name])
        weights = 1
        for size in shape:
            weights *= size
        layer = layers[name]
        positions = call.outputs // shape[0]
        if isinstance(layer, nn.ConvTranspose2d | CSRConvTranspose2d):
            # Each pixel that it is given meets each weight.
            positions = call.calls * call.x.numel() // layer.in_channels
        kind = type(layer).__name__
        counts.append(LayerMacs(name, kind, positions * weights, positions * nnz, weights, nnz))
    return counts


def _weight(layer: nn.Module) -> tuple[tuple[int, ...], int]:
    if isinstance(layer, SparseLayer):
        return layer.dense_shape, layer.nnz
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return tuple(weight.shape), int(weight.count_nonzero())


def packed_layers(model: nn.Module) -> int:
    """How many of a model's layers have packed weights."""
    if isinstance(model, ProgramModel):
        steps = model.network.parts[0].program.steps
        return sum(step.kind in ("conv", "linear") and step["form"] == ROWS for step in steps)
    return sum(isinstance(module, SparseLayer) for module in model.modules())


def _of_program(model: ProgramModel | DenseSteps, example: tuple[Any, ...]) -> list[LayerMacs]:
    if isinstance(model, ProgramModel):
        program, constants = model.network.parts[0].program, model.constants(0)
    else:
        program, constants = model.program, model.constants
    given = [tuple(example[i].shape) for i in model.network.inputs]
    sizes = shapes(program, given)
    phases = {
        step.inputs[0]: step["stride_h"] * step["stride_w"]
        for step in program.steps
        if step.kind == "interleave"
    }
    counts = []
    for step in program.steps:
        if step.kind not in ("conv", "linear"):
            continue
        rows, weights = rows_of(step), rows_of(step) * columns_of(step)
        if step.out in phases:
            held = [None if c == -1 else constants[c] for c in step.constants]
            weights = _weights_of_phases(step, held, phases[step.out])
        # Of packed weights, the values.
        values = step.constants[2 if step["form"] == ROWS else 0]
        nnz = 0 if values == -1 else int(constants[values].count_nonzero())
        positions = math.prod(sizes[step.out]) // rows
        counts.append(
            LayerMacs(step.name, step.kind, positions * weights, positions * nnz, weights, nnz)
        )
    return counts


def _weights_of_phases(step: Step, constants: Sequence[Tensor | None], phases: int) -> int:
    """The weights of a transposed convolution that runs as its phases.

    A program does not say where a phase has no tap: the kernels' places at which it has no weight
    at all are taken for such.
    """
    rows, places = rows_of(step), step["kernel_h"] * step["kernel_w"]
    weight = constants[0]
    if step["form"] == ROWS:
        like = next((c for c in constants if c is not None and c.is_floating_point()), None)
        if like is None:
            return 0
        weight = rows_to_dense(list(constants), rows, columns_of(step), like)
    assert weight is not None
    taps = (weight.reshape(phases, -1, places) != 0).any(1)
    return int(taps.sum()) * (rows // phases) * step["in_channels"]
