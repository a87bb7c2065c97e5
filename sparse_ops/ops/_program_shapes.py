"""The sizes of a program's values, from those of its inputs.

torch.compile and torch.export ask for the sizes of outputs where the numbers of a program cannot be
read, and where a batch or an image may have any size. What they are given is `formulas`: for each
output its number of dimensions, and for each dimension, in postfix order, ended by DONE,

    CONSTANT value    INPUT number dimension    ADD    MULTIPLY    DIVIDE (rounding down)    LEAST
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparse_ops.ops._program_code import Program, Step

CONSTANT, INPUT, ADD, MULTIPLY, DIVIDE, LEAST, DONE = range(7)

# (N, C, H, W) or (N, C), of int, torch.SymInt or Formula.
Shape = tuple[Any, ...]


class Formula:
    """A number that follows from sizes of inputs: the value of `code`, and `more`."""

    def __init__(self, code: tuple[int, ...], more: int = 0):
        self.code = code
        self.more = more

    def whole(self) -> tuple[int, ...]:
        """The code of all."""
        return (*self.code, CONSTANT, self.more, ADD) if self.more else self.code

    def _with(self, other: "int | Formula", operation: int) -> "Formula":
        return Formula((*self.whole(), *code_of(other), operation))

    def __add__(self, other: "int | Formula") -> "Formula":
        if isinstance(other, int):
            return Formula(self.code, self.more + other)
        return self._with(other, ADD)

    __radd__ = __add__

    def __sub__(self, other: int) -> "Formula":
        return self + -other

    def __mul__(self, other: "int | Formula") -> "Formula":
        return self if other == 1 else self._with(other, MULTIPLY)

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> "Formula":
        return self if other == 1 else self._with(other, DIVIDE)


def code_of(number: int | Formula) -> tuple[int, ...]:
    return number.whole() if isinstance(number, Formula) else (CONSTANT, number)


def least(a: Any, b: Any) -> Any:
    if isinstance(a, Formula):
        return Formula((*a.whole(), *code_of(b), LEAST))
    return torch.sym_min(a, b)


def infer(step: Step, inputs: Sequence[Shape]) -> Shape:
    """The shape of what a step writes, from those of what it reads.

    Raises:
        ValueError: an input has not as many dimensions as it must.
    """
    x = inputs[0]
    wanted = 2 if step.kind in ("linear", "softmax") else 4 if step.kind in _IMAGES else len(x)
    if len(x) != wanted:
        raise ValueError(
            f"{step.kind} must read a value of {wanted} dimensions, got {len(x)} ({step.name})"
        )
    if step.kind == "linear":
        return (x[0], step["out_features"])
    if step.kind == "conv":
        return (x[0], step["out_channels"], *(_conv_size(step, x, axis) for axis in "hw"))
    if step.kind == "pool":
        return (*x[:2], *(_pool_size(step, x, axis) for axis in "hw"))
    if step.kind == "adaptive_pool":
        return (*x[:2], step["height"], step["width"])
    if step.kind == "concat":
        channels = x[1]
        for other in inputs[1:]:
            channels = channels + other[1]
        return (x[0], channels, *x[2:])
    if step.kind == "flatten":
        return (x[0], x[1] * x[2] * x[3] if len(x) == 4 else x[1])
    if step.kind == "upsample":
        return (*x[:2], x[2] * step["scale_h"], x[3] * step["scale_w"])
    if step.kind == "interleave":
        high, wide = step["stride_h"], step["stride_w"]
        height, width = x[2] * high - step["cut_h"], x[3] * wide - step["cut_w"]
        return (x[0], x[1] // (high * wide), height, width)
    if step.kind == "slice":
        return (x[0], step["count"], *x[2:])
    if step.kind == "pad":
        height, width = x[2] + step["top"] + step["bottom"], x[3] + step["left"] + step["right"]
        return (*x[:2], height, width)
    return x


# What needs images.
_IMAGES = ("conv", "pool", "adaptive_pool", "upsample", "pad", "interleave")


def _conv_size(step: Step, x: Shape, axis: str) -> Any:
    reach = step[f"dilation_{axis}"] * (step[f"kernel_{axis}"] - 1)
    room = x["hw".index(axis) + 2] + (2 * step[f"padding_{axis}"] - reach - 1)
    return room // step[f"stride_{axis}"] + 1


def _pool_size(step: Step, x: Shape, axis: str) -> Any:
    size, padding, stride = x["hw".index(axis) + 2], step[f"padding_{axis}"], step[f"stride_{axis}"]
    room = size + (2 * padding - step[f"kernel_{axis}"])
    if not step["ceil_mode"]:
        return room // stride + 1
    # The last window begins inside the image or in the padding before it.
    return least((room + (stride - 1)) // stride, (size + (padding - 1)) // stride) + 1


def shapes(program: Program, inputs: Sequence[Shape]) -> list[Shape]:
    """Those of all values, from those of the inputs."""
    found: dict[int, Shape] = dict(enumerate(inputs))
    for step in program.steps:
        found[step.out] = infer(step, [found[v] for v in step.inputs])
    return [found[v] for v in range(len(program.values))]


def formulas(program: Program, ranks: Sequence[int]) -> tuple[int, ...]:
    """The sizes of the outputs for inputs of any size that have these numbers of dimensions."""
    inputs = [tuple(Formula((INPUT, i, d)) for d in range(rank)) for i, rank in enumerate(ranks)]
    all_shapes = shapes(program, inputs)
    code: list[int] = []
    for v in program.outputs:
        code.append(len(all_shapes[v]))
        for size in all_shapes[v]:
            code += [*code_of(size), DONE]
    return tuple(code)


def evaluated(code: Sequence[int], inputs: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """What formulas say of the outputs' shapes; sizes of inputs may be torch.SymInt.

    Raises:
        ValueError: these are no formulas.
    """
    numbers = iter(code)
    found = []
    try:
        for rank in numbers:
            found.append([_evaluated(numbers, inputs) for _ in range(rank)])
    except (StopIteration, IndexError) as error:
        raise ValueError(f"these are no formulas of sizes: {list(code)}") from error
    return found


def _evaluated(numbers: Any, inputs: Sequence[Sequence[Any]]) -> Any:
    stack: list[Any] = []
    while (operation := next(numbers)) != DONE:
        if operation == CONSTANT:
            stack.append(next(numbers))
        elif operation == INPUT:
            stack.append(inputs[next(numbers)][next(numbers)])
        else:
            b, a = stack.pop(), stack.pop()
            if operation == ADD:
                stack.append(a + b)
            elif operation == MULTIPLY:
                stack.append(a * b)
            else:
                stack.append(a // b if operation == DIVIDE else torch.sym_min(a, b))
    return stack.pop()


def run_fake(
    inputs: list[Tensor], program: Tensor, constants: list[Tensor], shapes: Sequence[int] = ()
) -> list[Tensor]:
    """Outputs as `formulas` say; they are needed here, where a program's numbers cannot be read."""
    if not shapes:
        raise RuntimeError(
            "run_program needs `shapes`, the formulas of its outputs' sizes, where it is traced: "
            "see sparse_ops.ops.program.formulas"
        )
    sizes = evaluated(shapes, [x.shape for x in inputs])
    return [inputs[0].new_empty(size) for size in sizes]
