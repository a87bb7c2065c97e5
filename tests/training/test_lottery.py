"""Fine-tuning under given masks, lottery tickets, and the cut at once."""

import copy

import pytest
import torch
from torch import nn

from sparse_ops.masks import sparsity
from sparse_ops.training import GSM, Dense, Fixed, cut_, fit, lottery_ticket
from sparse_ops.training.magnitude import largest
from tests.training.small import OPTIMIZERS, small_net, small_task


def train(model, method, **more):
    arguments = {"epochs": 3, "batch_size": 16, "progress": False}
    return fit(model, small_task(), method, **(arguments | more))


def random_masks(model):
    generator = torch.Generator().manual_seed(5)
    names = ("3.weight", "8.weight")
    return {n: torch.rand(model.get_parameter(n).shape, generator=generator) > 0.5 for n in names}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_under_given_masks_the_kept_weights_learn_and_the_others_stay_zero(optimizer):
    model, before = small_net(), small_net()
    masks = random_masks(model)
    found = train(model, Fixed(masks), optimizer=OPTIMIZERS[optimizer])
    assert found.keys() == masks.keys()
    for name, mask in masks.items():
        value, first = model.get_parameter(name), before.get_parameter(name)
        assert torch.equal(found[name], mask)
        assert not bool(value[~mask].any())
        # All but what leads to a unit that is dead.
        assert float((value[mask] != first[mask]).float().mean()) > 0.8
    # What has no mask is dense, and learns too.
    assert not torch.equal(model[0].weight, before[0].weight)


def test_masks_that_do_not_fit_are_refused_and_may_be_used_for_a_model_they_fit():
    masks = random_masks(small_net())
    method = Fixed(masks)
    with pytest.raises(ValueError, match="the model has no such weight"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), method)
    assert all(torch.equal(mask, masks[n]) for n, mask in train(small_net(), method).items())
    with pytest.raises(ValueError, match="at least one mask, got none"):
        Fixed({})


def test_the_cut_at_once_zeroes_the_smallest_weights_of_the_whole_model():
    model, before = small_net(), small_net()
    masks = cut_(model, 0.75)
    assert all(torch.equal(mask, largest(before, 0.75)[name]) for name, mask in masks.items())
    for name, mask in masks.items():
        assert torch.equal(model.get_parameter(name), before.get_parameter(name) * mask)
    with pytest.raises(ValueError, match="sparsity must be in"):
        cut_(model, 1.0)


def test_a_model_that_is_cut_already_loses_no_more_at_a_lower_sparsity():
    model = small_net()
    cut_(model, 0.75)
    again = cut_(model, 0.5)
    # Zeros tie at the threshold, and ties are all kept.
    assert all(bool(mask.all()) for mask in again.values())


@pytest.mark.parametrize("kind", ["magnitude", "gsm"])
def test_a_ticket_is_the_first_weights_under_the_mask_and_can_be_trained(kind):
    model = small_net()
    initial = copy.deepcopy(model.state_dict())
    train(model, Dense())
    masks = cut_(model, 0.8) if kind == "magnitude" else train(model, GSM(sparsity=0.8))
    assert sparsity(masks) == pytest.approx(0.8, abs=1e-3)

    method = lottery_ticket(model, initial, masks)
    for name, value in model.state_dict().items():
        expected = initial[name] * masks[name] if name in masks else initial[name]
        assert torch.equal(value, expected), name

    seen = []
    found = train(
        model,
        method,
        epochs=4,
        on_epoch=lambda e: seen.append(model[3].weight.detach().clone()),
    )
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())
    assert all(not bool(weight[~masks["3.weight"]].any()) for weight in seen)
    kept = masks["3.weight"]
    assert float((seen[-1][kept] != initial["3.weight"][kept]).float().mean()) > 0.8


def test_the_two_kinds_of_tickets_differ():
    model = small_net()
    train(model, Dense())
    magnitude = largest(model, 0.8)
    gsm = train(model, GSM(sparsity=0.8), epochs=10, weight_decay=5e-3)
    assert not all(torch.equal(magnitude[name], mask) for name, mask in gsm.items())


def test_a_ticket_of_another_model_is_refused_and_nothing_is_changed():
    model, before = small_net(), small_net()
    masks = largest(model, 0.5)
    other = dict(model.state_dict())
    del other["8.bias"]
    with pytest.raises(ValueError, match=r"not of this model; see 8\.bias"):
        lottery_ticket(model, other, masks)
    wider = dict(small_net().state_dict()) | {"8.bias": torch.zeros(4)}
    with pytest.raises(ValueError, match=r"see 8\.bias"):
        lottery_ticket(model, wider, masks)
    with pytest.raises(ValueError, match="no such weight"):
        lottery_ticket(model, before.state_dict(), {"9.weight": torch.ones(1).bool()})
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
