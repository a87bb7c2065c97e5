"""The activations that every operator can apply to its output, by name.

Of a leaky ReLU the slope is a part of the name: "leaky_relu(0.1)". Kernels are told a number: the
activation's number in `FUNCTIONS`, and above its 32 bits those of the slope, a float32.
"""

import re
import struct
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_ops.ops._program_code import FUNCTIONS

# Those without a parameter.
ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda y: y,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
_CODES = {name: 0 if name is None else FUNCTIONS[name] for name in ACTIVATIONS}
_LEAKY = re.compile(r"leaky_relu\((.{1,32})\)")
_LARGEST = torch.finfo(torch.float32).max


def leaky_relu(slope: float) -> str | None:
    """The name of a leaky ReLU of that slope; None if it is not finite in float32."""
    slope = float(slope)
    return f"leaky_relu({slope!r})" if abs(slope) <= _LARGEST else None


def slope_of(activation: str | None) -> float | None:
    """The slope of a leaky ReLU; None of every other name."""
    found = None if activation is None else _LEAKY.fullmatch(activation)
    try:
        slope = None if found is None else float(found[1])
    except ValueError:
        return None
    # One name for each slope: names are compared.
    return slope if slope is not None and leaky_relu(slope) == activation else None


def is_activation(activation: str | None) -> bool:
    return activation in ACTIVATIONS or slope_of(activation) is not None


def check_activation(activation: str | None) -> None:
    """Raises ValueError if there is no such activation."""
    if not is_activation(activation):
        have = ", ".join(str(name) for name in (*ACTIVATIONS, leaky_relu(0.01)))
        raise ValueError(f"activation must be one of {have}, got {activation!r}")


def function_of(activation: str | None) -> Callable[[Tensor], Tensor]:
    slope = slope_of(activation)
    if slope is None:
        return ACTIVATIONS[activation]
    return partial(F.leaky_relu, negative_slope=slope)


def add_and_activate(y: Tensor, residual: Tensor | None, activation: str | None) -> Tensor:
    """activation(y + residual): what kernels do to their results."""
    return function_of(activation)(y if residual is None else y + residual)


def code_of(activation: str | None) -> int:
    """The kernels' number for an activation."""
    code = _CODES.get(activation)
    if code is None:
        slope = struct.pack("<f", slope_of(activation))
        code = int.from_bytes(slope, "little", signed=True) << 32 | FUNCTIONS["leaky_relu"]
    return code


def from_code(code: int) -> str | None:
    """The activation of a number.

    Raises:
        ValueError: there is none.
    """
    for name, known in _CODES.items():
        if code == known:
            return name
    (slope,) = struct.unpack("<f", struct.pack("<i", code >> 32))
    if code & 0xFFFFFFFF != FUNCTIONS["leaky_relu"] or not abs(slope) <= _LARGEST:
        raise ValueError(f"no activation has the number {code}")
    # As it was written: 0.1, not all the digits of the float32 beside it.
    shortest = (float(f"{slope:.{digits}g}") for digits in range(1, 10))
    return leaky_relu(next(s for s in shortest if struct.pack("<f", s) == struct.pack("<f", slope)))


# Names are constants to whoever traces. As by torch.compiler's assume_constant_result, which would
# import all of the compiler.
slope_of._dynamo_marked_constant = True  # type: ignore[attr-defined]
code_of._dynamo_marked_constant = True  # type: ignore[attr-defined]
