"""Programs as int64 tensors: there and back, and what is said of damaged ones."""

import pytest
import torch

from sparse_ops.ops import _native
from sparse_ops.ops import program as ops
from sparse_ops.program.program import CHANNELS, FUNCTIONS, HEADER, IMAGES, PLANAR, Value, decoded
from tests.program.programs import Builder
from tests.program.random_programs import random_program

needs_native = pytest.mark.skipif(_native.BEST is None, reason=str(_native.MISSING))
RELU = {"function": FUNCTIONS["relu"]}


def test_what_is_decoded_is_what_was_encoded():
    for seed in range(30):
        program, _ = random_program(seed)
        names = [step.name for step in program.steps]
        again = decoded(program.encoded(), program.constants, names)
        assert vars(again) == vars(program)


def example():
    """Two halves of an image, one of them concatenated in place: values 1 to 4 after the input."""
    builder = Builder((1, 32, 4, 4))
    turned = builder.convert(0, CHANNELS, 1)
    half = builder.add("slice", [turned], {"first": 0, "count": 16}, halo=1)
    whole = builder.add("concat", [half, turned], halo=1)
    builder.part(half, whole, 0)
    return builder, builder.convert(whole, PLANAR)


def described(builder, *outputs, piece=0):
    program = builder.program(*outputs, piece=piece)
    return ops.describe(program.encoded(), program.constants, builder.shapes[: builder.inputs])


@needs_native
def test_the_example_is_one():
    builder, last = example()
    assert len(described(builder, last).values) == 5


@needs_native
@pytest.mark.parametrize(
    "v, value, words",
    [
        (0, Value(CHANNELS), "value 0 is an input: it must be planar"),
        (1, Value(3), "value 1 has the order 3"),
        (1, Value(CHANNELS, 65), "a halo of 65; it must be 0 to 64"),
        (4, Value(PLANAR, 1), "0 in planar order"),
        (1, Value(CHANNELS, 1, 9, 0), "channels 0 on of value 9; there are 5 values"),
        (1, Value(CHANNELS, 1, 4, 0), "a part of value 4, which must be the concatenation"),
        (2, Value(CHANNELS, 2, 3, 0), "must have the order and the halo of value 3"),
        (2, Value(CHANNELS, 1, 3, 8), "must begin at a multiple of 16 channels, got 8"),
        (2, Value(CHANNELS, 1, 3, 16), "must begin at channel 0 of value 3, got 16"),
        (3, Value(CHANNELS, 1, 2, 0), "a part of value"),
        (2, Value(CHANNELS, 1, -1, 0), "both are -1 in one that is no part"),
        (4, Value(IMAGES), "output 0, value 4, must be planar"),
    ],
)
def test_a_value_that_cannot_be_is_refused(v, value, words):
    builder, last = example()
    builder.values[v] = value
    with pytest.raises(RuntimeError, match=words):
        described(builder, last)


def with_step(**changes):
    """The example, its second step (of three values before it) changed."""

    def change(builder):
        step = builder.steps[1]
        builder.steps[1] = type(step)(**{**vars(step), **changes})

    return change


@needs_native
@pytest.mark.parametrize(
    "change, words",
    [
        (with_step(inputs=(2,)), r"step 1 \(slice\) reads value 2, which no step before it"),
        (with_step(inputs=(-1,)), "reads value -1"),
        (with_step(inputs=(1, 1)), r"step 1 \(slice\) must read 1, got 2"),
        (with_step(inputs=()), "must read 1, got 0"),
        (with_step(out=1), "writes value 1, which must be one that is no input and written once"),
        (with_step(out=0), "writes value 0"),
        (with_step(out=99), "writes value 99"),
        (with_step(constants=(0,)), r"step 1 \(slice\) must have 0 constants, got 1"),
        (with_step(attributes=(0,)), "must have 2 attributes, got 1"),
        (with_step(kind="affine", attributes=(0,), constants=(0, 5)), "has constant 0 of 0"),
        (with_step(kind="affine", attributes=(0,), constants=(-2, -1)), "has constant -2 of 0"),
        (lambda builder: builder.steps.pop(), "a step for each value that is no input"),
    ],
)
def test_a_step_that_cannot_be_is_refused(change, words):
    builder, last = example()
    change(builder)
    with pytest.raises(RuntimeError, match=words):
        described(builder, last)


def set_number(at, number):
    def change(numbers):
        numbers[at] = number

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (set_number(0, 1), "this is no program: it begins with other numbers"),
        (set_number(1, 2), "the program is of version 2; this library reads 1"),
        (set_number(8, 5), "the program says it has 5 numbers, it has"),
        (list.pop, "the program says it has"),
    ],
)
def test_what_is_no_program_is_refused_by_both(change, words):
    builder, last = example()
    numbers = builder.program(last).encoded().tolist()
    change(numbers)
    encoded = torch.tensor(numbers)
    with pytest.raises(ValueError, match=words):
        decoded(encoded, [])
    if _native.BEST is not None:
        with pytest.raises(RuntimeError, match=words):
            ops.run([torch.randn(1, 32, 4, 4)], encoded, [], _native.BEST)


@pytest.mark.parametrize("length", range(HEADER, 57, 4))
def test_a_program_that_ends_too_early_is_refused_by_both(length):
    builder, last = example()
    numbers = builder.program(last).encoded().tolist()[:length]
    numbers[HEADER - 1] = length
    encoded = torch.tensor(numbers)
    with pytest.raises(ValueError, match=r"ends too early|is damaged|as of kind"):
        decoded(encoded, [])
    if _native.BEST is not None:
        with pytest.raises(RuntimeError, match=r"ends too early|is damaged"):
            ops.run([torch.randn(1, 32, 4, 4)], encoded, [], _native.BEST)


@needs_native
def test_outputs_inputs_and_pieces_are_counted():
    builder, last = example()
    with pytest.raises(RuntimeError, match="output 99 is none of 5 values"):
        described(builder, 99)
    with pytest.raises(RuntimeError, match="got 1 inputs, 0 outputs"):
        described(builder)
    with pytest.raises(RuntimeError, match="a piece of -1 images is out of range"):
        described(builder, last, piece=-1)
    program = builder.program(last)
    with pytest.raises(RuntimeError, match="input 0 must be"):
        ops.run([torch.randn(1, 32, 4)], program.encoded(), [], _native.BEST)
    with pytest.raises(RuntimeError, match="must be int64 of 9 or more numbers"):
        ops.run([torch.randn(1, 32, 4, 4)], program.encoded().int(), [], _native.BEST)
    two = Builder((2, 3, 4, 4), (3, 3, 4, 4))
    program = two.program(two.add("binary", [0, 1]))
    with pytest.raises(RuntimeError, match="input 0 has 2 images, others have 3"):
        ops.run([torch.randn(s) for s in two.shapes[:2]], program.encoded(), [], _native.BEST)
