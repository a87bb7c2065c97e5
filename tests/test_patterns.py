"""Patterns: the published masks bit for bit, and recognition."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ops import patterns as P

# (name, (O, I)): kept weights, and the first 12 digits of the SHA-1 of the mask as bytes.
VECTORS = {
    ("PSD2_P8", (4, 4)): (32, "f5f0c0798a00"),
    ("PSD2_P8", (8, 8)): (184, "69f120fb8cfa"),
    ("PSD2_P8", (16, 16)): (736, "3cbaea7b0203"),
    ("PSD2_P8", (5, 7)): (98, "eb910706ffb2"),
    ("PSD2_P8", (64, 64)): (11776, "f4b2b21732db"),
    ("PSD2_P8", (128, 64)): (23552, "fe02904b00ef"),
    ("PSD2_P8", (512, 512)): (753664, "4d27df636747"),
    ("PSD4_P8", (4, 4)): (64, "b39154ba28ea"),
    ("PSD4_P8", (8, 8)): (296, "e7f7912f0cce"),
    ("PSD4_P8", (16, 16)): (1184, "7ebaf58d0c26"),
    ("PSD4_P8", (5, 7)): (160, "7f9cc4232c52"),
    ("PSD4_P8", (64, 64)): (18944, "4c0c3ff68441"),
    ("PSD4_P8", (128, 64)): (37888, "9b0f64558bcf"),
    ("PSD4_P8", (512, 512)): (1212416, "6b23cce205c7"),
    ("PSD4_P16", (4, 4)): (64, "b39154ba28ea"),
    ("PSD4_P16", (8, 8)): (256, "1a21f36577cc"),
    ("PSD4_P16", (16, 16)): (1104, "ae854d71d18f"),
    ("PSD4_P16", (5, 7)): (140, "5f83ee773a35"),
    ("PSD4_P16", (64, 64)): (17664, "3cec04524843"),
    ("PSD4_P16", (128, 64)): (35328, "9179e81b14be"),
    ("PSD4_P16", (512, 512)): (1130496, "e7d7ee733d62"),
    ("PSD2_P16", (16, 16)): (624, "df6d9ce492be"),
    ("PSD2_P16", (64, 64)): (9984, "22bc4e0620a8"),
    ("PSD1_P8", (16, 16)): (512, "ffc3faeb10b0"),
    ("PSD1_P8", (64, 64)): (8192, "fdadaf8d6f9b"),
    ("PSD1_P16", (16, 16)): (384, "e30af10dd14e"),
    ("PSD1_P16", (64, 64)): (6144, "cbefea9c38ea"),
    ("PS4_P4", (64, 64)): (16384, "c0bfeaa8dde2"),
    ("PS2_P6", (64, 64)): (8192, "ded8b6574d8f"),
    ("PS1_P9", (64, 64)): (4096, "ae657b797dc3"),
}


@pytest.mark.parametrize(("name", "size"), VECTORS, ids=lambda v: str(v))
def test_masks_are_those_of_the_paper_bit_for_bit(name, size):
    mask = P.NAMED[name].mask((*size, 3, 3))
    digest = hashlib.sha1(mask.numpy().astype("uint8").tobytes()).hexdigest()
    assert (int(mask.sum()), digest[:12]) == VECTORS[name, size]


def test_the_first_filter_reads_as_published():
    rows = P.PSD2_P8.mask((1, 8, 3, 3)).reshape(8, 9).int().tolist()
    assert ["".join(map(str, row)) for row in rows] == [
        "110000000", "011000000", "000110000", "000011000",
        "000000110", "000000011", "110000000", "111111111",
    ]  # fmt: skip


@pytest.mark.parametrize("name", P.NAMED)
def test_named_patterns_are_recognised(name):
    assert P.Periodic.recognise(P.NAMED[name].mask((32, 48, 3, 3))) == P.NAMED[name]


@st.composite
def patterns(draw):
    size = draw(st.sampled_from([(1, 1), (3, 3), (2, 5)]))
    taps = st.lists(st.integers(0, size[0] * size[1] - 1), max_size=4)
    return P.Periodic(tuple(map(tuple, draw(st.lists(taps, min_size=1, max_size=6)))), size)


@settings(max_examples=60, deadline=None)
@given(patterns(), st.integers(1, 14), st.integers(1, 14))
def test_what_is_recognised_gives_exactly_the_mask(pattern, O, I):
    mask = pattern.mask((O, I, *pattern.kernel_size))
    found = P.Periodic.recognise(mask)
    if max(O, I) >= pattern.period:
        assert found is not None and found.period <= pattern.period
    if found is not None:
        assert torch.equal(found.mask(tuple(mask.shape)), mask)


def test_one_weight_off_is_no_longer_periodic():
    mask = P.PSD2_P8.mask((16, 16, 3, 3))
    for o, i in ((0, 0), (7, 9), (15, 15)):
        changed = mask.clone()
        changed[o, i, 2, 2] ^= True
        found = P.Periodic.recognise(changed)
        assert found is None or torch.equal(found.mask((16, 16, 3, 3)), changed)
        if 0 < o < 15:
            assert found is None


def test_masks_of_other_dimensions_are_not_periodic():
    assert P.Periodic.recognise(torch.ones(4, 4).bool()) is None
    assert P.Periodic.recognise(torch.ones(0, 4, 3, 3).bool()) is None


def test_user_supports_for_any_kernel_size():
    pattern = P.Periodic.cycle([range(13), range(12, 25)], dense=True, kernel_size=(5, 5))
    assert pattern.period == 3
    assert P.Periodic.recognise(pattern.mask((9, 9, 5, 5))) == pattern


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: P.Periodic(()), "at least one support"),
        (lambda: P.Periodic(((9,),)), r"taps must be in \[0, 9\), got \(9,\)"),
        (lambda: P.Periodic(((-1,),)), r"taps must be in \[0, 9\)"),
        (lambda: P.Periodic(((0,),), (3,)), "kernel_size must be two numbers"),
        (lambda: P.Periodic.cycle([(0, 1)]), r"taps \[2, 3, 4, 5, 6, 7, 8\] are kept by no kernel"),
        (lambda: P.Periodic.cycle([(0,)], 1, dense=True), "leaves no room"),
        (lambda: P.PSD2_P8.mask((4, 4, 5, 5)), r"shape must be \(O, I, 3, 3\), got \(4, 4, 5, 5\)"),
        (lambda: P.Channels((1, 0), ()), "must be ascending"),
        (lambda: P.Channels((4,), (0,)).mask((4, 4, 3, 3)), "channel 4 is kept"),
    ],
)
def test_bad_patterns_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_channels_are_recognised_and_nothing_else_is():
    pattern = P.Channels((0, 2, 3), (1, 4))
    mask = pattern.mask((5, 6, 3, 3))
    assert P.Channels.recognise(mask) == pattern
    assert P.Channels.recognise(pattern.mask((5, 6))) == pattern
    mask[0, 1, 0, 0] = False
    assert P.Channels.recognise(mask) is None
    assert P.Channels.recognise(torch.ones(3, 3, 3, 3).bool()) is None
