"""Values in another order, with another halo, as part of another, and flattened."""

import itertools

import pytest
import torch

from sparse_ops.program.program import CHANNELS, IMAGES, PLANAR
from tests.program.programs import Builder, run_on
from tests.program.steps import ISAS, PART, SHAPES, step

# (order and more, halo).
PLACES = [
    (PLANAR, 0),
    (PLANAR + PART, 0),
    (CHANNELS, 0),
    (CHANNELS, 2),
    (CHANNELS + PART, 1),
    (IMAGES, 0),
    (IMAGES, 3),
    (IMAGES + PART, 1),
]
# One less and one more than a block, and than the pixels that are turned at once.
LONG = [(17, 33, 2, 65), (33, 15, 1, 63), (31, 31, 3, 2), (1, 3, 2, 130)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [*SHAPES, *LONG])
def test_every_order_turns_into_every_other(shape, isa):
    x = torch.randn(shape)
    for (order, halo), (out_order, out_halo) in itertools.product(PLACES, PLACES):
        y = step("convert", [x], isa=isa, layout=([order], [halo], out_order, out_halo))
        assert torch.equal(y, x), (order, halo, out_order, out_halo)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [*SHAPES, *LONG])
def test_flatten_is_that_of_torch(shape, isa):
    x = torch.randn(shape)
    for (order, halo), out_order in itertools.product(PLACES, (PLANAR, PLANAR + PART)):
        y = step("flatten", [x], isa=isa, layout=([order], [halo], out_order, 0))
        assert torch.equal(y, x.flatten(1)), (order, halo, out_order)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("order", [PLANAR, CHANNELS, IMAGES])
def test_inputs_may_have_any_strides(order, isa):
    for shape in [(2, 5, 4, 3), (17, 18, 3, 5), (1, 1, 3, 4), (33, 33, 1, 1)]:
        builder = Builder(shape)
        program = builder.program(builder.convert(builder.convert(0, order), PLANAR))
        N, C, H, W = shape
        x = torch.randn(shape)
        views = [
            x.contiguous(memory_format=torch.channels_last),
            x.transpose(2, 3).contiguous().transpose(2, 3),
            torch.randn(N, C + 3, H, W)[:, 2 : C + 2],
            torch.randn(N, H, W, C + 1).permute(0, 3, 1, 2)[:, :C],
            torch.randn(N, C, H, 2 * W)[..., ::2],
            torch.randn(1, C, 1, W).expand(shape),
        ]
        for view in views:
            assert torch.equal(run_on(program, [view], isa)[0], view)
