"""The layers as a user of torch.nn expects them to be."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparse_ops import nn as snn
from sparse_ops.patterns import PSD2_P8, Channels, Periodic

SHAPE = (16, 8, 3, 3)
MASKS = {
    snn.PeriodicConv2d: PSD2_P8.mask(SHAPE),
    snn.CSRConv2d: torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) > 0.8,
    snn.ChannelPrunedConv2d: Channels((0, 3, 5, 6, 11), (1, 2, 7)).mask(SHAPE),
}
CONVS = list(MASKS)


def conv(kind, **keywords):
    if kind is snn.PeriodicConv2d:
        return kind(8, 16, 3, pattern=PSD2_P8, **keywords)
    return kind(8, 16, 3, mask=MASKS[kind], **keywords)


def linear(**keywords):
    mask = torch.rand(5, 20, generator=torch.Generator().manual_seed(2)) > 0.7
    return snn.CSRLinear(20, 5, mask=mask, **keywords)


def transposed(**keywords):
    mask = torch.rand(8, 4, 3, 3, generator=torch.Generator().manual_seed(3)) > 0.7
    return snn.CSRConvTranspose2d(8, 4, 3, 2, 1, 1, mask=mask, **keywords)


def layers():
    return [(conv(kind, padding=1), torch.randn(2, 8, 7, 6)) for kind in CONVS] + [
        (linear(), torch.randn(3, 20)),
        (transposed(), torch.randn(2, 8, 5, 4)),
    ]


NAMES = [kind.__name__ for kind in CONVS] + ["CSRLinear", "CSRConvTranspose2d"]
every_layer = pytest.mark.parametrize("which", range(len(NAMES)), ids=NAMES)
every_layer_that_adds = pytest.mark.parametrize("which", range(len(NAMES) - 1), ids=NAMES[:-1])


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"stride": 2, "padding": 1, "bias": False},
        {"stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)},
        {"padding": "same"},
        {"padding": "same", "dilation": (1, 2)},
        {"padding": "valid"},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": (1, 2), "padding_mode": "circular"},
        {"padding": "same", "padding_mode": "replicate"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", CONVS, ids=lambda k: k.__name__)
def test_a_convolution_equals_its_dense_layer(kind, keywords):
    dense = nn.Conv2d(8, 16, 3, **keywords)
    layer = kind.from_dense(dense, MASKS[kind])
    with torch.no_grad():
        dense.weight.mul_(MASKS[kind])
    x = torch.randn(2, 8, 9, 10)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-5)
    back = layer.to_dense()
    assert type(back) is nn.Conv2d and repr(back) == repr(dense)
    assert torch.equal(back.weight, dense.weight)
    assert torch.equal(back(x), dense(x))


@pytest.mark.parametrize("kind", [snn.PeriodicConv2d, snn.CSRConv2d], ids=lambda k: k.__name__)
def test_grouped_convolutions(kind):
    dense = nn.Conv2d(16, 32, 3, padding=1, groups=2)
    mask = PSD2_P8.mask((32, 8, 3, 3))
    layer = kind.from_dense(dense, mask)
    with torch.no_grad():
        dense.weight.mul_(mask)
    x = torch.randn(2, 16, 5, 5)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-5)


def test_a_linear_layer_equals_its_dense_layer():
    dense, mask = nn.Linear(20, 5), torch.rand(5, 20) > 0.7
    layer = snn.CSRLinear.from_dense(dense, mask)
    with torch.no_grad():
        dense.weight.mul_(mask)
    x = torch.randn(4, 3, 20)
    torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(layer.to_dense().weight, dense.weight)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-2, nesterov=True),
        lambda p: torch.optim.Adam(p, 1e-2, weight_decay=1e-2),
        lambda p: torch.optim.AdamW(p, 1e-2),
        lambda p: torch.optim.Adagrad(p, 1e-1),
        lambda p: torch.optim.LBFGS(p, max_iter=3),
    ],
    ids=["SGD", "Adam", "AdamW", "Adagrad", "LBFGS"],
)
@every_layer
def test_training_stays_on_the_mask_and_learns(which, optimizer):
    layer, x = layers()[which]
    target = torch.randn_like(layer(x))
    mask, steps = layer.mask(), optimizer(layer.parameters())
    losses = []

    def closure():
        steps.zero_grad()
        loss = F.mse_loss(layer(x), target)
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    for _ in range(5):
        steps.step(closure)
    assert losses[-1] < losses[0]
    dense = layer.to_dense().weight
    assert not dense[~mask].any() and torch.equal(layer.mask(), mask)


@every_layer
def test_activation_is_applied_and_survives_the_way_back(which):
    layer, x = layers()[which]
    plain = layer(x)
    layer.activation = "relu"
    expected = F.relu(plain)
    torch.testing.assert_close(layer(x), expected)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.to_dense()(x), expected, rtol=1e-4, atol=1e-5)


@every_layer
def test_copies_pickles_and_checkpoints(which):
    (layer, x), (other, _) = layers()[which], layers()[which]
    with torch.no_grad():
        layer.values.mul_(2)
    y = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), y)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), y)


@every_layer
def test_a_dense_checkpoint_can_be_loaded(which):
    layer, _ = layers()[which]
    dense = layer.to_dense()
    nn.init.normal_(dense.weight)
    layer.load_state_dict(dense.state_dict())
    assert torch.equal(layer.to_dense().weight, dense.weight * layer.mask())
    wrong = {"weight": dense.weight[:-1], "bias": dense.bias}
    with pytest.raises(RuntimeError, match="to be packed, got"):
        layer.load_state_dict(wrong)


@pytest.mark.parametrize("which", [1, 2, 3, 4], ids=NAMES[1:])
def test_a_checkpoint_with_indices_out_of_range_is_refused(which):
    layer, _ = layers()[which]
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    name = "kept_in_channels" if "kept_in_channels" in state else "col_indices"
    state[name][-1] = 10**6
    with pytest.raises(RuntimeError, match=r"is not a valid packed weight: .* must be in"):
        layer.load_state_dict(state)


@every_layer
def test_compile_in_one_graph_forwards_and_backwards(which):
    layer, x = layers()[which]
    x.requires_grad_()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    expected = torch.autograd.grad(layer(x).square().sum(), (x, layer.values))
    actual = torch.autograd.grad(compiled(x).square().sum(), (x, layer.values))
    torch.testing.assert_close(actual, expected)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), layer(x))


@every_layer
def test_export(which):
    layer, x = layers()[which]
    with torch.no_grad():
        program = torch.export.export(layer, (x,))
        torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_layer
def test_autocast_gives_the_dtype_asked_for(which, dtype):
    layer, x = layers()[which]
    with torch.autocast("cpu", dtype):
        y = layer(x)
        y.float().sum().backward()
    assert y.dtype == dtype and layer.values.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), layer(x), rtol=3e-2, atol=3e-2)


@every_layer
def test_half_precision_layers(which):
    layer, x = layers()[which]
    expected = layer(x)
    layer.to(torch.bfloat16)
    torch.testing.assert_close(layer(x.bfloat16()).float(), expected, rtol=4e-2, atol=4e-2)


@every_layer
def test_several_threads_at_once_give_equal_results(which):
    layer, x = layers()[which]
    with torch.no_grad():
        expected = layer(x)

    def run(_):
        with torch.no_grad():
            return layer(x)

    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(y, expected) for y in pool.map(run, range(40)))


def test_constructor_errors():
    with pytest.raises(ValueError, match=r"pattern is for kernels of \(3, 3\), got \(5, 5\)"):
        snn.PeriodicConv2d(8, 8, 5, pattern=PSD2_P8)
    with pytest.raises(ValueError, match="mask must be bool"):
        snn.CSRConv2d(8, 8, 3, mask=torch.ones(8, 8, 3, 2).bool())
    with pytest.raises(ValueError, match="groups must be 1, got 2"):
        snn.ChannelPrunedConv2d(8, 8, 3, groups=2, mask=torch.ones(8, 4, 3, 3).bool())
    with pytest.raises(ValueError, match="activation must be one of"):
        linear(activation="tanh")


def test_refusals_are_words():
    dense, ones = nn.Conv2d(4, 4, 3), torch.ones(4, 4, 3, 3).bool()
    none = torch.zeros_like(ones)
    holes = ones.clone()
    holes[1, 2, 0, 0] = False
    assert snn.PeriodicConv2d.refuses(dense, holes) == "its mask is not periodic"
    assert snn.PeriodicConv2d.refuses(dense, none) == "no weight is left"
    assert snn.CSRConv2d.refuses(dense, none) == "no weight is left"
    assert snn.ChannelPrunedConv2d.refuses(dense, none) == "no weight is left"
    assert snn.ChannelPrunedConv2d.refuses(dense, holes) == (
        "its mask removes other than whole channels"
    )
    assert snn.CSRLinear.refuses(dense, ones) == "Conv2d is not Linear"
    assert snn.CSRConv2d.refuses(nn.ConvTranspose2d(4, 4, 3), ones) == (
        "ConvTranspose2d is not Conv2d"
    )
    grouped = nn.Conv2d(8, 4, 3, groups=2)
    assert snn.ChannelPrunedConv2d.refuses(grouped, ones) == "groups is 2, not 1"


@pytest.mark.parametrize("kind", CONVS[1:], ids=lambda k: k.__name__)
def test_a_layer_with_no_weight_left_is_its_bias(kind):
    dense = nn.Conv2d(4, 6, 3)
    layer = kind.from_dense(dense, torch.zeros(6, 4, 3, 3).bool())
    y = layer(torch.randn(2, 4, 5, 5))
    torch.testing.assert_close(y, dense.bias[:, None, None].expand(2, 6, 3, 3))


def test_a_pattern_without_any_tap_is_its_bias():
    layer = snn.PeriodicConv2d(4, 6, 3, pattern=Periodic(((),)))
    y = layer(torch.randn(2, 4, 5, 5))
    torch.testing.assert_close(y, layer.bias[:, None, None].expand(2, 6, 3, 3))


@every_layer_that_adds
def test_a_residual_is_added_before_the_activation(which):
    layer, x = layers()[which]
    before = layer(x)
    layer.activation = "relu"
    residual = torch.randn_like(before)
    torch.testing.assert_close(layer(x, residual), F.relu(before + residual))


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("rows", [(), (0,), (1,), (6,), (2, 3)])
def test_a_linear_layer_without_gradient_gives_the_same(rows, activation):
    layer = linear()
    layer.activation = activation
    x = torch.randn(*rows, 20)
    expected = layer(x).detach()
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected)
        turned = x.T.contiguous().T if x.dim() == 2 else x
        torch.testing.assert_close(layer(turned), expected)
        with pytest.raises(ValueError, match=r"x must be \(\*, 20\), got"):
            layer(torch.randn(*rows, 21))
        with pytest.raises(ValueError, match="one dtype"):
            layer(x.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16


@every_layer
def test_a_call_without_gradient_gives_the_same_and_refuses_the_same(which):
    layer, x = layers()[which]
    y = layer(x).detach()
    residual = torch.randn_like(y)
    with torch.inference_mode():
        for backend in ("auto", "scalar"):
            layer.backend = backend
            torch.testing.assert_close(layer(x), y)
            if layer.ADDS:
                torch.testing.assert_close(layer(x, residual), y + residual)
        if layer.ADDS:
            with pytest.raises(ValueError, match="residual must be"):
                layer(x, residual[:1])
        with pytest.raises(ValueError, match="x must be"):
            layer(x[:, :1])
