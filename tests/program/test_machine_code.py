"""Convolutions of blocked images whose weights are machine code (csrc/cpu/conv_code.h)."""

import subprocess
import sys

import pytest
import torch

from sparse_ops.ops import _native
from sparse_ops.ops import program as programs
from sparse_ops.program.program import IMAGES
from tests.program.layers import assert_right, program, result, rows

pytestmark = pytest.mark.skipif(
    _native.REFUSES["avx512"] is not None, reason=str(_native.REFUSES["avx512"])
)
ISA = "avx512"


def code(made, *inputs, isa=ISA):
    """How many bytes of it there are."""
    shapes = [x.shape for x in inputs]
    return programs.describe(made.encoded(), made.constants, shapes, isa).code


def masked(shape, kept, classes=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(classes or shape[0], *shape[1:], generator=generator) < kept
    return torch.randn(shape, generator=generator), mask


# (filters, channels, kernel), share kept, image, how. More and fewer filters than a function has;
# lines of one pixel and more; columns near each other and far; steps and holes between them.
CASES = [
    ((64, 24, 3, 3), 0.3, (9, 7), {"padding": (1, 1)}),
    ((28, 40, 3, 3), 0.15, (5, 1), {"padding": (1, 1)}),
    ((29, 300, 1, 1), 0.2, (6, 6), {}),
    ((3, 7, 5, 5), 0.6, (11, 13), {"padding": (2, 2), "stride": (2, 2)}),
    ((30, 64, 3, 3), 0.5, (60, 57), {"padding": (2, 2), "dilation": (2, 2)}),
    ((40, 20, 3, 1), 0.4, (8, 9), {"padding": (1, 0), "stride": (2, 1)}),
]


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: "x".join(map(str, c[0])))
@pytest.mark.parametrize("residual", [False, True])
def test_it_is_right(case, activation, residual):
    shape, kept, image, how = case
    layer = rows(*masked(shape, kept), torch.randn(shape[0]), activation=activation, **how)
    x = torch.randn(19, shape[1], *image)
    halo = max(how.get("padding", (0, 0)))
    made = program(layer, IMAGES, IMAGES, (halo, 1, 2), residual)
    plain = layer.sums(x, layer.weight, None)
    inputs = (x, torch.randn_like(plain)) if residual else (x,)
    assert code(made, *inputs) > 0
    assert_right(layer, result(made, ISA, *inputs), *inputs)


def test_sums_of_thousands_are_in_pieces():
    """As the other kernels' (test_long_sums.py): one after the other they would lose 50 ulp."""
    shape = (30, 1024, 3, 3)
    weight, mask = masked(shape, 0.7)
    # One filter with few weights beside them.
    mask[4, 10:] = False
    layer = rows(weight.abs(), mask, torch.rand(30), padding=(1, 1))
    x = torch.rand(16, 1024, 4, 5)
    made = program(layer, IMAGES, IMAGES, (1, 0, 0))
    assert code(made, x) > 0
    exact = layer.sums(x.double(), layer.weight.double(), layer.bias.double())
    off = (result(made, ISA, x).double() - exact) / exact
    assert float(off.abs().max()) * 2**24 < 14


@pytest.mark.parametrize("activation", [None, "relu6"])
def test_channels_go_in_parts_where_many_are_read(activation):
    """A cell reads 4 MiB here: in parts, with sums in the output between them."""
    weight, mask = masked((60, 700, 3, 3), 0.2)
    # Filters with weights in the first and in the last part only, and without any.
    mask[0, 60:], mask[1, :650], mask[2] = False, False, False
    layer = rows(weight, mask, torch.randn(60), padding=(1, 1), activation=activation)
    x = torch.randn(18, 700, 8, 8)
    for residual in (False, True):
        inputs = (x, torch.randn(18, 60, 8, 8)) if residual else (x,)
        made = program(layer, IMAGES, IMAGES, (1, 1, 1), residual)
        assert code(made, *inputs) > 0
        assert_right(layer, result(made, ISA, *inputs), *inputs)


def test_filters_without_weights_are_their_bias():
    weight, mask = masked((60, 8, 3, 3), 0.4)
    mask[:30] = False
    layer = rows(weight, mask, torch.randn(60), padding=(1, 1))
    x = torch.randn(3, 8, 6, 5)
    made = program(layer, IMAGES, IMAGES, (1, 1, 0))
    assert code(made, x) > 0
    y = result(made, ISA, x)
    assert_right(layer, y, x)
    assert torch.equal(y[:, :30], layer.bias[:30].view(1, -1, 1, 1).expand(3, -1, 6, 5))


def test_groups_read_their_own_channels():
    weight, mask = masked((48, 10, 3, 3), 0.35)
    layer = rows(weight, mask, torch.randn(48), padding=(1, 1), groups=3)
    x = torch.randn(17, 30, 7, 6)
    made = program(layer, IMAGES, IMAGES, (1, 0, 0))
    assert code(made, x) > 0
    assert_right(layer, result(made, ISA, x), x)


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_nan_and_infinities_reach_what_reads_them(activation):
    weight, mask = masked((30, 6, 3, 3), 0.5)
    layer = rows(weight, mask, padding=(1, 1), activation=activation)
    x = torch.randn(16, 6, 5, 5)
    x[0, 0, 0, 0], x[1, 2, 3, 3], x[2, 1, 2, 2] = float("nan"), float("inf"), -float("inf")
    made = program(layer, IMAGES, IMAGES, (1, 0, 0))
    assert code(made, x) > 0
    # Sums of what is kept, and of nothing else.
    windows = torch.nn.functional.unfold(x, 3, padding=1).transpose(0, 1).flatten(1)
    sums = [w[m] @ windows[m] for w, m in zip(weight.flatten(1), mask.flatten(1), strict=True)]
    y = torch.stack(sums).view(30, 16, 5, 5).transpose(0, 1)
    y = y if activation is None else getattr(torch.nn.functional, activation)(y)
    torch.testing.assert_close(result(made, ISA, x), y, equal_nan=True)
    assert y[0].isnan().any() and not y[0].isnan().all()


def test_where_it_would_not_be_faster_there_is_none():
    x = torch.randn(16, 40, 6, 6)
    sparse = rows(*masked((56, 40, 3, 3), 0.01), padding=(1, 1))
    periodic = rows(*masked((56, 40, 3, 3), 0.3, classes=8), padding=(1, 1))
    curved = rows(*masked((56, 40, 3, 3), 0.3), padding=(1, 1), activation="silu")
    for layer in (sparse, periodic, curved):
        made = program(layer, IMAGES, IMAGES, (1, 0, 0))
        assert code(made, x) == 0
        assert_right(layer, result(made, ISA, x), x)
    made = program(rows(*masked((56, 40, 3, 3), 0.3), padding=(1, 1)), IMAGES, IMAGES, (1, 0, 0))
    assert code(made, x) > 0 and code(made, x, isa="scalar") == 0


REFUSED = """
import torch
from sparse_ops.program.program import IMAGES
from tests.program.layers import assert_right, program, result, rows
from tests.program.test_machine_code import code, masked
layer = rows(*masked((40, 16, 3, 3), 0.4), torch.randn(40), padding=(1, 1))
x = torch.randn(5, 16, 6, 7)
made = program(layer, IMAGES, IMAGES, (1, 1, 0))
{before}
assert code(made, x) == 0
assert_right(layer, result(made, "avx512", x), x)
"""
# What a system does that allows no memory to be made executable: prctl(PR_SET_MDWE).
NO_EXECUTION = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0):
    print("no such thing")
    raise SystemExit
"""


@pytest.mark.parametrize("how", ["switched off", "refused by the system"])
def test_without_it_other_kernels_run(how, monkeypatch):
    before = NO_EXECUTION
    if how == "switched off":
        monkeypatch.setenv("SPARSE_OPS_MACHINE_CODE", "0")
        before = ""
    done = subprocess.run(
        [sys.executable, "-c", REFUSED.format(before=before)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if "no such thing" in done.stdout:
        pytest.skip("this kernel does not know PR_SET_MDWE")
