"""Pruned PyTorch networks, measured faster: methods that make masks, packed kernels that use them.

Weight-sparse, not spatially sparse: the zeros are in the weights, the activations are dense.
"""

from importlib import import_module
from typing import Any

from sparse_ops import convert, formats, functional, masks, nn, patterns
from sparse_ops.convert import export_onnx, load, plan, profile, save, sparsify

__version__ = "0.1.0"

__all__ = [
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
    "training",
]

# Imported when they are asked for: most programs need none of them.
_LATER = ("data", "models", "report", "training")


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return import_module(f"sparse_ops.{name}")
    raise AttributeError(f"module 'sparse_ops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
