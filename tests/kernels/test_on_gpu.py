"""The Triton backends on a card: every edge shape in every type. They have yet to meet one."""

import pytest
import torch
from torch.nn import functional as F

from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.functional import channel_pruned_conv2d, csr_conv2d, csr_linear, periodic_conv2d
from tests.cases import CONV, LINEAR, channel_mask, periodic_pattern, random_mask
from tests.rounding import assert_within_rounding

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _exact_float32():
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    yield
    torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CONV, ids=str)
@pytest.mark.parametrize("name", ["periodic", "csr", "channel_pruned"])
def test_convolutions_are_exact_up_to_rounding(name, case, dtype):
    if name == "channel_pruned" and case.groups > 1:
        pytest.skip("groups are refused")
    shape = case.weight_shape
    dense = torch.randn(shape).to(dtype)
    if name == "periodic":
        pattern = periodic_pattern(case)
        weight = PeriodicWeight.pack(dense.cuda(), pattern.mask(shape).cuda(), pattern)
        run = periodic_conv2d
    elif name == "csr":
        weight = CSRWeight.pack(dense.cuda(), random_mask(shape, 0.8).cuda())
        run = csr_conv2d
    else:
        weight = ChannelPrunedWeight.pack(dense.cuda(), channel_mask(case).cuda())
        run = channel_pruned_conv2d
    x = torch.randn(case.batch, case.channels, *case.size).to(dtype)
    bias = torch.randn(case.filters).to(dtype)
    y = run(x.cuda(), weight, bias.cuda(), *case.geometry, backend="triton").cpu()
    kept = weight.to_dense().cpu().double()
    exact = F.conv2d(x.double(), kept, bias.double(), *case.geometry)
    magnitude = F.conv2d(x.double().abs(), kept.abs(), bias.double().abs(), *case.geometry)
    terms = shape[1] * shape[2] * shape[3] + 1
    assert_within_rounding(y, exact, magnitude, terms)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_linear_is_exact_up_to_rounding(case, dtype):
    shape = (case.out_features, case.in_features)
    mask = random_mask(shape, case.sparsity)
    weight = CSRWeight.pack(torch.randn(shape).to(dtype).cuda(), mask.cuda())
    x = torch.randn(case.batch, case.in_features).to(dtype)
    bias = torch.randn(case.out_features).to(dtype)
    y = csr_linear(x.cuda(), weight, bias.cuda(), backend="triton").cpu()
    dense = weight.to_dense().cpu().double()
    exact = F.linear(x.double(), dense, bias.double())
    magnitude = F.linear(x.double().abs(), dense.abs(), bias.double().abs())
    assert_within_rounding(y, exact, magnitude, case.in_features + 1)
