"""Checks of the steps of programs that may come from a stranger.

They ask what csrc/program/ asks again of whatever it runs, so that a damaged file is refused in
words where it is read, and on machines without compiled code as well.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparse_ops.formats._common import check_indices, check_pointers, check_vector
from sparse_ops.ops._activation import from_code
from sparse_ops.ops._program_code import (
    CHANNELS,
    DENSE,
    FUNCTIONS,
    FUSED_PRELU,
    IMAGES,
    KERNELS,
    LANES,
    OPERATORS,
    PLANAR,
    ROWS,
    Step,
    Value,
)

# Beyond them sizes could not be: csrc/program/conv.cpp.
MOST = 2**24
LARGEST_INT = 2**31 - 1
_FLAG = (0, 1)
_ORDERS = ("planar", "channels", "images")

# Attribute -> the least and the most that it may be; those of one name mean the same in all kinds.
_ATTRIBUTES = {
    "form": _FLAG,
    "out_channels": (1, MOST - 1),
    "in_channels": (1, MOST - 1),
    "groups": (1, MOST - 1),
    "residual": _FLAG,
    "kernel": (0, max(KERNELS.values())),
    "out_features": (1, LARGEST_INT - 1),
    "in_features": (1, LARGEST_INT - 1),
    "mode": _FLAG,
    "ceil_mode": _FLAG,
    "count_include_pad": _FLAG,
    "height": (1, MOST - 1),
    "width": (1, MOST - 1),
    "function": (1, max(FUNCTIONS.values())),
    "operator": (0, max(OPERATORS.values())),
    "cut_h": (0, MOST - 1),
    "cut_w": (0, MOST - 1),
    "scale_h": (1, MOST - 1),
    "scale_w": (1, MOST - 1),
    "align_corners": _FLAG,
    "log": _FLAG,
    "first": (0, LARGEST_INT),
    "count": (1, LARGEST_INT),
} | {
    f"{name}_{axis}": (int(name != "padding"), MOST - 1)
    for name in ("kernel", "stride", "padding", "dilation")
    for axis in "hw"
} | {side: (1 - MOST, MOST - 1) for side in ("left", "right", "top", "bottom")}  # fmt: skip


def check_attributes(step: Step, names: Sequence[str]) -> None:
    """Raises ValueError unless every number is one that it can be."""
    if len(step.attributes) != len(names):
        raise ValueError(f"it must have {len(names)} attributes, got {len(step.attributes)}")
    for name, number in zip(names, step.attributes, strict=True):
        # The others are bits of numbers.
        least, most = _ATTRIBUTES.get(name, (number, number))
        if not least <= number <= most:
            raise ValueError(f"{name} must be {least} to {most}, got {number}")
        fused = number == FUSED_PRELU and step.kind in ("conv", "linear")
        if name == "activation" and not fused:
            from_code(number)
    if step.kind == "conv":
        groups = step["groups"]
        if step["out_channels"] % groups or step["in_channels"] % groups:
            raise ValueError(f"groups must divide the channels, got {groups}")
        if step["kernel_h"] * step["kernel_w"] >= MOST or columns_of(step) > LARGEST_INT - 1:
            raise ValueError("a filter must have fewer than 2^31 weights")
    if step.kind == "interleave":
        for axis in "hw":
            if step[f"cut_{axis}"] >= step[f"stride_{axis}"]:
                raise ValueError("what is cut off must be less than the stride")
    if step.kind == "pool":
        for axis in "hw":
            if 2 * step[f"padding_{axis}"] > step[f"kernel_{axis}"]:
                raise ValueError("pooling must be padded by at most half of its kernel")


def columns_of(step: Step) -> int:
    """How many weights a filter, or an output feature, has."""
    if step.kind == "linear":
        return step["in_features"]
    return step["in_channels"] // step["groups"] * step["kernel_h"] * step["kernel_w"]


def rows_of(step: Step) -> int:
    return step["out_features"] if step.kind == "linear" else step["out_channels"]


def check_constants(step: Step, constants: Sequence[Tensor | None]) -> None:
    """Raises ValueError unless these are the weights of such a step."""
    wanted = 0
    if step.kind in ("conv", "linear"):
        wanted = 4 if step["form"] == ROWS else 2
        if step["activation"] == FUSED_PRELU:
            *constants, slope = constants or [None]
            _check_floats("slope", slope, (1,))
    elif step.kind in ("affine", "prelu"):
        wanted = 2 if step.kind == "affine" else 1
    if len(constants) != wanted:
        raise ValueError(f"it must have {wanted} constants, got {len(constants)}")
    if step.kind == "affine":
        for name, tensor in zip(("scale", "shift"), constants, strict=True):
            _check_floats(name, tensor, None)
        _check_floats("shift", constants[1], (_length(constants[0]),))
    if step.kind == "prelu":
        _check_floats("slopes", constants[0], None)
    if step.kind not in ("conv", "linear"):
        return
    rows, columns = rows_of(step), columns_of(step)
    if constants[-1] is not None:
        _check_floats("bias", constants[-1], (rows,))
    if step["form"] == DENSE:
        shape = (rows, columns)
        if step.kind == "conv":
            own = step["in_channels"] // step["groups"]
            shape = (rows, own, step["kernel_h"], step["kernel_w"])  # type: ignore[assignment]
        _check_floats("weight", constants[0], shape)
        return
    crow, col, values = constants[:3]
    if crow is None and col is None and values is None:
        return
    if crow is None or col is None or values is None:
        raise ValueError("its crow_indices, col_indices or values are left out")
    check_vector("crow_indices", crow)
    check_vector("col_indices", col)
    classes = crow.numel() - 1
    if (step.kind == "linear" and classes != rows) or not 1 <= classes <= rows:
        least = "" if step.kind == "linear" else "1 to "
        raise ValueError(f"crow_indices must be for {least}{rows} rows, got {classes}")
    check_pointers("crow_indices", crow, col.numel())
    check_indices("col_indices", col, columns)
    of_class = torch.arange(rows) % classes
    _check_floats("values", values.flatten(), (int(crow.long().diff()[of_class].sum()),))


def _length(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel()


def _check_floats(name: str, tensor: Tensor | None, shape: tuple[int, ...] | None) -> None:
    if tensor is None:
        raise ValueError(f"its {name} is left out")
    if tensor.dtype != torch.float32:
        raise ValueError(f"{name} must be float32, got {tensor.dtype}")
    if shape is None and tensor.dim() != 1:
        raise ValueError(f"{name} must be (C), got {tuple(tensor.shape)}")
    if shape is not None and tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")


def check_orders(step: Step, inputs: Sequence[Value], out: Value) -> None:
    """Raises ValueError unless kernels read and write values that lie so."""
    x = inputs[0]
    if step.kind == "convert":
        return
    if step.kind in ("linear", "softmax"):
        _one_order(step, [*inputs, out], PLANAR)
    elif step.kind == "flatten":
        _one_order(step, [out], PLANAR)
    elif step.kind == "conv":
        _check_conv(step, x, out)
        _one_order(step, inputs[1:], out.order)
    elif step.kind == "binary":
        _one_order(step, [x], out.order)
    elif step.kind == "interleave":
        _one_order(step, [x], out.order)
        if out.order == CHANNELS:
            raise ValueError("it must be planar, or have images innermost")
    else:
        _one_order(step, inputs, out.order)


def _one_order(step: Step, values: Sequence[Value], order: int) -> None:
    for value in values:
        if value.order != order:
            raise ValueError(
                f"it must read and write values in the order {_ORDERS[order]}, "
                f"got {_ORDERS[value.order]}"
            )


def _check_conv(step: Step, x: Value, out: Value) -> None:
    padding = max(step["padding_h"], step["padding_w"])
    if x.order != PLANAR and x.halo < padding:
        raise ValueError(f"x must have a halo of {padding} or more, got {x.halo}")
    if out.order == x.order == IMAGES and step["stride_w"] > 2:
        raise ValueError(f"in the order images, stride_w must be 1 or 2, got {step['stride_w']}")
    if out.order == x.order and x.order in (PLANAR, IMAGES):
        return
    if out.order != CHANNELS or x.order == IMAGES:
        raise ValueError(f"none leads from {_ORDERS[x.order]} to {_ORDERS[out.order]}")
    if step["form"] != DENSE:
        raise ValueError("to the order channels, weights must be dense")
    groups, filters = step["groups"], step["out_channels"]
    depthwise = x.order == CHANNELS and groups == filters == step["in_channels"]
    if groups > 1 and not depthwise and filters // groups % LANES:
        raise ValueError(f"to the order channels, groups must have a multiple of {LANES} filters")
