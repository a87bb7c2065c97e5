"""Convolutions as steps of programs: every order and form on every instruction set."""

from dataclasses import replace

import pytest
import torch

from sparse_ops.ops import _native
from sparse_ops.program import program as P
from tests.activations import ACTIVATION_NAMES
from tests.covering import pairwise
from tests.program.layers import (
    assert_right,
    dense,
    isa,
    program,
    result,
    rows,
    with_prelu,
)
from tests.program.steps import PART, step

__all__ = ["isa"]

pytestmark = pytest.mark.skipif(_native.MISSING is not None, reason=str(_native.MISSING))

PLANAR, CHANNELS, IMAGES = P.PLANAR, P.CHANNELS, P.IMAGES
NAMES = {PLANAR: "planar", CHANNELS: "channels", IMAGES: "images"}
# Each: how many images, channels and filters, how large; kernel, stride, padding, dilation.
CASES = [
    (1, 16, 16, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1)),
    (1, 17, 33, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    (2, 33, 17, (9, 15), (3, 3), (2, 2), (1, 1), (1, 1)),
    (3, 1, 1, (1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
    (15, 15, 130, (4, 4), (1, 1), (1, 1), (0, 0), (1, 1)),
    (16, 3, 48, (13, 8), (5, 4), (1, 2), (2, 1), (1, 2)),
    (17, 8, 24, (5, 6), (3, 3), (1, 1), (2, 2), (2, 2)),
    (33, 4, 40, (2, 3), (3, 3), (1, 1), (1, 1), (1, 1)),
    (1, 20, 257, (1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
    (1, 5, 64, (3, 31), (1, 3), (1, 1), (0, 1), (1, 1)),
    (2, 16, 80, (29, 1), (3, 1), (2, 1), (1, 0), (1, 1)),
    (1, 3, 32, (40, 57), (7, 7), (2, 2), (3, 3), (1, 1)),
]
PATHS = [
    (CHANNELS, CHANNELS, "dense"),
    (PLANAR, CHANNELS, "dense"),
    (PLANAR, PLANAR, "dense"),
    (PLANAR, PLANAR, "csr"),
    (PLANAR, PLANAR, "periodic"),
    (IMAGES, IMAGES, "dense"),
    (IMAGES, IMAGES, "csr"),
    (IMAGES, IMAGES, "periodic"),
]


def layer_of(form, weight, bias=None, **how):
    if form == "dense":
        return dense(weight, bias, **how)
    shape = weight.shape
    if form == "csr":
        return rows(weight, torch.rand(shape) < 0.3, bias, **how)
    return rows(weight, torch.rand(min(4, shape[0]), *shape[1:]) < 0.4, bias, **how)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("path", PATHS, ids=lambda p: f"{NAMES[p[0]]}-{NAMES[p[1]]}-{p[2]}")
def test_every_order_and_form(isa, path, case):
    order_in, order_out, form = path
    N, C, O, size, kernel, stride, padding, dilation = case
    halo = max(padding) if order_in != PLANAR else 0
    weight, bias = torch.randn(O, C, *kernel), torch.randn(O)
    layer = layer_of(
        form, weight, bias, stride=stride, padding=padding, dilation=dilation, activation="relu"
    )
    x = torch.randn(N, C, *size)
    out = layer.sums(x, layer.weight, bias)
    residual = torch.randn(out.shape)
    if order_in == IMAGES and stride[1] > 2:
        pytest.skip("the stride along lines is 1 or 2")
    y = result(program(layer, order_in, order_out, (halo, 1, 2)), isa, x)
    assert_right(layer, y, x)
    y = result(program(layer, order_in, order_out, (halo + 1, 0, 0), True), isa, x, residual)
    assert_right(layer, y, x, residual)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: f"{NAMES[p[0]]}-{NAMES[p[1]]}-{p[2]}")
@pytest.mark.parametrize("part", ["x", "residual", "out", "all"])
def test_values_that_are_parts_of_larger_ones(isa, path, part):
    order_in, order_out, form = path
    bias = torch.randn(35)
    layer = layer_of(form, torch.randn(35, 20, 3, 3), bias, padding=(1, 1), activation="relu6")
    x, residual = torch.randn(18, 20, 6, 5), torch.randn(18, 35, 6, 5)
    more = [PART * (part in (name, "all")) for name in ("x", "residual", "out")]
    halos = [2 * (order_in != PLANAR), order_out != PLANAR]
    orders = [order_in + more[0], order_out + more[1]]
    layout = (orders, halos, order_out + more[2], 2 * (order_out != PLANAR))
    inputs, attributes = [x, residual], layer.attributes(True)
    y = step("conv", inputs, attributes, layer.constants, isa=isa, layout=layout)
    assert_right(layer, y, x, residual)


@pytest.mark.parametrize("activation", [None, *ACTIVATION_NAMES], ids=str)
@pytest.mark.parametrize("path", [PATHS[0], PATHS[1], PATHS[3], PATHS[4], PATHS[6]], ids=str)
def test_activations_with_and_without_a_residual(isa, path, activation):
    order_in, order_out, form = path
    x = torch.randn(3, 18, 6, 9)
    layer = layer_of(form, torch.randn(37, 18, 3, 3), None, padding=(1, 1), activation=activation)
    halo = int(order_in != PLANAR)
    y = result(program(layer, order_in, order_out, (halo, 0, 1)), isa, x)
    assert_right(layer, y, x)
    residual = torch.randn(y.shape)
    y = result(program(layer, order_in, order_out, (halo, 0, 1), True), isa, x, residual)
    assert_right(layer, y, x, residual)


@pytest.mark.parametrize("path", [PATHS[0], PATHS[3], PATHS[5], PATHS[6]], ids=str)
def test_a_prelu_of_one_slope_is_applied_as_a_leaky_relu_is(isa, path):
    order_in, order_out, form = path
    x, how = torch.randn(3, 18, 6, 9), {"padding": (1, 1), "activation": "leaky_relu(-0.3)"}
    layer = layer_of(form, torch.randn(37, 18, 3, 3), torch.randn(37), **how)
    made = program(layer, order_in, order_out, (int(order_in != PLANAR), 0, 1))
    fused = with_prelu(made, -0.3)
    y = result(fused, isa, x)
    assert torch.equal(y, result(made, isa, x))
    torch.testing.assert_close(result(fused, "reference", x), y, rtol=1e-4, atol=1e-4)
    wrong = replace(fused, constants=(*made.constants, torch.randn(2)), number=made.number + 1)
    with pytest.raises(RuntimeError, match="slope must have 1 value, got 2"):
        result(wrong, isa, x)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("path", [(CHANNELS, CHANNELS), (PLANAR, CHANNELS), (PLANAR, PLANAR)])
def test_any_stride(isa, path, stride):
    layer = dense(torch.randn(20, 6, 3, 3), stride=(stride, stride), padding=(1, 1))
    x = torch.randn(2, 6, 17, 23)
    assert_right(layer, result(program(layer, *path, (1, 1, 0)), isa, x), x)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("path", PATHS, ids=lambda p: f"{NAMES[p[0]]}-{NAMES[p[1]]}-{p[2]}")
def test_groups(isa, path, groups):
    order_in, order_out, form = path
    layer = layer_of(form, torch.randn(64, 6, 3, 3), torch.randn(64), padding=(1, 1), groups=groups)
    x = torch.randn(2, 6 * groups, 8, 5)
    y = result(program(layer, order_in, order_out, (int(order_in != PLANAR), 2, 0)), isa, x)
    assert_right(layer, y, x)


GEOMETRIES = [
    ((14, 14), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((9, 15), (5, 5), (2, 2), (2, 2), (1, 1)),
    ((1, 3), (1, 3), (1, 1), (0, 1), (1, 1)),
    ((11, 8), (3, 2), (3, 1), (2, 0), (2, 3)),
]


@pytest.mark.parametrize(
    ("channels", "geometry", "order"),
    pairwise([2, 16, 17, 40], GEOMETRIES, [CHANNELS, IMAGES, PLANAR]),
    ids=str,
)
def test_each_channel_with_itself(isa, order, channels, geometry):
    size, kernel, stride, padding, dilation = geometry
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": channels}
    layer = dense(
        torch.randn(channels, 1, *kernel), torch.randn(channels), activation="relu6", **how
    )
    x = torch.randn(3, channels, *size)
    halo = max(padding) if order != PLANAR else 0
    assert_right(layer, y := result(program(layer, order, order, (halo, 1, 0)), isa, x), x)
    residual = torch.randn(y.shape)
    y = result(program(layer, order, order, (halo, 0, 1), True), isa, x, residual)
    assert_right(layer, y, x, residual)


@pytest.mark.parametrize("order", [PLANAR, IMAGES], ids=NAMES.get)
def test_filters_without_weights_give_their_bias(isa, order):
    x, bias = torch.randn(2, 3, 4, 5), torch.randn(6)
    mask = torch.zeros(6, 3, 3, 3, dtype=torch.bool)
    for kept in (False, True):
        mask[4, 1, 1, 2] = kept
        layer = rows(torch.randn(6, 3, 3, 3), mask, bias, padding=(1, 1))
        y = result(program(layer, order, order, (int(order != PLANAR), 1, 0)), isa, x)
        assert_right(layer, y, x)
        assert torch.equal(y[:, 0], bias[0].expand(2, 4, 5))


@pytest.mark.parametrize("image", [(5, 3), (7, 7), (4, 14), (3, 17), (9, 16)], ids=str)
def test_channels_of_images_in_parts(isa, image):
    """Filters that keep many weights go through 16 channels at a time, the last part being less."""
    weight = torch.randn(19, 40, 3, 3)
    mask = torch.rand(weight.shape) < 0.3
    # A part in which a filter keeps nothing, and filters that keep nothing of a part's end.
    mask[3, 16:32], mask[4, 32:], mask[5] = False, False, False
    x, residual = torch.randn(33, 40, *image), torch.randn(33, 19, *image)
    for added in (None, residual):
        layer = rows(weight, mask, torch.randn(19), padding=(1, 1), activation="relu")
        made = program(layer, P.IMAGES, P.IMAGES, (2, 1, 1), residual=added is not None)
        inputs = (x,) if added is None else (x, added)
        threads = torch.get_num_threads()
        try:
            ways = []
            for count in (1, 2, 5):
                torch.set_num_threads(count)
                ways.append(result(made, isa, *inputs))
        finally:
            torch.set_num_threads(threads)
        assert_right(layer, ways[0], *inputs)
        assert torch.equal(ways[0], ways[1]) and torch.equal(ways[0], ways[2])


@pytest.mark.parametrize("density", [0.1, 0.5, 0.95])
def test_filters_of_images_alone_and_together(isa, density):
    weight = torch.randn(37, 5, 3, 3)
    mask = torch.rand(weight.shape) < density
    mask[1::3] = mask[1]
    layer = rows(weight, mask, torch.randn(37), padding=(1, 1))
    x = torch.randn(18, 5, 7, 12)
    assert_right(layer, result(program(layer, IMAGES, IMAGES, (1, 0, 0)), isa, x), x)


@pytest.mark.parametrize("kernel", ["auto", "rows", "wide"])
def test_kernels_of_planar_images(isa, kernel):
    layer = rows(
        torch.randn(40, 6, 3, 3), torch.rand(2, 6, 3, 3) < 0.5, padding=(1, 1), kernel=kernel
    )
    x = torch.randn(5, 6, 10, 11)
    assert_right(layer, result(program(layer, PLANAR, PLANAR), isa, x), x)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: f"{NAMES[p[0]]}-{NAMES[p[1]]}-{p[2]}")
@pytest.mark.parametrize("size", [(12, 20), (2, 1)])
def test_threads_and_pieces_change_nothing(isa, path, size):
    order_in, order_out, form = path
    layer = layer_of(form, torch.randn(70, 19, 3, 3), torch.randn(70), padding=(1, 1))
    x = torch.randn(37, 19, *size)
    halos = (int(order_in != PLANAR), 1, 0)
    whole = result(program(layer, order_in, order_out, halos), isa, x)
    for piece in (16, 5, 1)[: 1 if IMAGES in path else 3]:
        assert torch.equal(
            result(program(layer, order_in, order_out, halos, piece=piece), isa, x), whole
        )
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert torch.equal(result(program(layer, order_in, order_out, halos), isa, x), whole)
    finally:
        torch.set_num_threads(threads)


def test_what_lanes_hold_that_stand_for_nothing_does_not_matter(isa):
    """The arena is NaN, and so are lanes past the last channel; a chain would pass them on."""
    x = torch.randn(2, 5, 6, 6)
    first = dense(torch.randn(21, 5, 3, 3), padding=(1, 1))
    second = dense(torch.randn(3, 21, 3, 3), padding=(2, 2))
    made = P.Program(
        1,
        (4,),
        (P.Value(), P.Value(CHANNELS, 1), P.Value(CHANNELS, 2), P.Value(CHANNELS), P.Value()),
        (
            P.Step("convert", 1, (0,)),
            P.Step("conv", 2, (1,), (0, -1), first.attributes(False)),
            P.Step("conv", 3, (2,), (1, -1), second.attributes(False)),
            P.Step("convert", 4, (3,)),
        ),
        (first.weight, second.weight),
        6_999_999,
    )
    between = first.sums(x, first.weight, None)
    y = result(made, isa, x)
    torch.testing.assert_close(y, second.sums(between, second.weight, None), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("order_in", "order_out", "halo", "how", "words"),
    [
        (CHANNELS, CHANNELS, 0, {}, "needs such a halo"),
        (IMAGES, IMAGES, 0, {}, "needs such a halo"),
        (IMAGES, CHANNELS, 1, {}, "no convolution from IMAGES to CHANNELS"),
        (CHANNELS, PLANAR, 1, {}, "no convolution from CHANNELS to PLANAR"),
        (IMAGES, IMAGES, 1, {"stride": (1, 3)}, "stride along lines is 1 or 2, got 3"),
        (CHANNELS, CHANNELS, 1, {"groups": 2}, "multiple of 16 filters"),
    ],
)
def test_what_there_is_not_is_refused(order_in, order_out, halo, how, words):
    layer = dense(torch.randn(8, 4 // how.get("groups", 1), 3, 3), padding=(1, 1), **how)
    made = program(layer, order_in, order_out, (halo, 0, 0))
    with pytest.raises(RuntimeError, match=words):
        result(made, _native.ISAS[-1], torch.randn(1, 4, 6, 6))


def test_rows_do_not_run_with_channels_innermost():
    layer = rows(torch.randn(16, 4, 1, 1), torch.ones(16, 4, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="form DENSE"):
        result(program(layer, CHANNELS, CHANNELS), _native.ISAS[-1], torch.randn(1, 4, 6, 6))


def damaged(position, value):
    """A sparse layer with one constant that lies."""
    layer = rows(torch.randn(4, 3, 1, 1), torch.ones(4, 3, dtype=torch.bool), torch.randn(4))
    constants = [each.clone() for each in layer.constants]
    if value is None:
        constants[position] = constants[position][:-1]
    else:
        constants[position][-1] = value
    layer.constants = constants
    return layer


@pytest.mark.parametrize(
    ("position", "value", "words"),
    [
        (0, 13, "crow_indices must go from 0 to 12"),
        (0, None, "crow_indices must go"),
        (1, 3, "col_indices must be in"),
        (1, -1, "col_indices must be in"),
        (1, None, "crow_indices must go"),
        (2, None, "values must be"),
        (3, None, "bias must have 4"),
    ],
)
@pytest.mark.parametrize("order", [PLANAR, IMAGES], ids=NAMES.get)
def test_constants_that_lie_are_refused(order, position, value, words):
    with pytest.raises(RuntimeError, match=words):
        made = program(damaged(position, value), order, order)
        result(made, _native.ISAS[-1], torch.randn(1, 3, 2, 2))


@pytest.mark.parametrize(
    ("x", "words"), [((1, 5, 6, 6), "must be .N, 4"), ((1, 4, 2, 6), "too small for the kernel")]
)
def test_inputs_that_do_not_fit_are_refused(x, words):
    layer = dense(torch.randn(8, 4, 3, 3))
    with pytest.raises(RuntimeError, match=words):
        result(program(layer, PLANAR, PLANAR), _native.ISAS[-1], torch.randn(x))


@pytest.mark.parametrize("place", range(15))
@pytest.mark.parametrize("value", [-1, 0, 2, 1 << 40, -(1 << 63)])
def test_attributes_that_lie_are_refused_or_make_another_layer(place, value):
    layer = dense(torch.randn(8, 4, 3, 3), torch.randn(8), padding=(1, 1))
    made = program(layer, CHANNELS, CHANNELS, (1, 0, 0))
    step = made.steps[1]
    changed = list(step.attributes)
    changed[place] = value
    steps = (
        made.steps[0],
        P.Step("conv", step.out, step.inputs, step.constants, tuple(changed)),
        made.steps[2],
    )
    made = P.Program(1, made.outputs, made.values, steps, made.constants, made.number)
    try:
        y = result(made, _native.ISAS[-1], torch.randn(1, 4, 6, 6))
    except RuntimeError as error:
        assert str(error).strip()
    else:
        assert y.shape[1] == 8
