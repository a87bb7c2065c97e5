"""Checks of the sizes that steps of programs read and write; see `checks`."""

import math
from collections.abc import Callable, Sequence

from sparse_ops.ops._program_code import LANES, Program, Step

# What a step asks of the sizes of what it reads.
Shape = tuple[int, ...]
_SizeCheck = Callable[[Step, Sequence[Shape], Shape], None]


def check_sizes(program: Program, step: Step, inputs: Sequence[Shape], out: Shape) -> None:
    """Raises ValueError unless a step can read values of these sizes, and something comes out."""
    own = _SIZES.get(step.kind)
    if own is not None:
        own(step, inputs, out)
    if step.kind in ("affine", "prelu"):
        count = program.constants[step.constants[0]].numel()
        if step.kind == "affine" or count != 1:
            _same_size("channels", count, inputs[0][1])
    if step.kind == "binary" and inputs[1][2:] not in ((), (1, 1)):
        orders = [program.values[v].order for v in (step.inputs[1], step.out)]
        if orders[0] != orders[1]:
            raise ValueError("it must have inputs and output in one order")
    # With lanes that stand for nothing and the largest halo, as in csrc/program/memory.cpp.
    around = [0, LANES, 128, 128][: len(out)]
    floats = math.prod(size + more for size, more in zip(out, around, strict=True))
    if min(out) < 1 or floats + LANES * floats // out[0] > 2**46:
        raise ValueError(f"it would write {out}, which is nothing or too much")


def _same_size(name: str, wanted: int, got: int) -> None:
    if wanted != got:
        raise ValueError(f"it must read {wanted} {name}, got {got}")


def _conv_sizes(step: Step, inputs: Sequence[Shape], out: Shape) -> None:
    _same_size("channels", step["in_channels"], inputs[0][1])
    _check_residual(step, inputs, out)


def _linear_sizes(step: Step, inputs: Sequence[Shape], out: Shape) -> None:
    _same_size("features", step["in_features"], inputs[0][1])
    _check_residual(step, inputs, out)


def _check_residual(step: Step, inputs: Sequence[Shape], out: Shape) -> None:
    if step["residual"] and inputs[1] != out:
        raise ValueError(f"the residual must be {out}, got {inputs[1]}")


def _binary_sizes(step: Step, inputs: Sequence[Shape], out: Shape) -> None:
    x, other = inputs
    gate = other[1] == x[1] and other[0] in (1, x[0]) and other[2:] in ((), (1, 1))
    if x != other and not (gate and len(other) <= len(x)):
        raise ValueError(f"the second input must be {x}, or a number a plane, got {other}")


def _concat_sizes(step: Step, inputs: Sequence[Shape], out: Shape) -> None:
    for other in inputs:
        if (other[:1], other[2:]) != (out[:1], out[2:]):
            raise ValueError(f"parts must differ in channels only, got {inputs[0]} and {other}")


def _pad_sizes(step: Step, inputs: Sequence[Shape], out: Shape) -> None:
    for side, size in zip(("left", "right", "top", "bottom"), [3, 3, 2, 2], strict=True):
        if -step[side] >= inputs[0][size]:
            raise ValueError(f"{side} cuts off {-step[side]} of {inputs[0]}")


def _slice_sizes(step: Step, inputs: Sequence[Shape], out: Shape) -> None:
    if step["first"] + step["count"] > inputs[0][1]:
        raise ValueError(
            f"channels {step['first']} to {step['first'] + step['count']} are not in {inputs[0]}"
        )


def _shuffle_sizes(step: Step, inputs: Sequence[Shape], out: Shape) -> None:
    if inputs[0][1] % step["groups"]:
        raise ValueError(f"groups must divide {inputs[0][1]} channels, got {step['groups']}")


def _interleave_sizes(step: Step, inputs: Sequence[Shape], out: Shape) -> None:
    phases = step["stride_h"] * step["stride_w"]
    if inputs[0][1] % phases:
        raise ValueError(f"{phases} phases must divide {inputs[0][1]} channels")


_SIZES: dict[str, _SizeCheck] = {
    "conv": _conv_sizes,
    "linear": _linear_sizes,
    "binary": _binary_sizes,
    "concat": _concat_sizes,
    "pad": _pad_sizes,
    "slice": _slice_sizes,
    "shuffle": _shuffle_sizes,
    "interleave": _interleave_sizes,
}
