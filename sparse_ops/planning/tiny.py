"""Tiny weights: not zero, yet so small that whoever trained them meant them to be.

Training with an L1 penalty leaves them; so does weight decay, down to denormal numbers.
"""

import math
import warnings
from collections.abc import Mapping

from torch import Tensor, nn

from sparse_ops import masks as masks_
from sparse_ops.planning.masked import DENORMAL

# Weights this far below their layer's root mean square are tiny. Of normally distributed ones
# 0.08 % are, so that a layer counts from ten times as many on.
TINY, SHARE = 1e-3, 0.008


def warn_of_tiny(model: nn.Module, masks: Mapping[str, Tensor], threshold: float) -> list[str]:
    """Warns of tiny weights that no mask removes, and says what `threshold` would do.

    Returns:
        The same words as notes: none, one or two.
    """
    weights = {n: w for n, w in masks_.weights(model).items() if w.is_floating_point()}
    denormal = sum(int(((w != 0) & (w.abs() < DENORMAL)).sum()) for w in weights.values())
    notes = []
    if denormal:
        notes.append(f"{denormal:,} weights are denormal numbers; they count as zeros")
    found, cut = 0, 0.0
    for name, weight in weights.items():
        small, largest = _tiny(weight, masks.get(name))
        if small > SHARE * weight.numel():
            found, cut = found + small, max(cut, largest)
    if found:
        cut = _rounded_up(cut)
        total = sum(w.numel() for w in weights.values())
        kept = sum(int(_kept(w, masks.get(n)).sum()) for n, w in weights.items())
        left = sum(
            int((_kept(w, masks.get(n)) & (w.abs() > cut)).sum()) for n, w in weights.items()
        )
        notes.append(
            f"{found:,} weights are not zero but below {TINY:g} of their layer's root mean square; "
            f"threshold={cut:g} would count {kept - left:,} weights as zeros: "
            f"sparsity {1 - kept / total:.1%} -> {1 - left / total:.1%}"
        )
    if notes:
        warnings.warn("; ".join(notes), stacklevel=5)
    return notes


def _kept(weight: Tensor, mask: Tensor | None) -> Tensor:
    return weight != 0 if mask is None else mask.to(weight.device)


def _tiny(weight: Tensor, mask: Tensor | None) -> tuple[int, float]:
    """How many kept weights are tiny, and the largest of them."""
    kept = weight[_kept(weight, mask)].abs()
    if not kept.numel():
        return 0, 0.0
    tiny = kept[kept < TINY * float(kept.double().square().mean().sqrt())]
    tiny = tiny[tiny > 0]
    return tiny.numel(), float(tiny.max()) if tiny.numel() else 0.0


def _rounded_up(number: float) -> float:
    """To two digits."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 1)
    return math.ceil(number / unit) * unit
