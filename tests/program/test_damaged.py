"""Programs with other numbers in them: refused in words, or run; nothing else."""

import random

import pytest
import torch

from sparse_ops.ops import _native
from sparse_ops.ops.program import describe, release, run
from sparse_ops.program.program import HEADER, decoded
from sparse_ops.program.validate import validate
from tests.program.random_programs import random_program

pytestmark = pytest.mark.skipif(_native.MISSING is not None, reason=str(_native.MISSING))
# More than the random programs need, and nothing that a test should fill.
MOST_BYTES = 2**24
OTHERS = (-1, 0, 1, 2, 3, 5, 16, 64, 2**24, 2**31, 2**62, -(2**63))


def changed(code, chance):
    """A program with some numbers that are others, or cut off."""
    code = code.clone()
    for _ in range(chance.choice((1, 1, 2, 3))):
        other = int(code[chance.randrange(HEADER, len(code))])
        code[chance.randrange(3, len(code))] = chance.choice((*OTHERS, other, other + 1, other - 1))
    if chance.random() < 0.1:
        code = code[: chance.randrange(len(code))].clone()
        if chance.random() < 0.5 and len(code) >= HEADER:
            code[HEADER - 1] = len(code)
    return code


def runs(inputs, code, constants):
    """Whether the compiled code runs a program; it may refuse it in words."""
    try:
        about = describe(code, constants, [x.shape for x in inputs])
        if about.arena + sum(value.bytes for value in about.values) < MOST_BYTES:
            run(inputs, code, constants, _native.BEST)
        return True
    except RuntimeError as error:
        assert len(str(error)) > 10
        return False
    finally:
        if len(code) > 2:
            release(int(code[2]))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_accepted_in_python_runs(seed):
    program, inputs = random_program(seed + 500)
    chance, shapes = random.Random(seed), [x.shape for x in inputs]
    code = program.encoded()
    refused = ran = 0
    for _ in range(100):
        other = changed(code, chance)
        try:
            validate(decoded(other, program.constants), shapes)
        except ValueError as error:
            assert len(str(error)) > 10
            refused += 1
            continue
        assert runs(inputs, other, program.constants)
        ran += 1
    assert refused > 50 and ran


@pytest.mark.parametrize("seed", range(20))
def test_the_compiled_code_asks_for_itself(seed):
    program, inputs = random_program(seed + 700)
    chance, code = random.Random(seed), program.encoded()
    ran = sum(runs(inputs, changed(code, chance), program.constants) for _ in range(100))
    assert 0 < ran < 50


@pytest.mark.parametrize("seed", range(10))
def test_constants_that_do_not_fit_are_refused_by_both(seed):
    program, inputs = random_program(seed + 900)
    code, shapes = program.encoded(), [x.shape for x in inputs]
    used = {c for step in program.steps for c in step.constants if c != -1}
    for number in used:
        for change in (lambda t: t[:-1], lambda t: t.double(), lambda t: t.new_zeros(0)):
            constants = [*program.constants]
            constants[number] = change(constants[number]).contiguous()
            if constants[number].shape == program.constants[number].shape == (0,):
                continue
            before, after = program.constants[number], constants[number]
            if after.dtype == torch.int32 and len(after) and before[-1] == after[-1]:
                # Pointers without a last class that has no weights may be right, too.
                continue
            with pytest.raises(ValueError):
                validate(decoded(code, constants), shapes)
            assert not runs(inputs, code, constants)


def test_indices_out_of_range_are_refused_by_both():
    for seed in range(30):
        program, inputs = random_program(seed)
        for number, constant in enumerate(program.constants):
            if constant.dtype != torch.int32 or not constant.numel():
                continue
            for value in (-1, 2**31 - 1):
                constants = [*program.constants]
                constants[number] = constant.clone()
                constants[number][-1] = value
                with pytest.raises(ValueError, match=r"indices"):
                    validate(decoded(program.encoded(), constants), [x.shape for x in inputs])
                assert not runs(inputs, program.encoded(), constants)
