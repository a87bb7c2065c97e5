"""Programs for tests: put together step by step, and checked step by step."""

import torch
from torch import Tensor

from sparse_ops.ops import _program_reference as reference
from sparse_ops.ops._program_shapes import infer
from sparse_ops.ops.program import run
from sparse_ops.program.program import (
    FUNCTIONS,
    KINDS,
    OPERATORS,
    PLANAR,
    Program,
    Step,
    Value,
)
from tests.rounding import assert_within_rounding


class Builder:
    """A program that grows; values are numbers, their shapes are known."""

    def __init__(self, *shapes):
        self.inputs = len(shapes)
        self.shapes = [tuple(shape) for shape in shapes]
        self.values = [Value() for _ in shapes]
        self.steps, self.constants = [], []

    def constant(self, tensor):
        """The number of a constant; -1 for None."""
        if tensor is None:
            return -1
        self.constants.append(tensor)
        return len(self.constants) - 1

    def add(self, kind, inputs, attributes=None, constants=(), order=None, halo=0):
        """Appends a step, by default in the order of its first input; gives what it writes."""
        order = self.values[inputs[0]].order if order is None else order
        names = KINDS[kind].attributes
        numbers = tuple((attributes or {}).get(name, 0) for name in names)
        assert set(attributes or {}) <= set(names)
        kept = tuple(self.constant(each) for each in constants)
        step = Step(
            kind, len(self.values), tuple(inputs), kept, numbers, f"{kind} {len(self.steps)}"
        )
        self.shapes.append(infer(step, [self.shapes[v] for v in inputs]))
        self.values.append(Value(order, halo))
        self.steps.append(step)
        return step.out

    def convert(self, v, order, halo=0):
        return self.add("convert", [v], order=order, halo=halo)

    def conv(
        self, v, weight, bias=None, residual=None, *, order=None, halo=0, columns=None, **more
    ):
        """A convolution; `columns` (classes, O / classes kept) makes it of form ROWS."""
        O, per_group, kH, kW = weight.shape
        groups = self.shapes[v][1] // per_group
        attributes = {
            "form": 1, "out_channels": O, "in_channels": per_group * groups, "kernel_h": kH,
            "kernel_w": kW, "stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1,
            "groups": groups, "residual": int(residual is not None), **more,
        }  # fmt: skip
        constants = [weight, bias]
        if columns is not None:
            attributes["form"] = 0
            constants = [*rows_of(weight, columns), bias]
        inputs = [v] if residual is None else [v, residual]
        return self.add("conv", inputs, attributes, constants, order, halo)

    def linear(self, v, weight, bias=None, residual=None, *, columns=None, activation=0):
        O, I = weight.shape
        attributes = {"form": 1, "out_features": O, "in_features": I, "activation": activation}
        attributes["residual"] = int(residual is not None)
        constants = [weight, bias]
        if columns is not None:
            attributes["form"] = 0
            constants = [*rows_of(weight, columns), bias]
        inputs = [v] if residual is None else [v, residual]
        return self.add("linear", inputs, attributes, constants, PLANAR)

    def part(self, v, whole, first):
        """Makes a value a part of a concatenation."""
        self.values[v] = self.values[v]._replace(whole=whole, first=first)

    def program(self, *outputs, number=1, piece=0):
        return Program(
            self.inputs, tuple(outputs), tuple(self.values), tuple(self.steps),
            tuple(self.constants), number, piece,
        )  # fmt: skip


def rows_of(weight, columns):
    """(crow_indices, col_indices, values); filter o keeps the columns [o mod classes]."""
    flat = weight.flatten(1)
    counts = torch.tensor([0] + [each.numel() for each in columns])
    values = [row[columns[o % len(columns)]] for o, row in enumerate(flat)]
    return counts.cumsum(0).int(), torch.cat(columns).int(), torch.cat(values)


def some_columns(count, classes, keep=0.4):
    """For each class which columns it keeps, in rising order; maybe none."""
    return [(torch.rand(count) < keep).nonzero()[:, 0] for _ in range(classes)]


def with_all_values(program):
    """The same, with all values given out, planar ones as they are."""
    values, steps, outputs = list(program.values), list(program.steps), []
    for v, value in enumerate(program.values):
        if value.order == PLANAR:
            outputs.append(v)
            continue
        outputs.append(len(values))
        steps.append(Step("convert", len(values), (v,)))
        values.append(Value())
    return Program(
        program.inputs, tuple(outputs), tuple(values), tuple(steps), program.constants,
        program.number + 1, program.piece,
    )  # fmt: skip


def run_on(program: Program, inputs, backend) -> list[Tensor]:
    return run(inputs, program.encoded(), program.constants, backend)


# What is computed without rounding, or rounded once as torch does.
_EXACT = {"convert", "concat", "flatten", "slice", "shuffle", "interleave", "pad"}
_EXACT_FUNCTIONS = {
    FUNCTIONS[name] for name in ("relu", "relu6", "abs", "neg", "add", "mul", "clamp")
}
# How much an activation may magnify an error: hardswish, at 3.
_STEEPEST = 1.5


def assert_steps_right(program: Program, inputs, backend) -> list[Tensor]:
    """Every step gives what it must of what the steps before it gave; the outputs are returned."""
    outputs = run_on(program, inputs, backend)
    values = run_on(with_all_values(program), inputs, backend)
    for v, output in zip(program.outputs, outputs, strict=True):
        assert torch.equal(values[v], output), "liveness must not change results"
    for step in program.steps:
        try:
            _check(program, step, [values[v] for v in step.inputs], values[step.out])
        except AssertionError as error:
            raise AssertionError(f"{step}: {error}") from error
    return outputs


def _result(program, step, inputs, change=lambda x: x):
    """What a step gives by the reference, its inputs and float constants changed."""
    constants = [change(c) if c.is_floating_point() else c for c in program.constants]
    values = dict(zip(step.inputs, map(change, inputs), strict=True))
    changed = Program(
        program.inputs, program.outputs, program.values, program.steps, tuple(constants), 0
    )
    reference.run_step(changed, step, values)
    return values[step.out]


def _check(program, step, inputs, actual):
    if _is_exact(step):
        assert torch.equal(actual, _result(program, step, inputs))
        return
    exact = _result(program, step, inputs, Tensor.double)
    plain = step
    if "activation" in KINDS[step.kind].attributes:
        numbers = list(step.attributes)
        numbers[KINDS[step.kind].attributes.index("activation")] = 0
        if step.kind == "binary" and step["operator"] == OPERATORS["sub"]:
            numbers[0] = OPERATORS["add"]
        plain = Step(step.kind, step.out, step.inputs, step.constants, tuple(numbers))
    if step.kind in ("unary", "softmax"):
        # Exponentials are off by what their arguments, which differences are, are off by.
        most = inputs[0].abs().max().double()
        magnitude = exact.abs() + (0 if step.kind == "unary" else exact.abs() * most)
        if step.kind == "softmax" and step["log"]:
            magnitude = magnitude + most
    else:
        magnitude = _result(program, plain, inputs, lambda x: x.double().abs()).abs()
    assert_within_rounding(actual, exact, magnitude, _terms(step, inputs), _STEEPEST)


def _is_exact(step):
    return (
        step.kind in _EXACT
        or (step.kind in ("pool", "adaptive_pool", "upsample") and step["mode"] == 0)
        or (step.kind == "unary" and step["function"] in _EXACT_FUNCTIONS)
    )


def _terms(step, inputs):
    """The most numbers that are added up in one, and some for roundings beside them."""
    if step.kind == "conv":
        return step["in_channels"] // step["groups"] * step["kernel_h"] * step["kernel_w"] + 3
    if step.kind == "linear":
        return step["in_features"] + 3
    if step.kind == "pool":
        return step["kernel_h"] * step["kernel_w"] + 3
    if step.kind == "softmax":
        return inputs[0].shape[1] + 12
    if step.kind == "unary":
        return 8
    if step.kind == "adaptive_pool":
        return inputs[0].shape[2] * inputs[0].shape[3] + 3
    if step.kind == "upsample":
        # Where a pixel stands is rounded, too.
        return 12 * max(inputs[0].shape[2:])
    return 4
