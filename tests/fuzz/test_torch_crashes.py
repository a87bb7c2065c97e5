"""The cases that the fuzzer leaves to PyTorch are few, and those that are told."""

import random

import pytest

from tests.fuzz import NoCase, operators
from tests.fuzz.torch_crashes import conv2d_dies

# x (2, 2, 2, 1), a kernel of 1x1: found by the fuzzer, in PyTorch 2.13.
FOUND = {
    "layout": "channels_last",
    "size": (2, 1),
    "kernel": (1, 1),
    "stride": (1, 3),
    "padding": (1, 2),
    "dilation": (1, 2),
}


def test_what_was_found_is_left_out():
    assert conv2d_dies(**FOUND)


@pytest.mark.parametrize(
    "change",
    [
        {"layout": "contiguous"},
        {"layout": "strided"},
        {"dilation": (2, 1)},
        {"padding": (1, 3)},  # outputs at -3, 0, 3
        {"stride": (3, 1)},
        {"size": (2, 2)},
        # The same along the rows, with which nothing is wrong.
        {"size": (1, 2), "stride": (3, 1), "padding": (2, 1), "dilation": (2, 1)},
    ],
    ids=str,
)
def test_what_differs_in_one_thing_is_tried(change):
    assert not conv2d_dies(**FOUND | change)


def test_few_cases_are_left_out_and_none_of_our_own_kernels():
    drawn = [operators.draw(random.Random(f"few {seed}")) for seed in range(40000)]
    convolutions = [case for case in drawn if case["kind"] == "conv"]
    described = [case for case in convolutions if conv2d_dies(case["layout"], *geometry(case))]
    left_out = [case for case in described if is_no_case(case)]
    assert 0 < len(left_out) < len(convolutions) / 1000
    ours = [case for case in described if backend_of(case) in operators.ISAS]
    assert ours and not any(case in left_out for case in ours)


def geometry(case):
    return [case[key] for key in ("size", "kernel", "stride", "padding", "dilation")]


def backend_of(case):
    return operators.BACKENDS[case["backend"]][1].name


def is_no_case(case):
    try:
        return operators.check(case) != "right"
    except NoCase:
        return True
