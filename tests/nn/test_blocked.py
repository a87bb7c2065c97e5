"""Sparse convolutions on images in blocks."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparse_ops.nn import ChannelPrunedConv2d, CSRConv2d, PeriodicConv2d, _blocked
from sparse_ops.ops import _native
from sparse_ops.ops._blocked_program import program
from sparse_ops.ops.blocked import from_blocked, to_blocked
from tests.activations import ACTIVATION_NAMES
from tests.cases import CONV, CONV_LARGE, ConvCase
from tests.covering import pairwise
from tests.ops.test_conv2d import SLOPE, exact, problem, terms
from tests.rounding import assert_within_rounding

pytestmark = pytest.mark.usefixtures("poisoned")

LAYERS = {"periodic": PeriodicConv2d, "csr": CSRConv2d, "channel_pruned": ChannelPrunedConv2d}
ISAS = [isa for isa in _native.ISAS if _native.REFUSES[isa] is None]
WITHOUT = "without the compiled part"
# Beside the operators' cases: every tile, lines cut into cells, several blocks.
CASES = [
    *(case for case in CONV if case.stride[1] <= 2),
    *CONV_LARGE,
    ConvCase(16, 9, 10, (6, 23)),
    *(ConvCase(16, 8, 8 * rows, (5, 6)) for rows in (2, 3, 5, 6, 7)),
    ConvCase(16, 260, 24, (3, 56)),
    ConvCase(33, 130, 9, (5, 32), stride=(2, 2)),
    ConvCase(16, 3, 12, (14, 28), stride=(1, 2)),
]


BACKENDS = [*ISAS, WITHOUT]


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    """One of `BACKENDS`; also where a test is parametrized by it."""
    if request.param == WITHOUT:
        monkeypatch.setattr(_blocked, "OPERATORS", {})
        return "auto"
    return request.param


def layer_of(name, case, backend, activation=None, sparsity=0.8):
    if name == "channel_pruned" and case.groups > 1:
        pytest.skip("channels are not removed in groups")
    x, weight, bias = problem(name, case, sparsity=sparsity)
    like = nn.Conv2d(case.channels, case.filters, case.kernel, *case.geometry)
    layer = LAYERS[name].from_packed(weight, bias, like, activation=activation, backend=backend)
    return layer.requires_grad_(False), x, weight, bias


@pytest.mark.parametrize(
    ("case", "backend", "name"),
    pairwise(CASES, BACKENDS, LAYERS),
    ids=str,
    indirect=["backend"],
)
def test_exact_up_to_rounding_with_zeros_around(name, case, backend):
    layer, x, weight, bias = layer_of(name, case, backend, "relu")
    y, magnitude = exact(x, weight, bias, case)
    residual = torch.randn(y.shape)
    halo = max(case.padding) + 1
    blocks = layer(to_blocked(x, halo), to_blocked(residual, 2), halos=(halo, 1, 2))
    found = from_blocked(blocks, 1, case.batch)
    bound = magnitude + residual.abs().double()
    assert_within_rounding(found, F.relu(y + residual.double()), bound, terms(case) + 1)
    assert not bool(blocks[:, :, [0, -1]].any()) and not bool(blocks[:, :, :, [0, -1]].any())


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.6, 0.95])
def test_any_sparsity(sparsity, backend):
    case = ConvCase(16, 12, 37, (9, 10))
    layer, x, weight, bias = layer_of("csr", case, backend, sparsity=sparsity)
    found = from_blocked(layer(to_blocked(x, 1), halos=(1, 0, 0)), 0, 16)
    assert_within_rounding(found, *exact(x, weight, bias, case), terms(case))


@pytest.mark.parametrize(
    ("activation", "backend", "name"),
    pairwise(ACTIVATION_NAMES, BACKENDS, ["periodic", "csr"]),
    ids=str,
    indirect=["backend"],
)
def test_activations(name, activation, backend):
    case = ConvCase(17, 6, 21, (5, 9))
    layer, x, weight, bias = layer_of(name, case, backend, activation)
    y, magnitude = exact(x, weight, bias, case, activation)
    found = from_blocked(layer(to_blocked(x, 1), halos=(1, 3, 0)), 3, 17)
    assert_within_rounding(found, y, magnitude, terms(case) + 8, SLOPE)


@pytest.mark.parametrize("name", LAYERS)
def test_threads_give_the_same_bits(name):
    before, results = torch.get_num_threads(), []
    layer, x, _, _ = layer_of(name, ConvCase(20, 40, 48, (12, 12)), "auto")
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(layer(to_blocked(x, 1), halos=(1, 1, 0)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_changes_of_the_layer_are_seen():
    case = ConvCase(16, 5, 6, (7, 7))
    layer, x, _, _ = layer_of("csr", case, "auto")

    def same():
        found = from_blocked(layer(to_blocked(x, 1), halos=(1, 0, 0)), 0, 16)
        torch.testing.assert_close(found, layer(x), rtol=1e-4, atol=1e-5)

    same()
    layer.values.mul_(-2)
    same()
    other = copy.deepcopy(layer)
    other.values.normal_()
    layer.load_state_dict(other.state_dict())
    same()
    layer.values = nn.Parameter(torch.randn_like(layer.values), requires_grad=False)
    same()
    x = torch.randn(16, 5, 4, 11)
    same()
    layer.bias.add_(1)
    same()
    with torch.inference_mode():
        layer.values = nn.Parameter(torch.randn(layer.nnz), requires_grad=False)
        same()
        layer.values.mul_(3)
        same()


def test_copies_and_pickles_begin_without_what_is_kept():
    layer, x, _, _ = layer_of("csr", ConvCase(16, 5, 6, (7, 7)), "auto")
    y = layer(to_blocked(x, 1), halos=(1, 0, 0))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.blocked_weight is not layer.blocked_weight
        assert other.blocked_weight._known is None
        assert torch.equal(other(to_blocked(x, 1), halos=(1, 0, 0)), y)


def test_threads_may_call_at_once():
    layer, x, _, _ = layer_of("csr", ConvCase(16, 5, 6, (7, 7)), "auto")
    sizes = [x, x[:, :, :5], x[..., :4], torch.randn(16, 5, 9, 3)] * 4

    def run(images):
        return from_blocked(layer(to_blocked(images, 1), halos=(1, 0, 0)), 0, 16)

    with ThreadPoolExecutor(4) as pool:
        for images, found in zip(sizes, pool.map(run, sizes), strict=True):
            torch.testing.assert_close(found, layer(images), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not ISAS, reason=str(_native.MISSING))
def test_bad_input():
    layer, x, _, _ = layer_of("csr", ConvCase(16, 5, 6, (7, 7)), "auto")
    with pytest.raises(ValueError, match=r"a halo of the padding \(1, 1\) or more, got 0"):
        layer(to_blocked(x, 0), halos=(0, 0, 0))
    with pytest.raises(ValueError, match="x must have 5 channels"):
        layer(to_blocked(x[:, :4], 1), halos=(1, 0, 0))
    with pytest.raises(RuntimeError, match="residual must be"):
        layer(to_blocked(x, 1), to_blocked(x, 1), halos=(1, 0, 1))


def test_what_refuses():
    mask = torch.ones(4, 4, 3, 3, dtype=torch.bool)
    assert CSRConv2d(4, 4, 3, mask=mask).refuses_blocked() is None
    assert "stride" in CSRConv2d(4, 4, 3, stride=3, mask=mask).refuses_blocked()
    assert (
        "reflect"
        in CSRConv2d(4, 4, 3, padding=1, padding_mode="reflect", mask=mask).refuses_blocked()
    )
    assert "float16" in CSRConv2d(4, 4, 3, mask=mask).half().refuses_blocked()


def test_filters_of_equal_support_are_together():
    # PSD2_P8 of 32 filters: eight classes of four.
    layer, *_ = layer_of("periodic", ConvCase(1, 8, 32, (4, 4)), "auto")
    assert program(layer.weight, 1, 8).rows.tolist() == [4] * 8
    layer, *_ = layer_of("periodic", ConvCase(1, 8, 64, (4, 4)), "auto")
    assert program(layer.weight, 1, 8).rows.tolist() == [8] * 8
    assert program(layer.weight, 1, 4).rows.tolist() == [4] * 16
    layer, *_ = layer_of("periodic", ConvCase(1, 8, 88, (4, 4)), "auto")
    assert program(layer.weight, 1, 8).rows.tolist() == [6, 5] * 8
    layer, *_ = layer_of("channel_pruned", ConvCase(1, 8, 24, (4, 4)), "auto")
    made = program(layer.weight, 1, 8)
    # 16 filters keep the same columns, 8 keep none.
    assert sorted(made.rows.tolist()) == [8, 8, 8]
    assert sorted(made.filters.tolist()) == list(range(24))


def test_filters_that_keep_much_are_together_and_others_alone():
    shape = (16, 8, 3, 3)
    for density, expected in ((0.9, [8, 8]), (0.1, [1] * 16)):
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density
        layer = CSRConv2d(8, 16, 3, mask=mask)
        made = program(layer.weight, 1, 8)
        assert made.rows.tolist() == expected
        kept = [made.values[: made.starts[1] * made.rows[0]]]
        assert kept[0].numel() >= int(mask[made.filters[: made.rows[0]].long()].sum())
