"""Pruned PyTorch networks, measured faster: methods that make masks, packed kernels that use them.

Weight-sparse, not spatially sparse: the zeros are in the weights, the activations are dense.
"""

from importlib import import_module
from typing import Any

from sparse_ops import convert, formats, functional, masks, nn, patterns
from sparse_ops.convert import export_onnx, load, plan, profile, save, sparsify
from sparse_ops.nn import ChannelPrunedConv2d, CSRConv2d, CSRLinear, PeriodicConv2d, swap_

__version__ = "0.1.0"

__all__ = [
    "CSRConv2d",
    "CSRLinear",
    "ChannelPrunedConv2d",
    "PeriodicConv2d",
    "__version__",
    "convert",
    "data",
    "export_onnx",
    "formats",
    "functional",
    "load",
    "masks",
    "models",
    "nn",
    "patterns",
    "plan",
    "profile",
    "report",
    "save",
    "sparsify",
    "swap_",
    "training",
]

# Imported when they are asked for: most programs need none of them.
_LATER = ("data", "hub", "models", "report", "training")


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return import_module(f"sparse_ops.{name}")
    raise AttributeError(f"module 'sparse_ops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
