"""A program that has run is run again by its number alone."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from sparse_ops.ops import _native
from sparse_ops.ops.program import release, run
from tests.program.random_programs import random_program

pytestmark = pytest.mark.skipif(_native.BEST is None, reason=str(_native.MISSING))


def again(inputs, number):
    return _native.compiled_operators("rerun_program")["auto"](inputs, number)


@pytest.mark.parametrize("seed", range(5))
def test_it_gives_what_it_gave_until_it_is_forgotten(seed):
    program, inputs = random_program(seed)
    code = program.encoded()
    number = program.number
    # Its number follows from what it is: another test may have run the same program.
    release(number)
    assert again(inputs, number) == []
    expected = run(inputs, code, program.constants, _native.BEST)
    found = again(inputs, number)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs) and ours.data_ptr() != theirs.data_ptr()
    larger = [torch.cat([x, x]) if len(x) > 1 else x for x in inputs]
    if any(x.shape != y.shape for x, y in zip(larger, inputs, strict=True)):
        assert again(larger, number) == []
    release(number)
    assert again(inputs, number) == []


def test_of_two_programs_with_one_number_none_is_meant():
    one, inputs = random_program(1)
    code = one.encoded()
    run(inputs, code, one.constants, _native.BEST)
    changed = [c.clone() for c in one.constants]
    run(inputs, code, changed, _native.BEST)
    assert again(inputs, one.number) == []
    release(one.number)


def test_what_is_no_input_is_refused():
    with pytest.raises(RuntimeError, match="no tensor arguments"):
        again([], 1)
    with pytest.raises(RuntimeError, match="must be"):
        again([torch.zeros(2, 3, 4)], 1)


def test_what_is_forgotten_meanwhile_is_not_traced():
    def forgets(x):
        release(1)
        return x + 1

    traced = make_fx(forgets)(torch.zeros(2))
    assert not [n for n in traced.graph.nodes if "release" in str(n.target)]
