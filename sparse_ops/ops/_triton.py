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

from sparse_ops.ops import _native, _operators, _triton_calls
from sparse_ops.ops._kernels import INTERPRETED, kernels, too_old

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _backward(dy: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """dx is in the layout of dy, because that is what it is computed from."""
    need_x, need_values = rest[-2:]
    values = next(each for each in rest if isinstance(each, Tensor) and each.is_floating_point())
    last = torch.channels_last if _operators.channels_last(dy) else torch.contiguous_format
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=last)
    return (
        dx if need_x else x.new_empty(0),
        values.new_empty(values.shape if need_values else (0,)),
    )


# name -> what launches the kernel; it takes what the compiled operator takes.
_LAUNCH: dict[str, Callable[..., Any]] = {
    name: getattr(_triton_calls, name)
    for name in (
        "periodic_conv2d",
        "csr_conv2d",
        "channel_pruned_conv2d",
        "csr_linear",
        "sparse_conv2d_backward",
        "channel_pruned_conv2d_backward",
        "csr_linear_backward",
    )
}

for _name in _LAUNCH:
    _fake = _backward if _name.endswith("_backward") else None
    _operators.define(_native.LIBRARY, _name, "triton", _fake)


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
    for name, launcher in _LAUNCH.items():
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
