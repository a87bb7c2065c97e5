"""Steps give the same, bit for bit, with any number of threads; and of no images nothing."""

import pytest
import torch

from sparse_ops.program.program import (
    AVERAGE,
    BILINEAR,
    CHANNELS,
    FUNCTIONS,
    IMAGES,
    MAX,
    NEAREST,
    PLANAR,
    bits,
)
from tests.program.steps import ISAS, step


def every_step(order, batch=19):
    """(kind, inputs, attributes, constants): large enough to be dealt out."""
    x = torch.randn(batch, 40, 11, 13)
    numbers = torch.randn(40)
    steps = [
        ("pool", [x], (MAX, 3, 3, 2, 2, 1, 1, 1, 0), ()),
        ("pool", [x], (AVERAGE, 3, 3, 1, 1, 1, 1, 0, 1), ()),
        ("adaptive_pool", [x], (AVERAGE, 1, 1), ()),
        ("adaptive_pool", [x], (MAX, 5, 7), ()),
        ("unary", [x], (FUNCTIONS["tanh"], 0, 0), ()),
        ("unary", [x], (FUNCTIONS["gelu"], 0, 0), ()),
        ("binary", [x, x.flip(0)], (2, 4), ()),
        ("binary", [x, torch.randn(batch, 40)], (2, 3), ()),
        ("concat", [x, x[:, :5], x[:, 3:]], (), ()),
        ("upsample", [x[:, :20]], (NEAREST, 2, 2, 0), ()),
        ("upsample", [x[:, :20]], (BILINEAR, 2, 2, 0), ()),
        ("affine", [x], (5,), (numbers, numbers.flip(0))),
        ("slice", [x], (3, 35), ()),
        ("shuffle", [x], (2,), ()),
        ("interleave", [x], (2, 2, 0, 1), ()),
        ("pad", [x], (1, 2, 3, 4, bits(0.5)), ()),
    ]
    return [each for each in steps if each[0] != "interleave" or order != CHANNELS]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("order", [PLANAR, CHANNELS, IMAGES])
@pytest.mark.parametrize("halo", [0, 1])
def test_results_do_not_depend_on_threads(halo, order, isa, threads):
    for kind, inputs, attributes, constants in every_step(order):
        orders = [PLANAR if each.dim() == 2 else order for each in inputs]
        halos = [0 if each.dim() == 2 else halo for each in inputs]
        layout = orders, halos, order, halo
        results = []
        for count in (1, 2, 3):
            threads(count)
            results.append(step(kind, inputs, attributes, constants, isa=isa, layout=layout))
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2]), kind


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("log", [False, True])
def test_softmax_does_not_depend_on_threads(log, isa, threads):
    x = torch.randn(67, 1003)
    threads(1)
    alone = step("softmax", [x], (log,), isa=isa)
    threads(2)
    assert torch.equal(step("softmax", [x], (log,), isa=isa), alone)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("order", [PLANAR, CHANNELS, IMAGES])
def test_of_no_images_come_none(order, isa):
    one, none = every_step(order, 1), every_step(order, 0)
    for (kind, inputs, attributes, constants), (_, nothing, *_) in zip(one, none, strict=True):
        orders = [PLANAR if each.dim() == 2 else order for each in inputs]
        halos = [0] * len(inputs)
        layout = orders, halos, order, 1
        y = step(kind, inputs, attributes, constants, isa=isa, layout=layout)
        empty = step(kind, nothing, attributes, constants, isa=isa, layout=layout)
        assert empty.shape == (0, *y.shape[1:])
    assert step("softmax", [torch.randn(0, 3)], (0,), isa=isa).shape == (0, 3)
