"""Running programs: outputs, pieces, threads, what is kept between calls."""

import threading
from dataclasses import replace

import pytest
import torch

from sparse_ops.ops import _native
from sparse_ops.ops import program as ops
from sparse_ops.program.program import CHANNELS, FUNCTIONS, IMAGES, PLANAR
from tests.program.programs import Builder, run_on
from tests.program.steps import ISAS

NUMBERS = iter(range(5000, 10**6))
RELU = {"function": FUNCTIONS["relu"]}
needs_native = pytest.mark.skipif(_native.BEST is None, reason=str(_native.MISSING))


def kept():
    return torch.ops.sparse_ops.kept_programs()


def network(order=PLANAR, piece=0, number=None, channels=6):
    """Two convolutions with a residual, the last one's weight a constant; any size of image."""
    builder = Builder((1, channels, 8, 8))
    v = builder.convert(0, order, 0 if order == PLANAR else 1)
    first = builder.conv(
        v, torch.randn(20, channels, 3, 3), torch.randn(20), halo=builder.values[v].halo,
        padding_h=1, padding_w=1, activation=1,
    )  # fmt: skip
    second = builder.conv(first, torch.randn(20, 20, 1, 1), None, first)
    v = builder.convert(second, PLANAR) if order != PLANAR else second
    return builder.program(v, number=next(NUMBERS) if number is None else number, piece=piece)


@pytest.mark.parametrize("isa", ISAS)
def test_outputs_may_be_inputs_parts_and_the_same_twice(isa):
    builder = Builder((2, 3, 4, 5), (2, 4))
    a = builder.add("unary", [0], RELU)
    b = builder.add("slice", [0], {"first": 1, "count": 2})
    whole = builder.add("concat", [a, b])
    builder.part(a, whole, 0)
    builder.part(b, whole, 3)
    flat = builder.add("flatten", [whole])
    again = builder.add("flatten", [0])
    program = builder.program(0, whole, a, flat, flat, b, again, 1, number=next(NUMBERS))
    x, z = torch.randn(2, 3, 4, 5), torch.randn(2, 4)
    y = torch.cat([x.relu(), x[:, 1:]], 1)
    expected = [x, y, x.relu(), y.flatten(1), y.flatten(1), x[:, 1:], x.flatten(1), z]
    outputs = run_on(program, [x, z], isa)
    assert all(map(torch.equal, outputs, expected))
    places = [each.untyped_storage().data_ptr() for each in (*outputs, x, z)]
    assert len(set(places)) == len(places), "every output has memory of its own"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("order", [PLANAR, CHANNELS, IMAGES])
def test_pieces_do_not_change_results(order, isa):
    whole = network(order)
    for batch in (1, 15, 33):
        x = torch.randn(batch, 6, 7, 9)
        expected = run_on(whole, [x], isa)[0]
        for piece in (1, 5, 16, 40):
            program = replace(whole, piece=piece, number=next(NUMBERS))
            assert torch.equal(run_on(program, [x], isa)[0], expected), (batch, piece)


@needs_native
def test_describe_says_where_values_lie():
    program = network(CHANNELS, piece=4)
    said = ops.describe(program.encoded(), program.constants, [(10, 6, 8, 8)])
    assert (said.pieces, said.piece, said.last) == (3, 4, 2)
    assert [value.shape for value in said.values][1:4] == [
        (4, 6, 8, 8),
        (4, 20, 8, 8),
        (4, 20, 8, 8),
    ]
    # 6 of 16 channels, a halo of 1, and 4 bytes each.
    assert said.values[1].bytes == 4 * 10 * 10 * 16 * 4
    assert said.values[0].offset == said.values[-1].offset == -1
    assert [value.readers for value in said.values] == [1, 1, 2, 1, 0]
    assert max(v.offset + v.bytes for v in said.values) <= said.arena
    # The first convolution's input is where the second one writes.
    assert said.arena < sum(v.bytes for v in said.values[1:-1])


@needs_native
def test_memory_does_not_grow_with_the_number_of_layers():
    builder = Builder((4, 3, 16, 16))
    v = 0
    for _ in range(40):
        v = builder.add("unary", [v], RELU)
    program = builder.program(v)
    said = ops.describe(program.encoded(), [], [(4, 3, 16, 16)])
    assert said.arena == 2 * 4 * 3 * 16 * 16 * 4


@pytest.mark.parametrize("isa", ISAS)
def test_inputs_of_one_image_are_the_same_for_all(isa):
    builder = Builder((5, 4, 3, 3), (1, 4, 1, 1))
    program = builder.program(builder.add("binary", [0, 1], {"operator": 2}), piece=2)
    x, gate = torch.randn(5, 4, 3, 3), torch.randn(1, 4, 1, 1)
    assert torch.equal(run_on(program, [x, gate], isa)[0], x * gate)


@pytest.mark.parametrize("isa", ISAS)
def test_no_images_are_no_images(isa):
    assert run_on(network(IMAGES), [torch.randn(0, 6, 5, 4)], isa)[0].shape == (0, 20, 5, 4)


@needs_native
@pytest.mark.parametrize("order", [PLANAR, CHANNELS, IMAGES])
def test_many_threads_run_one_program_at_once(order):
    program = network(order, piece=16)
    inputs = [torch.randn(n, 6, 5 + n % 3, 7) for n in (1, 2, 3, 16, 17, 33, 4, 9)]
    expected = [run_on(program, [x], "auto")[0] for x in inputs]
    ops.release(program.number)
    wrong = []

    def work(first):
        for i in range(16):
            n = (first + i) % len(inputs)
            if not torch.equal(run_on(program, [inputs[n]], "auto")[0], expected[n]):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_native
def test_only_so_many_plans_are_kept_and_release_forgets_them():
    program = network(channels=3)
    for size in range(3, 80):
        run_on(program, [torch.randn(1, 3, size, 3)], "auto")
    assert kept() == 64
    ops.release(program.number)
    assert kept() == 0
    run_on(program, [torch.randn(1, 3, 5, 3)], "auto")
    run_on(program, [torch.randn(1, 3, 5, 3)], "auto")
    assert kept() == 1


@pytest.mark.parametrize("isa", ISAS)
def test_weights_that_were_changed_in_place_are_noticed(isa):
    program = network(CHANNELS)
    x = torch.randn(2, 6, 4, 4)
    before = run_on(program, [x], isa)[0]
    for constant in program.constants:
        constant.mul_(0.5)
        after = run_on(program, [x], isa)[0]
        assert torch.equal(after, run_on(replace(program, number=next(NUMBERS)), [x], isa)[0])
        assert not torch.equal(after, before)
        before = after


@needs_native
def test_programs_of_one_number_are_told_apart_by_their_constants():
    first, second = network(number=77), network(number=77)
    x = torch.randn(1, 6, 4, 4)
    alone = [run_on(program, [x], "auto")[0] for program in (first, second)]
    assert not torch.equal(*alone)
    for _ in range(2):
        assert torch.equal(run_on(first, [x], "auto")[0], alone[0])
        assert torch.equal(run_on(second, [x], "auto")[0], alone[1])
    ops.release(77)


@pytest.mark.parametrize("isa", [*ISAS, "reference"])
def test_profile_has_a_time_for_every_step(isa):
    program = network(CHANNELS, piece=2)
    x = [torch.randn(5, 6, 4, 4)]
    times = ops.profile(x, program.encoded(), program.constants, 3, isa)
    assert times.shape == (3, len(program.steps)) and times.dtype == torch.float64
    assert bool((times > 0).all())


def test_what_cannot_run_says_why():
    program = network()
    arguments = (program.encoded(), program.constants)
    with pytest.raises(ValueError, match="unknown backend 'no'; have avx512"):
        ops.run([torch.randn(1, 6, 4, 4)], *arguments, "no")
    if _native.BEST is None:
        return
    for x, words in [
        (torch.randn(1, 6, 4, 4).double(), "float64 on cpu, not float32"),
        (torch.randn(1, 6, 4, 4, requires_grad=True), "wants a gradient"),
        (torch.randn(1, 6, 4), r"input 0 must be \(N, C, H, W\) or \(N, C\)"),
        (torch.randn(1, 7, 4, 4), "7"),
        (torch.randn(1, 6, 0, 4), "out of range"),
    ]:
        with pytest.raises(RuntimeError, match=words):
            ops.run([x], *arguments, _native.BEST)
    with pytest.raises(RuntimeError, match="has 1 inputs, got 2"):
        ops.run([torch.randn(1, 6, 4, 4)] * 2, *arguments, _native.BEST)


def test_the_reference_has_gradients_and_any_float_dtype():
    program = network()
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    program.constants[0].requires_grad_()
    y = ops.run([x], program.encoded(), program.constants)[0]
    y.sum().backward()
    assert y.dtype == torch.float64
    assert x.grad is not None and program.constants[0].grad is not None
