"""The activations that every operator can apply to its output."""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda y: y,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


def check_activation(activation: str | None) -> None:
    """Raises ValueError if there is no such activation."""
    if activation not in ACTIVATIONS:
        have = ", ".join(str(name) for name in ACTIVATIONS)
        raise ValueError(f"activation must be one of {have}, got {activation!r}")


def add_and_activate(y: Tensor, residual: Tensor | None, activation: str | None) -> Tensor:
    """activation(y + residual): what kernels do to their results."""
    return ACTIVATIONS[activation](y if residual is None else y + residual)
