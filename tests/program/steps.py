"""One step of a program on ordinary tensors, in any order and with any halos."""

import pytest
import torch

from sparse_ops.ops import _native
from sparse_ops.program.program import CHANNELS, IMAGES, KINDS, PLANAR

ISAS = [
    pytest.param(isa, marks=pytest.mark.skipif(why is not None, reason=str(why)))
    for isa, why in _native.REFUSES.items()
]
ORDERS = {"planar": PLANAR, "channels": CHANNELS, "images": IMAGES}
# Added to an order: the value is a part of a larger one; it is in the concatenation's output
# already.
PART, THERE = 10, 20

# (N, C, H, W): one of everything, around blocks of images and of channels, odd sizes.
SHAPES = [
    (1, 1, 1, 1),
    (1, 33, 7, 5),
    (2, 15, 1, 9),
    (3, 16, 6, 1),
    (15, 3, 5, 4),
    (16, 17, 3, 3),
    (17, 2, 4, 7),
]
# (order of all, halo of the inputs, of the output, more for the inputs' orders, for the output's).
LAYOUTS = [
    pytest.param((PLANAR, 0, 0, 0, 0), id="planar"),
    pytest.param((PLANAR, 0, 0, PART, PART), id="planar-part"),
    pytest.param((CHANNELS, 0, 0, 0, 0), id="channels"),
    pytest.param((CHANNELS, 1, 2, PART, 0), id="channels-part"),
    pytest.param((CHANNELS, 2, 0, 0, PART), id="channels-to-part"),
    pytest.param((IMAGES, 0, 0, 0, 0), id="images"),
    pytest.param((IMAGES, 0, 1, PART, 0), id="images-part"),
    pytest.param((IMAGES, 3, 0, 0, PART), id="images-to-part"),
]


def step(kind, inputs, attributes=(), constants=(), *, isa, layout=None):
    """What one step gives for `inputs`; constants that are None are left out.

    Args:
        layout: one of `LAYOUTS`' values; or (orders, halos, out_order, out_halo).
    """
    layout = layout or (PLANAR, 0, 0, 0, 0)
    if len(layout) == 5:
        order, halo, out_halo, more, out_more = layout
        # The gate of a plane has no halo.
        layout = [order + more] * len(inputs), [halo] * len(inputs), order + out_more, out_halo
    orders, halos, out_order, out_halo = layout
    nothing = torch.tensor(0)
    return getattr(torch.ops.sparse_ops, f"step_{isa}")(
        [each.contiguous() for each in inputs],
        list(orders),
        list(halos),
        out_order,
        out_halo,
        KINDS[kind].number,
        list(attributes),
        [nothing if each is None else each for each in constants],
    )
