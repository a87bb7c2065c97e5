"""What programs mean, in PyTorch: any device and float dtype, differentiable; slow.

Orders and halos mean nothing here: every value is an ordinary tensor.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_ops.ops._activation import ACTIVATIONS, from_code, function_of
from sparse_ops.ops._interleave import interleave
from sparse_ops.ops._program_code import (
    BILINEAR,
    FUNCTIONS,
    FUSED_PRELU,
    MAX,
    OPERATORS,
    ROWS,
    Program,
    Step,
    from_bits,
)

_NAMES = {number: name for name, number in FUNCTIONS.items()}
# Of x and two parameters; the others are ACTIVATIONS.
_FUNCTIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "sigmoid": lambda x, p, q: torch.sigmoid(x),
    "hardsigmoid": lambda x, p, q: F.hardsigmoid(x),
    "tanh": lambda x, p, q: torch.tanh(x),
    "leaky_relu": lambda x, p, q: F.leaky_relu(x, p),
    "elu": lambda x, p, q: F.elu(x, p),
    "clamp": lambda x, p, q: torch.clamp(x, p, q),
    "mish": lambda x, p, q: F.mish(x),
    "softplus": lambda x, p, q: F.softplus(x, p, q),
    "abs": lambda x, p, q: x.abs(),
    "neg": lambda x, p, q: -x,
    "add": lambda x, p, q: x + p,
    "mul": lambda x, p, q: x * p,
    "square": lambda x, p, q: x.square(),
    "sqrt": lambda x, p, q: x.sqrt(),
    "exp": lambda x, p, q: x.exp(),
    "reciprocal": lambda x, p, q: x.reciprocal(),
}
_OPERATORS: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    OPERATORS["add"]: torch.add,
    OPERATORS["sub"]: torch.sub,
    OPERATORS["mul"]: torch.mul,
    OPERATORS["div"]: torch.div,
    OPERATORS["maximum"]: torch.maximum,
    OPERATORS["minimum"]: torch.minimum,
}


def run(program: Program, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a program."""
    values: dict[int, Tensor] = dict(enumerate(inputs))
    for step in program.steps:
        run_step(program, step, values)
    return [values[v] for v in program.outputs]


def run_step(program: Program, step: Step, values: dict[int, Tensor]) -> None:
    """Computes what a step writes, from `values`, into it."""
    inputs = [values[v] for v in step.inputs]
    constants = [
        None if c == -1 else _like(program.constants[c], inputs[0]) for c in step.constants
    ]
    values[step.out] = _STEPS[step.kind](step, inputs, constants)


def _like(constant: Tensor, x: Tensor) -> Tensor:
    """A constant on x's device, and, unless it is indices, of its dtype."""
    return constant.to(x) if constant.is_floating_point() else constant.to(x.device)


Constants = list[Tensor | None]


def rows_to_dense(constants: Constants, rows: int, columns: int, like: Tensor) -> Tensor:
    """(rows, columns) of the constants crow_indices, col_indices, values.

    Row r keeps the columns of class r mod (number of classes).
    """
    crow, col, values = constants[:3]
    if crow is None or col is None or values is None:
        return like.new_zeros(rows, columns)
    pointers, of_class = crow.long(), torch.arange(rows, device=like.device) % (crow.numel() - 1)
    lengths = pointers.diff()[of_class]
    row = torch.arange(rows, device=like.device).repeat_interleave(lengths)
    # From a value's place among all to its place in its class.
    shift = (pointers[of_class] - lengths.cumsum(0) + lengths).repeat_interleave(lengths)
    column = col.long()[torch.arange(row.numel(), device=like.device) + shift]
    # Those of removed channels come as (O', I', kH, kW).
    values = values.flatten()
    dense = values.new_zeros(rows * columns).index_add(0, row * columns + column, values)
    return dense.reshape(rows, columns)


def _weight(step: Step, constants: Constants, shape: tuple[int, ...], like: Tensor) -> Tensor:
    if step["form"] != ROWS:
        weight = constants[0]
        if weight is None:
            raise ValueError(f"a dense {step.kind} must have a weight ({step.name})")
        return weight
    columns = int(torch.Size(shape[1:]).numel())
    return rows_to_dense(constants, shape[0], columns, like).reshape(shape)


def _activated(step: Step, y: Tensor) -> Tensor:
    return function_of(from_code(step["activation"]))(y)


def _finished(step: Step, y: Tensor, inputs: list[Tensor], constants: Constants) -> Tensor:
    y = y + inputs[1] if step["residual"] else y
    if step["activation"] != FUSED_PRELU:
        return _activated(step, y)
    slope = constants[-1]
    if slope is None:
        raise ValueError(f"prelu must have slopes ({step.name})")
    return F.prelu(y, slope)


def _bias(step: Step, constants: Constants) -> Tensor | None:
    return constants[3 if step["form"] == ROWS else 1]


def _conv(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    kernel, stride, padding, dilation = (
        (step[f"{name}_h"], step[f"{name}_w"])
        for name in ("kernel", "stride", "padding", "dilation")
    )
    shape = (step["out_channels"], step["in_channels"] // step["groups"], *kernel)
    weight = _weight(step, constants, shape, inputs[0])
    y = F.conv2d(
        inputs[0], weight, _bias(step, constants), stride, padding, dilation, step["groups"]
    )
    return _finished(step, y, inputs, constants)


def _linear(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    weight = _weight(step, constants, (step["out_features"], step["in_features"]), inputs[0])
    y = F.linear(inputs[0], weight, _bias(step, constants))
    return _finished(step, y, inputs, constants)


def _pool(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    kernel, stride, padding = (
        (step[f"{name}_h"], step[f"{name}_w"]) for name in ("kernel", "stride", "padding")
    )
    ceil = bool(step["ceil_mode"])
    if step["mode"] == MAX:
        return F.max_pool2d(inputs[0], kernel, stride, padding, ceil_mode=ceil)
    count = bool(step["count_include_pad"])
    return F.avg_pool2d(inputs[0], kernel, stride, padding, ceil, count)


def _adaptive_pool(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    size = (step["height"], step["width"])
    if step["mode"] == MAX:
        return F.adaptive_max_pool2d(inputs[0], size)
    return F.adaptive_avg_pool2d(inputs[0], size)


def _unary(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    name = _NAMES[step["function"]]
    if name in ACTIVATIONS:
        return ACTIVATIONS[name](inputs[0])
    parameters = from_bits(step["parameter"]), from_bits(step["parameter2"])
    return _FUNCTIONS[name](inputs[0], *parameters)


def _binary(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    x, other = inputs
    if other.dim() < x.dim():
        other = other[:, :, None, None]
    return _activated(step, _OPERATORS[step["operator"]](x, other))


def _upsample(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    scale = (float(step["scale_h"]), float(step["scale_w"]))
    if step["mode"] == BILINEAR:
        align = bool(step["align_corners"])
        return F.interpolate(inputs[0], scale_factor=scale, mode="bilinear", align_corners=align)
    return F.interpolate(inputs[0], scale_factor=scale, mode="nearest")


def _softmax(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    return F.log_softmax(inputs[0], 1) if step["log"] else F.softmax(inputs[0], 1)


def _affine(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    x, (scale, shift) = inputs[0], constants
    if scale is None or shift is None:
        raise ValueError(f"affine must have a scale and a shift ({step.name})")
    shape = (1, -1, *[1] * (x.dim() - 2))
    return _activated(step, x * scale.view(shape) + shift.view(shape))


def _prelu(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    (slopes,) = constants
    if slopes is None:
        raise ValueError(f"prelu must have slopes ({step.name})")
    return F.prelu(inputs[0], slopes)


def _slice(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    return inputs[0][:, step["first"] : step["first"] + step["count"]]


def _shuffle(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    return F.channel_shuffle(inputs[0], step["groups"])


def _interleave(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    y = interleave(inputs[0], (step["stride_h"], step["stride_w"]))
    return y[:, :, : y.shape[2] - step["cut_h"], : y.shape[3] - step["cut_w"]]


def _pad(step: Step, inputs: list[Tensor], constants: Constants) -> Tensor:
    sides = (step["left"], step["right"], step["top"], step["bottom"])
    return F.pad(inputs[0], sides, value=from_bits(step["value"]))


_STEPS: dict[str, Callable[[Step, list[Tensor], Constants], Tensor]] = {
    "convert": lambda step, inputs, constants: inputs[0],
    "conv": _conv,
    "linear": _linear,
    "pool": _pool,
    "adaptive_pool": _adaptive_pool,
    "unary": _unary,
    "binary": _binary,
    "concat": lambda step, inputs, constants: torch.cat(inputs, 1),
    "flatten": lambda step, inputs, constants: inputs[0].flatten(1),
    "upsample": _upsample,
    "softmax": _softmax,
    "affine": _affine,
    "slice": _slice,
    "shuffle": _shuffle,
    "interleave": _interleave,
    "pad": _pad,
    "prelu": _prelu,
}
