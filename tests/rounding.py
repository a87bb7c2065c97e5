"""How far an honest kernel can be from the exact result.

A sum of n products in float32, in any order, is off by at most n · 2⁻²⁴ · Σ|x||w| to first order;
the result is then rounded to its own type, by its unit roundoff u. A kernel that drops or misplaces
even one small weight is far outside of this.
"""

import torch
from torch import Tensor

# The unit roundoff: half of the distance from 1 to the next number.
UNIT = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}


def assert_within_rounding(
    actual: Tensor, exact: Tensor, magnitude: Tensor, terms: int, slope: float = 1.0
) -> None:
    """Compares a result with the exact one.

    Args:
        actual: what the kernel gave.
        exact: float64, of the same inputs.
        magnitude: float64, the same computation on absolute values, bias included.
        terms: the most products that are added up in one output, bias included.
        slope: how much an activation may magnify an error of its input.
    """
    assert actual.shape == exact.shape
    assert exact.dtype == magnitude.dtype == torch.float64
    about = torch.finfo(actual.dtype)
    # Denormals of float16 are as far apart as the smallest of them.
    least = max(1e-30, about.smallest_normal * about.eps / 2)
    bound = slope * terms * 2.0**-24 * magnitude + 4 * UNIT[actual.dtype] * exact.abs() + least
    worst = ((actual.double() - exact).abs() / bound).nan_to_num(nan=float("inf"))
    if worst.numel() and (times := float(worst.max())) > 1:
        where = tuple(int(i) for i in torch.unravel_index(worst.argmax(), worst.shape))
        raise AssertionError(f"{times:.3g} times the bound at {where}")
