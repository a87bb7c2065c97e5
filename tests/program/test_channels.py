"""Steps that move channels and pixels, against torch."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.program.program import BILINEAR, CHANNELS, IMAGES, NEAREST, PLANAR, bits
from tests.program.steps import ISAS, LAYOUTS, PART, SHAPES, THERE, step
from tests.rounding import assert_within_rounding


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_concatenation_is_exact(layout, isa):
    for channels in (1,), (16, 16), (15, 1, 17), (20, 3, 33, 16, 2), (1,) * 20, (5, 32):
        for N, H, W in ((1, 1, 1), (2, 3, 5), (17, 2, 1), (1, 33, 35)):
            parts = [torch.randn(N, C, H, W) for C in channels]
            y = step("concat", parts, isa=isa, layout=layout)
            assert torch.equal(y, torch.cat(parts, 1)), channels


@pytest.mark.parametrize("isa", ISAS)
def test_concatenation_begins_at_any_lane(isa):
    for C in range(1, 17):
        parts = [torch.randn(1, C, 1, 3), torch.randn(1, 40, 1, 3)]
        y = step("concat", parts, isa=isa, layout=(CHANNELS, 0, 0, 0, 0))
        assert torch.equal(y, torch.cat(parts, 1)), C


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("order", [PLANAR, CHANNELS, IMAGES])
@pytest.mark.parametrize("there", [(0,), (1,), (0, 2), (1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("halo", [0, 2])
def test_what_is_there_already_stays_as_it_is(there, halo, order, isa):
    if order == PLANAR and halo:
        return
    for channels in ((32, 16, 32, 20), (16, 20, 12, 5), (16, 16, 16, 1)):
        if order == CHANNELS and any(sum(channels[:i]) % 16 for i in there):
            continue
        for N in (1, 3, 17):
            parts = [torch.randn(N, C, 3, 5) for C in channels]
            orders = [order + (THERE if i in there else PART) for i in range(4)]
            halos = [halo if i in there else 1 - halo // 2 for i in range(4)]
            if order == PLANAR:
                halos = [0] * 4
            layout = orders, halos, order, halo
            y = step("concat", parts, isa=isa, layout=layout)
            assert torch.equal(y, torch.cat(parts, 1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_slices_may_begin_anywhere(layout, isa):
    for N, C, H, W in ((1, 1, 1, 1), (2, 50, 3, 5), (17, 37, 2, 1), (1, 64, 40, 40)):
        x = torch.randn(N, C, H, W)
        for first, count in ((0, 1), (1, 16), (5, 30), (16, 17), (17, 16), (33, 4), (C - 1, 1)):
            if first + count <= C:
                y = step("slice", [x], (first, count), isa=isa, layout=layout)
                assert torch.equal(y, x[:, first : first + count])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_are_shuffled_as_by_torch(layout, isa):
    for N, C, H, W in ((1, 1, 1, 1), (2, 48, 3, 5), (17, 30, 2, 1), (1, 116, 14, 14)):
        x = torch.randn(N, C, H, W)
        for groups in (1, 2, 3, 4, 10, C):
            if C % groups == 0:
                y = step("shuffle", [x], (groups,), isa=isa, layout=layout)
                assert torch.equal(y, F.channel_shuffle(x, groups))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", [each for each in LAYOUTS if "channels" not in each.id])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2), (1, 4), (2, 3)], ids=str)
def test_phases_become_pixels(stride, layout, isa):
    high, wide = stride
    for N, C, H, W in ((1, 1, 1, 1), (2, 5, 3, 40), (17, 3, 4, 5), (16, 2, 3, 33)):
        x = torch.randn(N, high * wide * C, H, W)
        whole = torch.empty(N, C, H * high, W * wide)
        for phase in range(high * wide):
            own = x[:, phase * C : (phase + 1) * C]
            whole[:, :, phase // wide :: high, phase % wide :: wide] = own
        for cut in ((0, 0), (high - 1, wide - 1)):
            y = step("interleave", [x], (*stride, *cut), isa=isa, layout=layout)
            assert torch.equal(y, whole[:, :, : H * high - cut[0], : W * wide - cut[1]])


@pytest.mark.parametrize("isa", ISAS)
def test_values_of_two_dimensions_have_channels_too(isa):
    a, b = torch.randn(3, 37), torch.randn(3, 5)
    for more in (0, PART):
        layout = PLANAR, 0, 0, more, more
        y = step("concat", [a, b, a], isa=isa, layout=layout)
        assert torch.equal(y, torch.cat([a, b, a], 1))
        y = step("slice", [a], (7, 20), isa=isa, layout=layout)
        assert torch.equal(y, a[:, 7:27])
        y = step("shuffle", [a[:, :36]], (4,), isa=isa, layout=layout)
        assert torch.equal(y, F.channel_shuffle(a[:, :36, None], 4)[..., 0])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_padding_is_that_of_torch(layout, isa):
    for shape in SHAPES:
        x = torch.randn(shape)
        sides = [(0, 0, 0, 0), (1, 2, 3, 0), (0, 3, 0, 1)]
        if shape[2] > 2 and shape[3] > 2:
            sides += [(-1, 2, 1, -2), (5, -1, -2, 4)]
        for side in sides:
            for value in (0.0, -1.5, -math.inf):
                y = step("pad", [x], (*side, bits(value)), isa=isa, layout=layout)
                assert torch.equal(y, F.pad(x, side, value=value))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_nearest_pixel_is_that_of_torch(layout, isa):
    # 49 / 49 is under one in float32.
    for shape, scale in itertools.product(SHAPES, [(1, 1), (2, 2), (3, 2), (1, 5), (49, 1)]):
        x = torch.randn(shape)
        y = step("upsample", [x], (NEAREST, *scale, 0), isa=isa, layout=layout)
        expected = F.interpolate(x, scale_factor=tuple(float(each) for each in scale))
        assert torch.equal(y, expected), (shape, scale)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_pixels_between_others_are_those_of_torch(align_corners, layout, isa):
    cases = itertools.product(SHAPES, [(1, 1), (2, 2), (3, 2), (1, 5), (4, 7)])
    for shape, scale in [*cases, ((1, 1, 2, 700), (1, 3)), ((1, 1, 2, 2100), (2, 1))]:
        x = torch.randn(shape)
        exact, magnitude = (
            F.interpolate(
                each,
                scale_factor=tuple(float(n) for n in scale),
                mode="bilinear",
                align_corners=align_corners,
            )
            for each in (x.double(), x.double().abs())
        )
        y = step("upsample", [x], (BILINEAR, *scale, align_corners), isa=isa, layout=layout)
        # A weight and what is left of one are off by 2^-24 of one, whatever they weigh.
        near = F.max_pool2d(magnitude, 2 * max(scale) + 1, 1, max(scale))
        assert_within_rounding(y, exact, near, 8)


@pytest.mark.parametrize("isa", ISAS)
def test_what_cannot_be_moved_is_refused_in_words(isa):
    x = torch.randn(2, 6, 4, 5)
    for kind, attributes, words in (
        ("slice", (3, 4), r"slice of 4 channels from 3 on must read as many, got \(2, 6, 4, 5\)"),
        ("slice", (2**62, 2**62), "must read as many"),
        ("slice", (-1, 4), "from 0 and at least one, got -1 and 4"),
        ("shuffle", (4,), "by 4 groups must read a multiple"),
        ("shuffle", (0,), "at least one group, got 0"),
        ("interleave", (2, 2, 0, 0), "of 4 phases must read a multiple"),
        ("interleave", (0, 2, 0, 0), "by 1 to 2.*got 0"),
        ("interleave", (3, 2, 3, 0), "by 3 must cut off 0 to 2, got 3"),
        ("pad", (-5, 9, 0, 0, 0), "must read larger images"),
        ("pad", (2**40, 0, 0, 0, 0), "by less than 2"),
        ("pad", (-3, -3, 0, 0, 0), "which is nothing"),
        ("upsample", (NEAREST, 0, 1, 0), "by 1 to 2.*got 0"),
        ("upsample", (NEAREST, 2**23, 2**23, 0), "too large"),
        ("upsample", (2, 1, 1, 0), "mode 0 or 1, got 2"),
    ):
        with pytest.raises(RuntimeError, match=words):
            step(kind, [x], attributes, isa=isa)
    with pytest.raises(RuntimeError, match=r"channels only, got \(2, 6, 4, 5\) and \(2, 3, 4, 4\)"):
        step("concat", [x, torch.randn(2, 3, 4, 4)], isa=isa)
    with pytest.raises(RuntimeError, match="must be planar, or of images innermost"):
        step("interleave", [x], (1, 2, 0, 0), isa=isa, layout=((1,), (0,), 1, 0))
    with pytest.raises(RuntimeError, match="in one order"):
        step("concat", [x, x], isa=isa, layout=((0, 1), (0, 0), 0, 0))
