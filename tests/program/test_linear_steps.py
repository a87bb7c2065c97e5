"""Linear layers as steps of programs: sparse and dense, on every instruction set."""

import pytest
import torch

from sparse_ops.ops import _native
from sparse_ops.program import program as P
from tests.activations import ACTIVATION_NAMES
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

FORMS = ["dense", "csr"]
SIZES = [(1, 1), (784, 300), (100, 10), (15, 17), (64, 128), (33, 16), (7, 131), (2500, 33)]
BATCHES = [1, 2, 4, 5, 15, 16, 17, 70]


def layer_of(form, out_features, in_features, bias=True, density=0.2, **how):
    weight = torch.randn(out_features, in_features)
    shift = torch.randn(out_features) if bias else None
    if form == "dense":
        return dense(weight, shift, **how)
    return rows(weight, torch.rand(weight.shape) < density, shift, **how)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_and_batch(isa, form, size):
    layer = layer_of(form, size[1], size[0], activation="relu")
    plain = layer_of(form, size[1], size[0], bias=False)
    for batch in BATCHES:
        x, residual = torch.randn(batch, size[0]), torch.randn(batch, size[1])
        assert_right(layer, result(program(layer, P.PLANAR, P.PLANAR), isa, x), x)
        made = program(plain, P.PLANAR, P.PLANAR, residual=True)
        assert_right(plain, result(made, isa, x, residual), x, residual)


@pytest.mark.parametrize("activation", [None, *ACTIVATION_NAMES], ids=str)
@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("form", FORMS)
def test_activations_with_and_without_a_residual(isa, form, batch, activation):
    layer = layer_of(form, 35, 20, activation=activation)
    x, residual = torch.randn(batch, 20), torch.randn(batch, 35)
    assert_right(layer, result(program(layer, P.PLANAR, P.PLANAR), isa, x), x)
    made = program(layer, P.PLANAR, P.PLANAR, residual=True)
    assert_right(layer, result(made, isa, x, residual), x, residual)


@pytest.mark.parametrize("batch", [1, 20])
@pytest.mark.parametrize("form", FORMS)
def test_a_prelu_of_one_slope_is_applied_as_a_leaky_relu_is(isa, form, batch):
    layer = layer_of(form, 35, 20, activation="leaky_relu(0.25)")
    x, residual = torch.randn(batch, 20), torch.randn(batch, 35)
    made = program(layer, P.PLANAR, P.PLANAR, residual=True)
    y = result(with_prelu(made, 0.25), isa, x, residual)
    assert torch.equal(y, result(made, isa, x, residual))


@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("form", FORMS)
def test_values_that_are_parts_of_larger_ones(isa, form, batch):
    layer = layer_of(form, 35, 20)
    x, residual = torch.randn(batch, 20), torch.randn(batch, 35)
    layout = ([P.PLANAR + PART] * 2, [0, 0], P.PLANAR + PART, 0)
    inputs, attributes = [x, residual], layer.attributes(True)
    y = step("linear", inputs, attributes, layer.constants, isa=isa, layout=layout)
    assert_right(layer, y, x, residual)


@pytest.mark.parametrize("size", [(90, 200), (300, 7)])
@pytest.mark.parametrize("form", FORMS)
def test_batches_pieces_and_threads_change_nothing(isa, form, size):
    layer = layer_of(form, size[1], size[0])
    x = torch.randn(70, size[0])
    whole = result(program(layer, P.PLANAR, P.PLANAR), isa, x)
    for piece in (1, 3, 5, 16, 33):
        assert torch.equal(result(program(layer, P.PLANAR, P.PLANAR, piece=piece), isa, x), whole)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert torch.equal(result(program(layer, P.PLANAR, P.PLANAR), isa, x), whole)
            assert torch.equal(result(program(layer, P.PLANAR, P.PLANAR), isa, x[:1]), whole[:1])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_rows_without_weights_give_their_bias(isa, batch):
    for density in (0.0, 0.02):
        layer = layer_of("csr", 20, 9, density=density)
        layer.weight[0] = 0
        x = torch.randn(batch, 9)
        mask = layer.weight != 0
        layer = rows(layer.weight, mask, layer.bias)
        y = result(program(layer, P.PLANAR, P.PLANAR), isa, x)
        assert_right(layer, y, x)
        assert torch.equal(y[:, 0], layer.bias[0].expand(batch))


@pytest.mark.parametrize(
    ("position", "value", "words"),
    [
        (0, 99, "crow_indices must go"),
        (0, None, "crow_indices must be for 4 rows, got 3"),
        (1, 3, "col_indices must be in"),
        (1, -1, "col_indices must be in"),
        (2, None, "values must be"),
        (3, None, "bias must have 4"),
    ],
)
def test_constants_that_lie_are_refused(position, value, words):
    layer = rows(torch.randn(4, 3), torch.ones(4, 3, dtype=torch.bool), torch.randn(4))
    constants = [each.clone() for each in layer.constants]
    if value is None:
        constants[position] = constants[position][:-1]
    else:
        constants[position][-1] = value
    layer.constants = constants
    with pytest.raises(RuntimeError, match=words):
        result(program(layer, P.PLANAR, P.PLANAR), _native.ISAS[-1], torch.randn(1, 3))


@pytest.mark.parametrize("x", [(2, 5), (2, 4, 1, 1)])
def test_inputs_that_do_not_fit_are_refused(x):
    layer = layer_of("dense", 3, 4)
    with pytest.raises(RuntimeError, match=r"x must be \(N, 4\)"):
        result(program(layer, P.PLANAR, P.PLANAR), _native.ISAS[-1], torch.randn(x))


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("value", [-1, 2, 1 << 40, -(1 << 63)])
def test_attributes_that_lie_are_refused(place, value):
    layer = layer_of("dense", 8, 4)
    made = program(layer, P.PLANAR, P.PLANAR)
    step = made.steps[0]
    changed = list(step.attributes)
    if (place, value) == (3, 2):
        value = 7
    changed[place] = value
    steps = (P.Step("linear", step.out, step.inputs, step.constants, tuple(changed)),)
    made = P.Program(1, made.outputs, made.values, steps, made.constants, made.number)
    with pytest.raises(RuntimeError):
        result(made, _native.ISAS[-1], torch.randn(1, 4))
