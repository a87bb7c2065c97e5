"""What a plan makes of the inputs and options that it is given, good and bad."""

import pytest
import torch
from torch import nn

from sparse_ops.planning import candidates
from tests.convert.models import EXAMPLE, masks_of_net, net
from tests.convert.planning import masked, planned


@pytest.mark.parametrize(
    "example", [torch.zeros(0, 3, 8, 8), (torch.zeros(2, 0),), "text", (), 3], ids=str
)
def test_an_example_without_content_is_refused(example):
    with pytest.raises(ValueError, match="example"):
        planned(net(), masks_of_net(), example=example)


def test_masks_that_do_not_fit_are_refused():
    model, example = net(), torch.randn(EXAMPLE)
    for masks, words in (
        ({"nowhere.weight": torch.ones(2, 2).bool()}, "no such weight"),
        ({"fc.weight": torch.ones(2, 2).bool()}, r"must be \(10, 12\)"),
        ({"fc.weight": torch.full((10, 12), 0.5)}, "must be bool, or zeros and ones"),
        ({"fc": {"weight": [1, 0]}}, "mask of fc.weight must be a tensor, got list"),
    ):
        with pytest.raises(ValueError, match=words):
            planned(model, masks, example=example)


def test_masks_of_numbers_and_by_module_are_read():
    model, masks = net(), masks_of_net()
    table = {name.removesuffix(".weight"): {"weight": m.float()} for name, m in masks.items()}
    plan = planned(model, table)
    assert plan.masks.keys() == masks.keys()
    assert all(torch.equal(plan.masks[name], mask) for name, mask in masks.items())


def test_bad_options_are_refused():
    for options in ({"threshold": -1.0}, {"budget_s": 0.0}, {"budget_s": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(options))):
            planned(net(), **options)


def test_a_lazy_model_is_refused_in_words():
    with pytest.raises(ValueError, match="run the model once"):
        planned(nn.Sequential(nn.LazyLinear(4)), example=torch.randn(2, 4))


def test_channels_last_and_strided_inputs_work():
    model, masks = net(), masks_of_net()
    x = torch.randn(2, 3, 16, 8)[:, :, ::2].contiguous(memory_format=torch.channels_last)
    fast = planned(model, masks, example=x).apply(model)
    want = masked(model, masks)(x)
    for given in (x, x.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(fast(given), want, rtol=1e-5, atol=1e-5)


def test_wrong_channels_and_dtypes_are_refused_by_the_fast_model():
    model = net()
    fast = planned(model, masks_of_net()).apply(model)
    for x in (torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8, 8).double()):
        with pytest.raises((ValueError, RuntimeError)):
            fast(x)
    with pytest.raises(ValueError, match="floating point"):
        fast.periodic(torch.ones(2, 8, 8, 8, dtype=torch.int64))


def test_what_kernels_refuse_stays_dense_with_their_words(real_candidates):
    model = nn.Linear(8, 8).double()
    x = torch.randn(2, 8, dtype=torch.float64)
    plan = planned(model, {"weight": torch.eye(8).bool()}, example=x)
    assert not plan.packed and "CSRLinear on" in plan.layers[0].reason


def test_the_reference_is_no_candidate(real_candidates):
    dense = nn.Linear(8, 8)
    found, _ = candidates.find(dense, torch.eye(8).bool(), torch.randn(2, 8))
    assert all(candidate.backend != "reference" for candidate in found)


def test_denormal_weights_count_as_zeros():
    dense = nn.Linear(4, 4)
    with torch.no_grad():
        dense.weight[:, :3] = 1e-40
    plan = planned(dense, example=torch.randn(2, 4))
    assert plan.layers[0].nnz == 4


def test_random_numbers_are_not_taken_from_the_caller():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    state = torch.get_rng_state()
    planned(model, {"0.weight": torch.eye(4).bool()}, example=torch.ones(2, 4))
    assert torch.equal(state, torch.get_rng_state())


def test_a_model_that_writes_to_its_input_does_not_change_the_example():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 6)).eval()
    x = torch.randn(3, 6)
    before = x.clone()
    planned(model, {"1.weight": torch.eye(6).bool()}, example=x).apply(model)
    assert torch.equal(x, before)
