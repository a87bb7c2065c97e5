"""Unpacked weights, kept: the dense library as a backend on a GPU.

On a CPU the planner leaves a layer dense instead, which takes no second copy of its weight.
"""

from typing import Any

import torch
from torch import Tensor

from sparse_ops.ops._kernels import INTERPRETED
from sparse_ops.ops._once import once, recorded


def unpacked(weight: Any) -> Tensor:
    """The dense weight: anew where it may change or is being recorded, otherwise once."""
    values = weight.values
    changes = torch.is_grad_enabled() or torch.compiler.is_compiling() or values.is_inference()
    if changes or recorded(values):
        return weight.to_dense()
    tensors = tuple(t for t in vars(weight).values() if isinstance(t, Tensor))
    return once(("dense", type(weight), weight.shape), tensors, weight.to_dense)


def refuses_dense(x: Tensor, *rest: object) -> str | None:
    """Why there is no such backend for x, or None if there is."""
    if x.device.type == "cuda" or INTERPRETED:
        return None
    return f"x is on {x.device.type}, not cuda"
