"""Differences: whether two models' tensors are further apart than roundings explain."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.graph.running import tensors_in
from sparse_ops.passes.winograd import LARGE, LARGE_TILES_FACTOR, tiles_of
from sparse_ops.program.model import programs_of

# A model's error is compared with that of the dense model in the same precision. Both are one draw
# of the same roundings in another order, so that their largest errors differ by a small factor.
MODEL_FACTOR = 8.0
# The dense model may be exact by luck; then an error of some ulp of the largest output is honest.
# 17 have been seen of torch's own layers, an untrained VGG-16 without its masked filters, where the
# one with them was off by 2; a kernel that leaves out a weight is off by thousands.
MODEL_ULPS = 64.0


class Mismatch(RuntimeError):
    """A packed layer or model does not compute what the dense one does.

    Attributes:
        of_kernel: whether a layer, or a step of a program, is wrong alone on what it was given.
    """

    def __init__(self, message: str, of_kernel: bool = False) -> None:
        super().__init__(message)
        self.of_kernel = of_kernel


def smallest(dtype: torch.dtype) -> float:
    """What may be lost next to zero: denormals, where kernels flush them; else half of one."""
    info = torch.finfo(dtype)
    return info.tiny if info.tiny < 1e-30 else info.tiny * info.eps


def float_tensors(output: Any) -> list[Tensor]:
    """The floating point tensors in what a model returns."""
    return [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]


def factor_of(packed: nn.Module) -> float:
    """How many times as large the errors of a model may be, by the kernels that it asked for."""
    found = [programs_of(module) for module in packed.modules()]
    large = any(own is not None and tiles_of(own.graph) == LARGE for own in found)
    return LARGE_TILES_FACTOR if large else 1.0


def difference(
    ours: list[Tensor],
    theirs: list[Tensor],
    truth: list[Tensor],
    exact: bool = True,
    factor: float = 1.0,
) -> str | None:
    """What of the packed model's outputs is off, in words; None if nothing is.

    Args:
        exact: whether the truth is that of float64; else half of the digits have to agree.
        factor: how many times as far off as usual they may be.
    """
    for index, (y, plain, y64) in enumerate(zip(ours, theirs, truth, strict=True)):
        judged = y64.isfinite() & plain.isfinite()
        if not bool(judged.any()):
            continue
        errors = (y.double() - y64).abs().nan_to_num(nan=float("inf")).where(judged, 0)
        error, largest = float(errors.max()), float(y64[judged].abs().max())
        dense_error = float((plain.double() - y64)[judged].abs().max())
        eps = torch.finfo(y.dtype).eps
        allowed = factor * max(MODEL_FACTOR * dense_error, MODEL_ULPS * eps / 2 * largest)
        if not exact:
            allowed = math.sqrt(eps) * largest
        if error > allowed + smallest(y.dtype):
            place = int(errors.argmax())
            return (
                f"output {index} of the packed model is off by {error:.3g}, that of the dense one "
                f"by {dense_error:.3g}: where it is worst they give {float(y.flatten()[place]):.6g}"
                f" and {float(plain.flatten()[place]):.6g}"
            )
    return None
