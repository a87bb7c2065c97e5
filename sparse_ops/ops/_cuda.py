"""The CUDA C++ kernels: whether they can be compiled here, why not, and their registration.

They are compiled at run time, by NVRTC, at the first call on a card (`kernels/_nvrtc.py`).
"""

from typing import Any

import torch
from torch import Tensor

from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.ops import _cuda_calls, _native, _operators
from sparse_ops.ops._activation import slope_of
from sparse_ops.ops._kernels import kernels

# (operator, backend) -> what launches the kernel.
_OPERATORS = {
    (name, backend): run
    for name in ("periodic_conv2d", "csr_conv2d")
    for backend, run in (
        ("cuda", _cuda_calls.cuda),
        ("wgmma", _cuda_calls.wgmma),
    )
}

for _name, _backend in _OPERATORS:
    _operators.define(_native.LIBRARY, _name, _backend)


def _module(name: str) -> Any:
    """One of the kernels' modules, or None where there are none; at import, for torch.compile."""
    try:
        return kernels(name)
    except ImportError:
        return None


_geometry, _choice = _module("_geometry"), _module("tap_choice")
_wgmma = _module("wgmma_choice")


def _load() -> tuple[str | None, frozenset[int]]:
    if not torch.version.cuda:
        return "this torch was built without CUDA", frozenset()
    try:
        nvrtc = kernels("_nvrtc")
        found = frozenset(nvrtc.nvrtc(torch.version.cuda).architectures())
    except (ImportError, RuntimeError) as error:
        return f"the CUDA kernels cannot be compiled ({error})", frozenset()
    for (name, backend), launcher in _OPERATORS.items():
        _native.LIBRARY.impl(f"{name}_{backend}", launcher, "CUDA")
    return None, found


# MISSING: None if the kernels can be compiled, else the reason. ARCHITECTURES: for what.
MISSING, ARCHITECTURES = _load()


def refuses_cuda(
    x: Tensor,
    weight: Any,
    bias: Tensor | None,
    geometry: Any,
    activation: str | None = None,
    *_: Any,
) -> str | None:
    """Why the kernel cannot convolve these, or None if it can."""
    if MISSING is not None:
        return MISSING
    if slope_of(activation) is not None:
        return "leaky_relu is left to the Triton kernels"
    if x.device.type != "cuda":
        return f"x is on {x.device.type}, not cuda"
    properties = torch.cuda.get_device_properties(x.device)
    return refuses_card(x.dtype, properties.major, properties.minor, ARCHITECTURES) or refuses(
        x, weight, geometry, (properties.major, properties.minor)
    )


def refuses_wgmma(x: Tensor, *rest: Any) -> str | None:
    """Why the form by wgmma cannot convolve these, or None if it can."""
    reason = refuses_cuda(x, *rest)
    if reason is not None:
        return reason
    properties = torch.cuda.get_device_properties(x.device)
    card: str | None = _wgmma.refuses_card((properties.major, properties.minor))
    if card is not None or 0 in x.shape:
        return card
    return refuses_form(x, *rest)


def refuses_form(
    x: Tensor,
    weight: Any,
    bias: Tensor | None,
    geometry: Any,
    activation: str | None = None,
    *_: Any,
) -> str | None:
    """Why the form by wgmma has none for these, on a card that it is for, or None if it has one."""
    if activation not in (None, "relu", "relu6"):
        return f"{activation} is left to the other kernels"
    if torch.compiler.is_compiling():
        return "under torch.compile no one looks for the order of its filters"
    own = _geometry.Geometry.of(list(weight.shape), *geometry[:3])
    reason: str | None = _wgmma.refuses_maps(_choice.Maps.of(x, own))
    return reason or _cuda_calls.refuses_order(weight)


def refuses_card(
    dtype: torch.dtype, major: int, minor: int, architectures: frozenset[int]
) -> str | None:
    """Why a type cannot be computed with on cards of a capability, or None if it can."""
    if dtype not in (torch.float16, torch.bfloat16):
        return f"x is {dtype}, not float16 or bfloat16"
    if major < 7:
        return f"the card is of compute capability {major}.{minor}, not 7.0 or newer"
    if dtype == torch.bfloat16 and major < 8:
        return f"the card is of compute capability {major}.{minor}: bfloat16 wants 8.0"
    if 10 * major + minor not in architectures:
        own = f"sm_{major}{minor}"
        return f"this NVRTC does not compile for {own}; SPARSE_OPS_NVRTC may name another"
    return None


def refuses(
    x: Tensor,
    weight: PeriodicWeight | CSRWeight,
    geometry: Any,
    capability: tuple[int, int],
) -> str | None:
    """Why the kernel has no form for these shapes, or None if it has one."""
    O, I = weight.shape[:2]
    if geometry.groups != 1:
        return f"groups must be 1, got {geometry.groups}"
    if O % 8 or I % 8:
        return f"channels must be multiples of 8, got {I} and {O}"
    if 0 in x.shape:
        return None
    own = _geometry.Geometry.of(list(weight.shape), *geometry[:3])
    reason: str | None = _choice.refuses_maps(_choice.Maps.of(x, own), capability)
    if reason is not None:
        return reason
    if torch.compiler.is_compiling():
        # Classes of a pattern are alike; rows would have to be looked through.
        rows = isinstance(weight, CSRWeight)
        return "under torch.compile no one looks through its rows" if rows else None
    return _cuda_calls.refuses_rows(weight)
