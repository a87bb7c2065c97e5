"""Convolutions and linear layers as steps of programs, and what is expected of them in float64."""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_ops.ops import _native
from sparse_ops.ops._activation import code_of, function_of
from sparse_ops.ops._program_code import FUSED_PRELU
from sparse_ops.ops.program import run
from sparse_ops.program import program as P
from tests.rounding import assert_within_rounding

ISAS = [isa for isa in _native.ISAS if _native.REFUSES[isa] is None]
NUMBERS = itertools.count(7_000_000)
# The most by which the slope of an activation exceeds that of the identity.
SLOPES = {"silu": 1.1, "hardswish": 1.5, "gelu": 1.13, "gelu_tanh": 1.13}


@pytest.fixture(params=ISAS)
def isa(request):
    return request.param


@dataclass
class Layer:
    """A layer as a step, its weight also dense.

    Attributes:
        weight: (O, I / groups, kH, kW) or (O, I), zeros where nothing is kept.
        constants: those of the step.
        form: P.ROWS or P.DENSE.
    """

    weight: Tensor
    bias: Tensor | None
    constants: list[Tensor | None]
    form: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: str | None = None
    kernel: str = "auto"

    @property
    def kind(self) -> str:
        return "conv" if self.weight.dim() == 4 else "linear"

    def attributes(self, residual: bool) -> tuple[int, ...]:
        code = code_of(self.activation)
        O, per_group = self.weight.shape[:2]
        if self.kind == "linear":
            return (self.form, O, per_group, code, int(residual))
        sizes = (*self.weight.shape[2:], *self.stride, *self.padding, *self.dilation)
        last = (code, int(residual), P.KERNELS[self.kernel])
        return (self.form, O, per_group * self.groups, *sizes, self.groups, *last)

    def sums(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.kind == "linear":
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


def dense(weight: Tensor, bias: Tensor | None = None, **how) -> Layer:
    return Layer(weight, bias, [weight, bias], P.DENSE, **how)


def rows(weight: Tensor, mask: Tensor, bias: Tensor | None = None, **how) -> Layer:
    """A layer of a mask (classes, ...) for filters by turns; none, if nothing is kept at all."""
    mask = mask.reshape(mask.shape[0], -1)
    flat = weight.reshape(weight.shape[0], -1)
    whole = mask.repeat(-(-len(flat) // len(mask)), 1)[: len(flat)]
    crow = torch.cat([torch.zeros(1), mask.sum(1).cumsum(0)]).int()
    constants = [crow, mask.nonzero()[:, 1].int(), flat[whole], bias]
    if not whole.any():
        constants = [None, None, None, bias]
    return Layer((flat * whole).reshape(weight.shape), bias, constants, P.ROWS, **how)


def program(layer: Layer, order_in, order_out, halos=(0, 0, 0), residual=False, piece=0):
    """In `order_in` with the first halo, out `order_out` with the second, the residual's the third.

    Returns:
        The program; its outputs are what comes out, in PLANAR order.
    """
    plain = P.Value()
    values, steps = [plain] * (1 + residual), []
    wanted = [(order_in, halos[0]), (order_out, halos[2])][: 1 + residual]
    given = []
    for i, (order, halo) in enumerate(wanted):
        if order == P.PLANAR:
            given.append(i)
            continue
        values.append(P.Value(order, halo))
        steps.append(P.Step("convert", len(values) - 1, (i,)))
        given.append(len(values) - 1)
    constants = [each for each in layer.constants if each is not None]
    places = iter(range(len(constants)))
    numbers = tuple(-1 if each is None else next(places) for each in layer.constants)
    values.append(P.Value(order_out, halos[1] if order_out != P.PLANAR else 0))
    out = len(values) - 1
    steps.append(P.Step(layer.kind, out, tuple(given), numbers, layer.attributes(residual)))
    if order_out != P.PLANAR:
        values.append(plain)
        steps.append(P.Step("convert", len(values) - 1, (out,)))
        out = len(values) - 1
    return P.Program(
        1 + residual, (out,), tuple(values), tuple(steps), tuple(constants), next(NUMBERS), piece
    )


def with_prelu(made: P.Program, slope: float) -> P.Program:
    """The program, its one layer followed by a PReLU of that slope."""
    number = len(made.constants)
    steps = []
    for step in made.steps:
        if step.kind in ("conv", "linear"):
            place = P.KINDS[step.kind].attributes.index("activation")
            attributes = list(step.attributes)
            attributes[place] = FUSED_PRELU
            step = replace(step, attributes=tuple(attributes), constants=(*step.constants, number))
        steps.append(step)
    constants = (*made.constants, torch.tensor([slope]))
    return replace(made, steps=tuple(steps), constants=constants, number=next(NUMBERS))


def result(made: P.Program, isa: str, *inputs: Tensor) -> Tensor:
    return run(inputs, made.encoded(), made.constants, backend=isa)[0]


def assert_right(layer: Layer, y: Tensor, x: Tensor, residual: Tensor | None = None) -> None:
    bias = layer.bias
    exact = layer.sums(
        x.double(), layer.weight.double(), bias.double() if bias is not None else None
    )
    size = layer.sums(
        x.double().abs(),
        layer.weight.double().abs(),
        bias.double().abs() if bias is not None else None,
    )
    if residual is not None:
        exact, size = exact + residual.double(), size + residual.double().abs()
    if layer.activation is not None:
        exact = function_of(layer.activation)(exact)
    terms = layer.weight[0].numel() + 2
    assert_within_rounding(y, exact, size, terms, SLOPES.get(layer.activation or "", 1.0))
