"""What long sums, and sums beside a large bias, lose by rounding: no more than a few ulp."""

import pytest
import torch

from sparse_ops.ops import _native
from sparse_ops.program.program import CHANNELS, IMAGES, PLANAR
from tests.program.layers import dense, isa, program, result, rows

__all__ = ["isa"]

pytestmark = pytest.mark.skipif(_native.MISSING is not None, reason=str(_native.MISSING))

# (weight, share kept, the layout of x and y, batch). A sum of so many positive products, one after
# the other, is off by 30 to 200 ulp.
CASES = {
    "linear": ((20, 20_000), None, PLANAR, 5),
    "sparse linear": ((20, 20_000), 0.1, PLANAR, 5),
    "sparse linear, few": ((20, 20_000), 0.1, PLANAR, 1),
    "channels": ((16, 1024, 3, 3), None, CHANNELS, 1),
    "images": ((6, 1024, 3, 3), None, IMAGES, 16),
    "sparse images": ((6, 1024, 3, 3), 0.7, IMAGES, 16),
    "planar": ((16, 1024, 3, 3), 0.7, PLANAR, 1),
}


@pytest.fixture(params=CASES)
def case(request):
    shape, share, order, batch = CASES[request.param]
    torch.manual_seed(0)
    weight, bias = torch.rand(shape), torch.rand(shape[0])
    x = torch.rand(batch, shape[1], *(5, 6)[: len(shape) - 2])

    def layer(bias):
        if share is None:
            return dense(weight, bias)
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < share
        # Filters that keep the same, where images are innermost: they are computed together.
        return rows(weight, mask[:1] if order == IMAGES else mask, bias)

    return layer, bias, x, order


def ulps(layer, y, x):
    exact = layer.sums(x.double(), layer.weight.double(), layer.bias.double())
    return float(((y.double() - exact) / exact).abs().max()) * 2**24


def test_long_sums_lose_a_few_ulp(isa, case):
    layer, bias, x, order = case
    made = layer(bias)
    y = result(program(made, order, order, (1 if order != PLANAR else 0, 0, 0)), isa, x)
    assert ulps(made, y, x) < 14


def test_a_large_bias_costs_one_rounding(isa, case):
    layer, _, x, order = case
    # All products together are a thousandth of it.
    made = layer(torch.full((len(layer(None).weight),), 1e3 * float(x.sum(1).max())))
    y = result(program(made, order, order, (1 if order != PLANAR else 0, 0, 0)), isa, x)
    assert ulps(made, y, x) < 1.5
