"""What is no ordinary number, and what is empty: packed layers answer as dense ones with the zeros.

A weight that is not kept is a product with zero in a dense layer, and no product in a packed one:
they differ where that product is not zero, for inf and NaN, and in the sign of a zero.
"""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparse_ops as so
from sparse_ops.nn import ChannelPrunedConv2d, CSRConv2d, CSRLinear, PeriodicConv2d
from sparse_ops.ops import _native
from sparse_ops.patterns import PSD2_P8, Channels
from tests.convert.models import says
from tests.program.converted import ORDERS, in_order

INF, NAN = math.inf, math.nan
ISAS = [isa for isa in _native.ISAS if _native.REFUSES[isa] is None]
MASKS = {
    CSRConv2d: lambda: torch.rand(16, 8, 3, 3) > 0.6,
    PeriodicConv2d: lambda: PSD2_P8.mask((16, 8, 3, 3)),
    ChannelPrunedConv2d: lambda: Channels((0, 2, 3, 9), (0, 1, 5)).mask((16, 8, 3, 3)),
    CSRLinear: lambda: torch.rand(16, 8) > 0.6,
}
LAYERS = [(kind, isa) for kind in MASKS for isa in (*ISAS, "reference")]


def pair(kind, backend, activation=None):
    """(a packed layer, the dense one with the same zeros), their weights whole numbers."""
    mask = MASKS[kind]()
    dense = nn.Linear(8, 16) if kind is CSRLinear else nn.Conv2d(8, 16, 3, padding=1)
    with torch.no_grad():
        # Sums of small whole numbers are exact in any order.
        dense.weight.copy_(torch.randint(1, 5, mask.shape).float() * mask)
        dense.bias.copy_(torch.randint(-4, 5, (16,)).float())
    packed = kind.from_dense(dense, mask, activation=activation, backend=backend)
    return packed.requires_grad_(False), dense.requires_grad_(False)


def numbers(kind, *, odd=()):
    shape = (3, 8) if kind is CSRLinear else (2, 8, 5, 6)
    x = torch.randint(-3, 4, shape).float()
    for i, value in enumerate(odd):
        x.view(-1)[7 * i + 3] = value
    return x


def assert_as_dense(y, packed, dense, x, activation=None):
    """Equal, where the dense sum has no product of a removed weight with inf or NaN."""
    only = copy.deepcopy(dense)
    only.weight.copy_((only.weight != 0).float())
    only.bias.zero_()
    whole = copy.deepcopy(only)
    whole.weight.fill_(1)
    # How many odd numbers each output sees through kept weights, and through any.
    strange = (~x.isfinite()).float()
    seen, near = only(strange), whole(strange)
    given = dense(x)
    given = F.relu(given) if activation == "relu" else given
    ordinary = near == 0
    assert torch.equal(y[ordinary], given[ordinary])
    # All that are odd are seen through kept weights: nothing is lost.
    alike = seen == near
    torch.testing.assert_close(y[alike], given[alike], rtol=0, atol=0, equal_nan=True)
    # Where one meets only removed weights the answer is that without it.
    hidden = (seen == 0) & (near > 0)
    without = dense(x.nan_to_num(0, 0, 0))
    without = F.relu(without) if activation == "relu" else without
    assert torch.equal(y[hidden], without[hidden])
    return int(alike.sum() - ordinary.sum()), int(hidden.sum())


@pytest.mark.parametrize(("kind", "backend"), LAYERS)
def test_nan_and_infinities_go_where_kept_weights_let_them(kind, backend):
    met = hidden = 0
    for activation in (None, "relu"):
        packed, dense = pair(kind, backend, activation)
        for odd in ([NAN], [INF], [-INF], [INF, -INF], [NAN, INF, -INF]):
            x = numbers(kind, odd=odd)
            if backend == "reference":
                # It multiplies by zeros, as torch does.
                expected = dense(x)
                expected = F.relu(expected) if activation else expected
                torch.testing.assert_close(packed(x), expected, rtol=0, atol=0, equal_nan=True)
                continue
            one, other = assert_as_dense(packed(x), packed, dense, x, activation)
            met, hidden = met + one, hidden + other
    assert backend == "reference" or (met and hidden)


@pytest.mark.parametrize(("kind", "backend"), LAYERS)
def test_denormals_and_the_largest_numbers_are_computed_with(kind, backend):
    packed, dense = pair(kind, backend)
    dense.bias.zero_()
    packed.bias.zero_()
    for size in (2.0**-149, 2.0**-140, 2.0**118):
        x = numbers(kind) * size
        assert torch.equal(packed(x), dense(x))


@pytest.mark.parametrize(("kind", "backend"), LAYERS)
def test_zeros_of_either_sign_give_zeros(kind, backend):
    packed, dense = pair(kind, backend)
    dense.bias.zero_()
    packed.bias.zero_()
    for zero in (0.0, -0.0):
        y = packed(torch.full_like(numbers(kind), zero))
        assert torch.equal(y, torch.zeros_like(y))


@pytest.mark.parametrize(("kind", "backend"), LAYERS)
def test_no_images_and_no_pixels_give_what_dense_gives(kind, backend):
    packed, dense = pair(kind, backend)
    assert packed(numbers(kind)[:0]).shape == dense(numbers(kind)[:0]).shape
    if kind is CSRLinear:
        assert packed(torch.empty(2, 0, 8)).shape == (2, 0, 16)
        return
    for shape in ((2, 8, 0, 5), (2, 8, 5, 0), (0, 8, 0, 0)):
        try:
            expected = dense(torch.empty(shape)).shape
        except RuntimeError:
            with pytest.raises((RuntimeError, ValueError)):
                packed(torch.empty(shape))
        else:
            assert packed(torch.empty(shape)).shape == expected


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.b(torch.relu(self.a(x)))).amax((2, 3)))


@pytest.mark.parametrize("order", ORDERS)
def test_networks_pass_on_what_is_no_number_as_dense_ones_do(order):
    torch.manual_seed(0)
    model = Net().eval().requires_grad_(False)
    x = torch.randn(17, 3, 6, 7)
    plan = so.plan(model, x, {}, measure=says(0.5), progress=False, shrink=False)
    fast = in_order(plan.apply(model), ORDERS[order], x)
    for odd in (NAN, INF, -INF, 1e-40, 3e38):
        given = x.clone()
        given[3, 1, 2, 2] = given[16, 0, 0, 0] = odd
        y, expected = fast(given), model(given)
        assert torch.equal(y.isnan(), expected.isnan()), odd
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    for shape in ((0, 3, 6, 7), (1, 3, 1, 1)):
        given = torch.randn(shape)
        torch.testing.assert_close(fast(given), model(given), rtol=1e-4, atol=1e-5)
    for call in (fast, model):
        # There is no largest of no pixels.
        with pytest.raises((RuntimeError, IndexError, ValueError)):
            call(torch.empty(1, 3, 0, 7))
