import copy

import pytest
import torch
from torch import nn

from sparse_ops.nn import CSRConv2d, CSRLinear
from sparse_ops.planning.differences import Mismatch
from sparse_ops.planning.verify import check_layer, layer_error
from sparse_ops.planning.verify_model import check_model
from tests.activations import ACTIVATION_NAMES


def masked_conv(dtype=torch.float32, **options):
    dense = nn.Conv2d(16, 24, 3, padding=1, dtype=dtype, **options)
    mask = torch.rand_like(dense.weight, dtype=torch.float32) > 0.8
    with torch.no_grad():
        dense.weight.mul_(mask)
    return dense, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", [None, *ACTIVATION_NAMES])
def test_an_honest_layer_is_within_the_bound(dtype, activation):
    dense, mask = masked_conv(dtype)
    packed = CSRConv2d.from_dense(dense, mask, activation=activation)
    x = torch.randn(2, 16, 9, 9).to(dtype)
    assert 0 <= layer_error(dense, packed, x) <= 1


def test_a_layer_of_float64_is_compared_and_not_changed():
    dense, mask = masked_conv(torch.float64)
    before = copy.deepcopy(dense.state_dict())
    packed = CSRConv2d.from_dense(dense, mask)
    assert layer_error(dense, packed, torch.randn(2, 16, 9, 9).double()) <= 1
    assert all(torch.equal(dense.state_dict()[name], held) for name, held in before.items())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_dropped_weight_is_found_at_every_scale(scale):
    dense, mask = masked_conv()
    packed = CSRConv2d.from_dense(dense, mask)
    with torch.no_grad():
        packed.values[packed.values.abs().argmin()] = 0
        packed.values[packed.values.abs() > packed.values.abs().median()].mul_(1)
        packed.values[7] = 0
    x = scale * torch.randn(2, 16, 9, 9)
    assert layer_error(dense, packed, x) > 10
    with pytest.raises(Mismatch, match="conv7"):
        check_layer("conv7", dense, packed, x)


def test_an_output_that_is_not_a_number_is_found():
    dense = nn.Linear(4, 4)
    packed = CSRLinear.from_dense(dense, torch.ones(4, 4).bool())
    with torch.no_grad():
        packed.bias[2] = float("nan")
    assert layer_error(dense, packed, torch.randn(2, 4)) == float("inf")


def test_a_model_within_rounding_passes_and_another_does_not():
    dense = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 8))
    packed = copy.deepcopy(dense)
    packed[0] = CSRLinear.from_dense(dense[0], torch.ones(32, 32).bool())
    x = (torch.randn(5, 32),)
    assert check_model(dense, packed, x) is None
    with torch.no_grad():
        packed[0].values[3] += 1e-3
    with pytest.raises(Mismatch, match="output 0"):
        check_model(dense, packed, x)


def test_a_model_that_does_not_run_in_float64_is_said_to():
    class Single(nn.Module):
        def forward(self, x):
            if x.dtype != torch.float32:
                raise TypeError("float32 only")
            return {"y": x}

    assert "float64" in check_model(Single(), Single(), (torch.randn(2),))
