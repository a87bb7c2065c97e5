"""Whole programs of all kinds of steps, put together at random, against the reference."""

import pytest
import torch

from tests.program.programs import assert_steps_right, run_on
from tests.program.random_programs import random_program
from tests.program.steps import ISAS


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("seed", range(40))
def test_every_step_of_a_random_program_is_right(seed, isa):
    program, inputs = random_program(seed)
    assert_steps_right(program, inputs, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_results_are_the_same_for_any_number_of_threads(isa):
    before = torch.get_num_threads()
    for seed in range(100, 110):
        program, inputs = random_program(seed)
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            try:
                results.append(run_on(program, inputs, isa))
            finally:
                torch.set_num_threads(before)
        for other in results[1:]:
            assert all(map(torch.equal, results[0], other)), seed
