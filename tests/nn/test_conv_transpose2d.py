"""Transposed convolutions: packed, as one convolution of their phases, they are the dense layer."""

import copy

import pytest
import torch
from torch import nn

from sparse_ops.formats import CSRWeight
from sparse_ops.nn import CSRConvTranspose2d
from tests.rounding import assert_within_rounding

# (kernel, stride, padding, output_padding, dilation).
CASES = {
    "U-Net": (2, 2, 0, 0, 1),
    "DCGAN": (4, 2, 1, 0, 1),
    "FSRCNN": (9, 3, 4, 2, 1),
    "odd, one more": (3, 2, 1, 1, 1),
    "no stride": (3, 1, 1, 0, 1),
    "no stride, dilated": (3, 1, 2, 0, 2),
    "a stride that leaves holes": (1, 3, 0, 1, 1),
    "kernel under stride": ((2, 1), (4, 3), 0, (3, 0), 1),
    "nothing cut off": (5, 2, 0, 0, 1),
    "more padding than reach": ((1, 2), (1, 2), (1, 2), 0, 1),
    "dilated": ((3, 2), 2, 1, 0, (2, 3)),
    "dilated by the stride": (3, 2, 2, 1, 2),
    "all differs": ((5, 3), (3, 2), (2, 0), (1, 1), (2, 3)),
}


def pair(case="U-Net", inputs=5, outputs=3, bias=True, dtype=torch.float64):
    """(a masked nn.ConvTranspose2d, its packed layer)."""
    torch.manual_seed(0)
    *sizes, dilation = CASES[case]
    dense = nn.ConvTranspose2d(
        inputs, outputs, *sizes, bias=bias, dilation=dilation, dtype=torch.float64
    )
    mask = torch.rand(dense.weight.shape) < 0.6
    with torch.no_grad():
        dense.weight.mul_(mask)
    dense.to(dtype)
    return dense, CSRConvTranspose2d.from_dense(dense, mask)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_dense_layer_forwards_backwards_and_back(case, bias):
    dense, packed = pair(case, bias=bias)
    for x in (torch.randn(2, 5, 6, 7), torch.randn(5, 9, 5), torch.randn(1, 5, 4, 4)):
        found = []
        for layer in (dense, packed):
            own = x.double().requires_grad_()
            y = layer(own)
            found.append((y, *torch.autograd.grad(y.square().sum(), [own, *layer.parameters()])))
        (y, dx, dweight, *dbias), (y2, dx2, dvalues, *dbias2) = found
        kept = packed.weight.gather(packed.rows_of(dweight))
        torch.testing.assert_close(
            (y2, dx2, dvalues, dbias2), (y, dx, kept, dbias), rtol=1e-12, atol=1e-12
        )
    again = packed.to_dense()
    assert torch.equal(again.weight, dense.weight) and repr(again) == repr(dense)
    assert torch.equal(packed.mask(), dense.weight != 0)
    assert packed.sparsity == pytest.approx(float((dense.weight == 0).double().mean()))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", CASES)
def test_compiled_code_is_within_rounding(case, layout):
    dense, packed = pair(case, 24, 20, dtype=torch.float32)
    x = torch.randn(3, 24, 6, 7).contiguous(memory_format=layout)
    with torch.no_grad():
        y = packed(x)
        wide = dense.double()
        exact = wide(x.double())
        for parameter in wide.parameters():
            parameter.abs_()
        magnitude = wide(x.double().abs())
    assert y.is_contiguous(memory_format=layout)
    terms = 1 + int(packed.mask_of_rows().flatten(1).sum(1).max())
    assert_within_rounding(y, exact, magnitude, terms)


@pytest.mark.parametrize("case", CASES)
def test_the_size_of_the_output_may_be_asked_for(case):
    dense, packed = pair(case)
    x = torch.randn(2, 5, 6, 7).double()
    least = [axis.size(size, 0) for axis, size in zip(packed.phases.axes, x.shape[2:], strict=True)]
    for more in ((0, 0), [stride - 1 for stride in dense.stride], (0, dense.stride[1] - 1)):
        size = [n + m for n, m in zip(least, more, strict=True)]
        torch.testing.assert_close(packed(x, size), dense(x, size), rtol=1e-12, atol=1e-12)
        assert packed(x, output_size=(2, 3, *size)).shape[2:] == tuple(size)
        planar = x.float().contiguous(memory_format=torch.channels_last)
        y = copy.deepcopy(packed).float()(planar, size)
        assert y.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="requested an output size"):
        packed(x, [1000, 1000])


def test_it_is_made_as_the_dense_one_is_and_loads_its_state():
    dense, packed = pair("DCGAN")
    sizes = (5, 3, 4, 2, 1)
    made = CSRConvTranspose2d(*sizes, mask=packed.mask(), dtype=torch.float64)
    made.load_state_dict(dense.state_dict())
    x = torch.randn(2, 5, 3, 4).double()
    assert torch.equal(made(x), packed(x))
    assert repr(made) == repr(packed)
    assert "5, 3, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1), sparsity=" in repr(made)


def test_a_state_with_weights_beside_the_taps_is_refused():
    _, packed = pair("DCGAN")
    state = {name: tensor.clone() for name, tensor in packed.state_dict().items()}
    taps = packed.rows_of(torch.ones(packed.dense_shape)).flatten(1)
    state["col_indices"][0] = int((taps[0] == 0).nonzero()[0])
    with pytest.raises(RuntimeError, match="where its phase has no tap"):
        copy.deepcopy(packed).load_state_dict(state)
    wrong = torch.ones(12, 5, 2, 2)
    with pytest.raises(ValueError, match=r"weight must be \(12, 5, 3, 3\), got \(12, 5, 2, 2\)"):
        CSRConvTranspose2d.from_packed(CSRWeight.pack(wrong, wrong.bool()), None, packed)


def test_what_it_cannot_be_is_refused_in_words():
    ones = torch.ones(4, 2, 3, 3).bool()
    grouped = nn.ConvTranspose2d(4, 4, 3, groups=2)
    assert CSRConvTranspose2d.refuses(grouped, ones) == "groups is 2, not 1"
    assert CSRConvTranspose2d.refuses(nn.Conv2d(2, 4, 3), ones) == "Conv2d is not ConvTranspose2d"
    one = nn.ConvTranspose2d(4, 2, 3)
    assert CSRConvTranspose2d.refuses(one, ~ones) == "no weight is left"
    assert CSRConvTranspose2d.refuses(one, ones) is None
    with pytest.raises(ValueError, match="groups is 2, not 1"):
        CSRConvTranspose2d(4, 4, 3, groups=2, mask=ones)
    with pytest.raises(ValueError, match=r"mask must be bool \(4, 2, 3, 3\), got"):
        CSRConvTranspose2d.from_dense(one, ones[:, :1])
    packed = CSRConvTranspose2d.from_dense(one, ones)
    for x in (torch.randn(4, 4), torch.randn(1, 4, 4, 4, 4)):
        with pytest.raises(ValueError, match=r"x must be \(N, 4, H, W\)"):
            packed(x)
    with pytest.raises(ValueError, match=r"x must be \(N, 4, H, W\)"):
        packed(torch.randn(1, 3, 4, 4))
    small = CSRConvTranspose2d.from_dense(nn.ConvTranspose2d(4, 2, 3, padding=3), ones)
    with pytest.raises(ValueError, match="x is too small"):
        small(torch.randn(1, 4, 4, 4))


def test_without_weights_it_is_its_bias():
    dense, _ = pair("DCGAN")
    packed = CSRConvTranspose2d.from_dense(dense, torch.zeros(5, 3, 4, 4).bool())
    y = packed(torch.randn(2, 5, 3, 4).double())
    torch.testing.assert_close(y, dense.bias[:, None, None].expand(2, 3, 6, 8))


def test_the_activation_is_applied():
    dense, packed = pair("all differs")
    packed.activation = "silu"
    x = torch.randn(2, 5, 3, 4).double()
    y = nn.functional.silu(dense(x))
    torch.testing.assert_close(packed(x), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(packed.to_dense()(x), y, rtol=1e-12, atol=1e-12)


def test_transforms_of_torch_func_and_other_modes_are_the_dense_layers():
    dense, packed = pair("DCGAN", dtype=torch.float32)
    x = torch.randn(4, 2, 5, 3, 4)
    mapped = [torch.func.vmap(layer)(x) for layer in (dense, packed)]
    torch.testing.assert_close(mapped[1], mapped[0])
    twice = []
    for layer in (dense, packed):
        own = x[0].clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(own).pow(3).sum(), own, create_graph=True)
        twice.append(torch.autograd.grad(first.square().sum(), own)[0])
    torch.testing.assert_close(twice[1], twice[0], rtol=1e-4, atol=1e-4)
