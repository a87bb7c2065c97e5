"""The Triton kernels: whether they are here, why not, and their registration as operators.

Facts of the machine are constants, found once at import, as in `_native`. A kernel is registered
for CUDA tensors; under TRITON_INTERPRET=1, which makes Triton run kernels in Python, for CPU
tensors too.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sparse_ops.ops import _native, _triton_calls
from sparse_ops.ops._kernels import INTERPRETED, kernels, too_old

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

CHANNEL_PRUNED_BACKWARD = (
    "(Tensor dy, Tensor x, Tensor values, Tensor out_channels, Tensor in_channels, "
    "int[] weight_shape, int[] stride, int[] padding, int[] dilation, "
    "bool need_x, bool need_values) -> (Tensor, Tensor)"
)


def _backward_fake(values_at: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """dx is in the layout of dy, because that is what it is computed from."""

    def shaped(dy: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        values, (need_x, need_values) = rest[values_at], rest[-2:]
        last = torch.channels_last if _native.channels_last(dy) else torch.contiguous_format
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=last)
        return (
            dx if need_x else x.new_empty(0),
            values.new_empty(values.shape if need_values else (0,)),
        )

    return shaped


# name -> what launches the kernel, its schema and its shapes: those of the compiled operators.
_OPERATORS: dict[str, tuple[Callable[..., Any], str, Callable[..., Any]]] = {
    "periodic_conv2d": (
        _triton_calls.periodic_conv2d,
        _native.CONV,
        _native.conv_fake,
    ),
    "csr_conv2d": (_triton_calls.csr_conv2d, _native.CONV, _native.conv_fake),
    "channel_pruned_conv2d": (
        _triton_calls.channel_pruned_conv2d,
        _native.CHANNEL_PRUNED,
        _native.channel_pruned_fake,
    ),
    "csr_linear": (_triton_calls.csr_linear, _native.LINEAR, _native.linear_fake),
    "sparse_conv2d_backward": (
        _triton_calls.sparse_conv2d_backward,
        _native.CONV_BACKWARD,
        _backward_fake(2),
    ),
    "channel_pruned_conv2d_backward": (
        _triton_calls.channel_pruned_conv2d_backward,
        CHANNEL_PRUNED_BACKWARD,
        _backward_fake(0),
    ),
    "csr_linear_backward": (
        _triton_calls.csr_linear_backward,
        _native.LINEAR_BACKWARD,
        _backward_fake(2),
    ),
}

for _name, (_, _schema, _fake) in _OPERATORS.items():
    _native.LIBRARY.define(f"{_name}_triton{_schema}", tags=[torch.Tag.pt2_compliant_tag])
    torch.library.register_fake(f"sparse_ops::{_name}_triton", _fake, lib=_native.LIBRARY)


def _load() -> str | None:
    # Triton takes half a second to import: only where its kernels can run.
    if not (INTERPRETED or torch.version.cuda or torch.version.hip):
        return "this torch was built without CUDA"
    try:
        version: str = import_module("triton").__version__
        if (reason := too_old(version)) is not None:
            return reason
        for name in ("set_conv2d", "csr_conv2d", "csr_linear"):
            kernels(name)
    except ImportError as error:
        return f"the Triton kernels are not here ({error})"
    for name, (launcher, _, _) in _OPERATORS.items():
        for key in ("CUDA", "CPU") if INTERPRETED else ("CUDA",):
            _native.LIBRARY.impl(f"{name}_triton", launcher, key)
    return None


# None if the kernels are loaded, else the reason, in the import error's own words.
MISSING: str | None = _load()


def refuses_triton(x: Tensor) -> str | None:
    """Why the Triton kernels cannot run on x, or None if they can."""
    if MISSING is not None:
        return MISSING
    if x.device.type != "cuda" and not (INTERPRETED and x.device.type == "cpu"):
        return f"x is on {x.device.type}, not cuda"
    if x.dtype not in DTYPES:
        return f"x is {x.dtype}, not float32, float16 or bfloat16"
    return None
