"""Dense 3×3 convolutions by Winograd's F(2×2, 3×3) and F(4×4, 3×3), within bounds of their own."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.ops import _native
from sparse_ops.ops._activation import function_of
from sparse_ops.program.program import CHANNELS, IMAGES
from tests.activations import ACTIVATION_NAMES
from tests.program.layers import SLOPES, dense, isa, program, result
from tests.rounding import assert_within_rounding

__all__ = ["isa"]

pytestmark = pytest.mark.skipif(_native.MISSING is not None, reason=str(_native.MISSING))

# What the algorithms add up, without signs: of the input, of the weight, of products.
A, B = 0.75**2, 1.5**2
EACH, OTHER = 1 / (2 * A * (B - A)), 1 / (2 * B * (B - A))
SUMS = {
    "auto": (
        [[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1]],
        [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, 1, 1]],
    ),
    # At the points 0, ±3/4, ±3/2 and infinity.
    "4x4": (
        [
            [A * B, 0, A + B, 0, 1, 0],
            *[[0, 0.75 * B, B, 0.75, 1, 0]] * 2,
            *[[0, 1.5 * A, A, 1.5, 1, 0]] * 2,
            [0, A * B, 0, A + B, 0, 1],
        ],
        [
            [1 / (A * B), 0, 0],
            *[[EACH, EACH * 0.75, EACH * A]] * 2,
            *[[OTHER, OTHER * 1.5, OTHER * B]] * 2,
            [0, 0, 1],
        ],
        [[float(i == 0), *[0.75**i] * 2, *[1.5**i] * 2, float(i == 3)] for i in range(4)],
    ),
}
# (in and out channels, height and width, batch): whole and cut tiles, many rows and few.
SIZES = [
    (16, 16, (2, 2), 16),
    (16, 24, (4, 3), 17),
    (33, 17, (7, 9), 16),
    (20, 40, (5, 4), 33),
    (48, 19, (3, 17), 20),
    (300, 18, (6, 2), 16),
    # Enough tiles for channels innermost, too.
    (16, 200, (9, 8), 1),
    (37, 20, (6, 33), 2),
]
PADDINGS = [(1, 1), (0, 1), (2, 0)]
ORDERS = {"images": IMAGES, "channels": CHANNELS}


@pytest.fixture(params=ORDERS)
def order(request):
    return ORDERS[request.param]


@pytest.fixture(params=SUMS)
def kernel(request):
    return request.param


def magnitude(x, layer):
    """The sum of the sizes of all that is added up for each output."""
    of_input, of_weight, of_products = (torch.tensor(t).double() for t in SUMS[layer.kernel])
    side, reach = of_products.shape
    H, W = (s + 2 * p - 2 for s, p in zip(x.shape[2:], layer.padding, strict=True))
    more = -W % side + layer.padding[1], -H % side + layer.padding[0]
    x = F.pad(x.double().abs(), (layer.padding[1], more[0], layer.padding[0], more[1]))
    tiles = x.unfold(2, reach, side).unfold(3, reach, side)
    products = torch.einsum(
        "ocab,ncijab->noijab",
        of_weight @ layer.weight.double().abs() @ of_weight.T,
        of_input @ tiles @ of_input.T,
    )
    made = of_products @ products @ of_products.T
    return made.transpose(3, 4).flatten(4).flatten(2, 3)[..., :H, :W]


def layer_of(size, **how):
    channels, filters, _, _ = size
    return dense(torch.randn(filters, channels, 3, 3), torch.randn(filters), **how)


def assert_right(layer, y, x, residual=None):
    exact = layer.sums(x.double(), layer.weight.double(), layer.bias.double())
    most = magnitude(x, layer) + layer.bias.double().abs()[:, None, None]
    if residual is not None:
        exact, most = exact + residual.double(), most + residual.double().abs()
    exact = function_of(layer.activation)(exact)
    # Channels, what an output is made of, and both transforms.
    terms = layer.weight.shape[1] + {"auto": 12, "4x4": 28}[layer.kernel]
    assert_within_rounding(y, exact, most, terms, SLOPES.get(layer.activation or "", 1.0))


@pytest.mark.parametrize(("size", "padding"), [*zip(SIZES, itertools.cycle(PADDINGS))], ids=str)
def test_sizes_paddings_and_halos(isa, order, kernel, size, padding):
    channels, _, image, batch = size
    image = tuple(max(s, 4 - 2 * p) for s, p in zip(image, padding, strict=True))
    layer = layer_of(size, padding=padding, activation="relu", kernel=kernel)
    x = torch.randn(batch, channels, *image)
    for halo in (max(padding), max(padding) + 1):
        y = result(program(layer, order, order, (halo, 2, 0)), isa, x)
        assert_right(layer, y, x)
    residual = torch.randn(y.shape)
    made = program(layer, order, order, (max(padding), 0, 1), residual=True)
    assert_right(layer, result(made, isa, x, residual), x, residual)


@pytest.mark.parametrize("activation", ACTIVATION_NAMES[1:])
def test_activations(isa, order, kernel, activation):
    size = SIZES[2]
    layer = layer_of(size, padding=(1, 1), activation=activation, kernel=kernel)
    x = torch.randn(size[3], size[0], *size[2])
    assert_right(layer, result(program(layer, order, order, (1, 1, 0)), isa, x), x)


def test_threads_and_pieces_change_no_bit(isa, order, kernel):
    layer = layer_of((32, 32, None, None), padding=(1, 1), kernel=kernel)
    x = torch.randn(70, 32, 13, 11)
    whole = result(program(layer, order, order, (1, 1, 0)), isa, x)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for piece in (0, 16, 48):
                made = program(layer, order, order, (1, 1, 0), piece=piece)
                assert torch.equal(result(made, isa, x), whole)
    finally:
        torch.set_num_threads(threads)


def test_images_of_all_ways_one_after_the_other(isa, kernel):
    """Channels innermost, small images go directly: their weights are where others are made of."""
    layer = layer_of((37, 40, None, None), padding=(1, 1), kernel=kernel)
    made = program(layer, CHANNELS, CHANNELS, (1, 0, 0))
    for size in (5, 12, 5, 9, 7, 12):
        x = torch.randn(2, 37, size, size)
        assert_right(layer, result(made, isa, x), x)


def test_each_kernel_can_be_asked_for(isa, order):
    size = (64, 16, (16, 12), 16)
    x = torch.rand(size[3], size[0], *size[2])
    weight = torch.rand(16, 64, 3, 3)
    ways = [
        result(
            program(dense(weight, padding=(1, 1), kernel=kernel), order, order, (1, 0, 0)), isa, x
        )
        for kernel in ("auto", "rows", "4x4")
    ]
    for one, other in itertools.combinations(ways, 2):
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=0)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_in_the_tiles_that_read_it(isa, order, kernel, number):
    layer = layer_of((16, 16, None, None), padding=(1, 1), kernel=kernel)
    made = program(layer, order, order, (1, 0, 0))
    x = torch.randn(16, 16, 16, 12)
    plain = result(made, isa, x)
    x[3, 5, 6, 6] = number
    y = result(made, isa, x)
    side = {"auto": 2, "4x4": 4}[kernel]
    # Pixels 5 to 7 of the output read it.
    first, last = 5 // side * side, 7 // side * side + side
    assert not y[3, :, 5:8, 5:8].isfinite().any()
    y[3, :, first:last, first:last] = plain[3, :, first:last, first:last]
    assert torch.equal(y, plain)
