"""Images in blocks: the way there and back, pooling, and what the compiled operators refuse."""

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.ops import _native, blocked

pytestmark = [
    pytest.mark.skipif(_native.MISSING is not None, reason=str(_native.MISSING)),
    pytest.mark.usefixtures("poisoned"),
]

ISAS = [isa for isa in _native.ISAS if _native.REFUSES[isa] is None]
LAYOUTS = {"planar": torch.contiguous_format, "last": torch.channels_last}
SIZES = [(1, 1, 1, 1), (16, 16, 8, 8), (19, 6, 9, 7), (33, 35, 3, 20), (8, 17, 1, 33), (0, 3, 4, 4)]


@pytest.fixture(params=ISAS)
def isa(request):
    return request.param


def operator(name, isa):
    return getattr(torch.ops.sparse_ops, f"{name}_{isa}")


def defined(x, halo):
    """x blocked, by the definition."""
    N, C, H, W = x.shape
    y = torch.zeros(-(-N // 16), C, H + 2 * halo, W + 2 * halo, 16)
    for n in range(N):
        y[n // 16, :, halo : halo + H, halo : halo + W, n % 16] = x[n]
    return y


@pytest.mark.parametrize("halo", [0, 1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_there_and_back(isa, size, layout, halo):
    x = torch.randn(size).contiguous(memory_format=LAYOUTS[layout])
    y = operator("to_blocked", isa)(x, halo)
    assert torch.equal(y, defined(x, halo))
    for last in (False, True):
        back = operator("from_blocked", isa)(y, halo, size[0], last)
        assert torch.equal(back, x)
        kept = torch.channels_last if last else torch.contiguous_format
        assert back.is_contiguous(memory_format=kept)


def test_any_strides(isa):
    x = torch.randn(7, 9, 5, 40)[:, ::2, :, 3:].transpose(2, 3)
    assert torch.equal(operator("to_blocked", isa)(x, 1), defined(x, 1))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((2, 2), (2, 2), (0, 0)),
        ((3, 3), (2, 2), (1, 1)),
        ((3, 2), (1, 3), (1, 0)),
        ((5, 7), (5, 7), (2, 3)),
    ],
)
@pytest.mark.parametrize("size", [(16, 4, 9, 7), (5, 3, 8, 12)], ids=str)
def test_max_pool2d(isa, size, kernel, stride, padding):
    x = torch.randn(size)
    x[0, 0, 0, 0] = float("nan")
    x[1] = -float("inf")
    y = operator("blocked_pool2d", isa)(defined(x, 2), True, kernel, stride, padding, 2, 1)
    expected = F.max_pool2d(x, kernel, stride, padding)
    real = y[:, :, 1:-1, 1:-1].permute(0, 4, 1, 2, 3).flatten(0, 1)[: size[0]]
    assert torch.equal(real.nan_to_num(7e7), expected.nan_to_num(7e7))
    assert bool((y[:, :, [0, -1]] == 0).all()) and bool((y[:, :, :, [0, -1]] == 0).all())


@pytest.mark.parametrize(
    ("kernel", "stride"), [((2, 2), (2, 2)), ((3, 5), (1, 2)), ((8, 12), (1, 1))]
)
def test_avg_pool2d(isa, kernel, stride):
    x = torch.randn(5, 3, 8, 12)
    y = operator("blocked_pool2d", isa)(defined(x, 1), False, kernel, stride, (0, 0), 1, 0)
    real = y.permute(0, 4, 1, 2, 3).flatten(0, 1)[:5]
    torch.testing.assert_close(real, F.avg_pool2d(x, kernel, stride), rtol=1e-6, atol=1e-6)


def test_pooling_of_what_is_not_blocked_is_torchs():
    x = torch.randn(3, 4, 8, 8)
    whole = blocked.max_pool2d(x, (2, 2), (2, 2), (0, 0), 1, 1)
    assert torch.equal(whole, F.max_pool2d(x, 2))
    assert torch.equal(blocked.avg_pool2d(x, (4, 2), (4, 2), 1, 1), F.avg_pool2d(x, (4, 2)))


def test_enter_leaves_alone_what_it_should():
    x = torch.randn(16, 3, 4, 4)
    with torch.no_grad():
        assert blocked.enter(x, 1).dim() == 5
        assert blocked.leave(blocked.enter(x, 1), 1, x).equal(x)
        assert blocked.enter(x.half(), 1).dim() == 4
        assert blocked.enter(x[:10], 1).dim() == 4
        assert blocked.enter(x[:10], 1, room=1.6).dim() == 5
        assert blocked.enter(x[0], 1).dim() == 3
    assert blocked.enter(x, 1) is x
    last = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert blocked.leave(blocked.enter(last, 2), 2, last).is_contiguous(
            memory_format=torch.channels_last
        )


def i32(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


def good():
    """Two channels of 3 × 4 pixels with a halo of 1; a pair of filters, and one alone."""
    return {
        "x": torch.randn(1, 2, 5, 6, 16),
        "starts": i32(0, 2, 3),
        "rows": i32(2, 1),
        "filters": i32(2, 0, 1),
        "offsets": i32(0, 16, 480, *[0] * 8),
        "values": torch.randn(5),
        "bias": torch.randn(3),
        "residual": torch.randn(1, 3, 7, 7, 16),
        "out_size": [5, 5],
        "stride": [1, 1],
        "out_halo": 2,
        "residual_halo": 1,
        "activation": 0,
    }


def test_the_definition(isa):
    a = good()
    y = operator("blocked_conv2d", isa)(*a.values())
    flat, steps = a["x"].flatten(), torch.arange(16)
    for row, column in ((0, 0), (4, 4), (2, 3)):
        at = (row * 6 + column) * 16 + steps
        left = a["residual"][0, :, row + 1, column + 1]
        expected = [
            a["values"][1] * flat[at] + a["values"][3] * flat[at + 16],
            a["values"][4] * flat[at + 480],
            a["values"][0] * flat[at] + a["values"][2] * flat[at + 16],
        ]
        for f in range(3):
            found = y[0, f, row + 2, column + 2]
            torch.testing.assert_close(found, expected[f] + a["bias"][f] + left[f])
    assert float(y[0, :, :2].abs().sum() + y[0, :, :, 7:].abs().sum()) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.randn(1, 2, 5, 6, 8)}, "x must be"),
        ({"x": torch.randn(2, 5, 6, 16)}, "x must be"),
        ({"x": torch.randn(1, 2, 5, 6, 16).double()}, "x must be float32"),
        ({"offsets": i32(0, 16, 497, *[0] * 8)}, r"offsets must be in \[0, 497\)"),
        ({"offsets": i32(0, -1, 0, *[0] * 8)}, r"offsets must be in"),
        ({"offsets": i32(0, 16, 0, *[0] * 7, 10**6)}, r"offsets must be in"),
        ({"offsets": i32(0, 1)}, "offsets must end with 8"),
        ({"offsets": i32(*[0] * 12)}, "starts must go from 0 to 4"),
        ({"starts": i32(0, 4, 3)}, "starts must go from 0 to 3 and never fall"),
        ({"starts": i32(0, 3)}, "starts must have one more than rows"),
        ({"rows": i32(2, 2)}, "rows must add up to the filters"),
        ({"rows": i32(3, 0)}, "rows must be 1 to"),
        ({"rows": i32(-1, 4)}, "rows must be 1 to"),
        ({"rows": i32(16, 1)}, "rows must be 1 to"),
        ({"filters": i32(2, 0, 0)}, r"filters must be each number in \[0, 3\) once"),
        ({"filters": i32(2, 0, 3)}, r"filters must be each number in \[0, 3\) once"),
        ({"filters": i32(2, 0, -1)}, r"filters must be each number in \[0, 3\) once"),
        ({"values": torch.randn(6)}, r"values must be \(5\), got 6"),
        ({"bias": torch.randn(2)}, "bias must have 3 values"),
        ({"residual": torch.randn(1, 3, 6, 7, 16)}, "residual must be 1 blocks of 3 x 5 x 5"),
        ({"residual_halo": -1}, "halo of -1"),
        ({"residual_halo": 4}, "residual must be"),
        ({"out_halo": -2}, "halo of -2"),
        ({"out_halo": 2**40}, "out of range"),
        ({"out_halo": 2**24}, "must be under 2"),
        ({"out_size": [6, 5]}, "needs a larger x"),
        ({"out_size": [5, 7]}, "needs a larger x"),
        ({"out_size": [5, 0]}, "2 output sizes"),
        ({"out_size": [2**62, 5]}, "needs a larger x"),
        ({"stride": [1, 3]}, "the one along lines is 1 or 2"),
        ({"stride": [0, 1]}, "2 strides"),
        ({"stride": [2, 1]}, "needs a larger x"),
        ({"stride": [1]}, "2 strides"),
        ({"activation": 99}, "no activation has the number 99"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_convolution_refuses(isa, change, words):
    with pytest.raises(RuntimeError, match=words):
        operator("blocked_conv2d", isa)(*(good() | change).values())


def test_eight_rows_are_for_those_who_have_the_registers(isa):
    change = {
        "starts": i32(0, 1),
        "rows": i32(8),
        "filters": i32(*range(8)),
        "offsets": i32(*[0] * 9),
        "values": torch.randn(8),
        "bias": None,
        "residual": None,
    }
    arguments = (good() | change).values()
    if isa == "avx512":
        assert operator("blocked_conv2d", isa)(*arguments).shape == (1, 8, 9, 9, 16)
    else:
        with pytest.raises(RuntimeError, match="rows must be 1 to 4, got 8"):
            operator("blocked_conv2d", isa)(*arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.randn(2, 5, 6, 16)}, "x must be"),
        ({"halo": 3}, "x must be"),
        ({"halo": -1}, "halo of -1"),
        ({"kernel": [9, 1]}, "too small"),
        ({"kernel": [0, 1]}, "out of range"),
        ({"stride": [1, 0]}, "out of range"),
        ({"padding": [2, 0]}, "out of range"),
        ({"padding": [-1, 0]}, "out of range"),
        ({"most": False, "padding": [1, 0]}, "out of range"),
        ({"kernel": [2]}, "2 kernel sizes"),
        ({"out_halo": 2**40}, "out of range"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_pooling_refuses(isa, change, words):
    arguments = {
        "x": torch.randn(1, 2, 5, 6, 16),
        "most": True,
        "kernel": [2, 2],
        "stride": [2, 2],
        "padding": [1, 0],
        "halo": 1,
        "out_halo": 0,
    }
    operator("blocked_pool2d", isa)(*arguments.values())
    with pytest.raises(RuntimeError, match=words):
        operator("blocked_pool2d", isa)(*(arguments | change).values())


def test_the_way_there_and_back_refuses(isa):
    there, back = operator("to_blocked", isa), operator("from_blocked", isa)
    for x, halo in ((torch.randn(2, 3, 4), 0), (torch.randn(2, 3, 4, 4).half(), 0)):
        with pytest.raises(RuntimeError, match="x must be"):
            there(x, halo)
    with pytest.raises(RuntimeError, match="halo of -1"):
        there(torch.randn(2, 3, 4, 4), -1)
    with pytest.raises(RuntimeError, match="under 2"):
        there(torch.randn(2, 3, 4, 4), 2**20)
    y = torch.randn(2, 3, 4, 4, 16)
    for batch in (16, 33, -1):
        with pytest.raises(RuntimeError, match=f"not those of {batch} images"):
            back(y, 0, batch, False)
    with pytest.raises(RuntimeError, match="have pixels"):
        back(y, 2, 32, False)
