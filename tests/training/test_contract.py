"""What every training method keeps to, on a small network and a small task."""

import pytest
import torch
from torch import nn

from sparse_ops.masks import Masks, check
from sparse_ops.patterns import PSD2_P8
from sparse_ops.training import METHODS, Cosine, SparsityMethod, fit
from tests.training.small import OPTIMIZERS, small_net, small_task

SPARSITY = 0.75

# What is given to those that need more, or something else, than a sparsity.
OPTIONS = {
    "predefined": lambda: {},
    # A phase an epoch.
    "hypersparse": lambda: {"sparsity": SPARSITY, "warm_up": 1, "max_epochs": 1, "fine_tune": 1},
    "sabr": lambda: {},
    "spred": lambda: {"sparsity": SPARSITY, "fine_tune": 1},
    "fixed": lambda: {"masks": {"3.weight": PSD2_P8.mask((16, 8, 3, 3))}},
}


def make(name: str) -> SparsityMethod:
    return METHODS[name](**OPTIONS.get(name, lambda: {"sparsity": SPARSITY})())


def train(model: nn.Module, name: str, optimizer: str = "sgd", **more) -> Masks:
    arguments = {
        "epochs": 3,
        "batch_size": 16,
        "schedule": Cosine(),
        "progress": False,
        "optimizer": OPTIMIZERS[optimizer],
    }
    return fit(model, small_task(), make(name), **(arguments | more))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", METHODS)
def test_masks_fit_and_removed_weights_are_exactly_zero(name, optimizer):
    model = small_net()
    masks = train(model, name, optimizer)
    check(model, masks)
    assert masks
    for weight, mask in masks.items():
        value = model.get_parameter(weight)
        assert not bool(value[~mask].any()), weight
        assert bool(value[mask].any()), weight


@pytest.mark.parametrize("name", METHODS)
def test_the_model_is_plain_again_and_in_eval_mode(name):
    model, before = small_net(), small_net()
    train(model, name)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in before.named_parameters()]
    assert list(model.state_dict()) == list(before.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    assert all(type(p) is nn.Parameter and p.grad is None for p in model.parameters())
    assert not any(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", METHODS)
def test_sparsity_is_what_was_asked_for(name):
    model = small_net()
    masks = train(model, name)
    kept = sum(int(mask.sum()) for mask in masks.values())
    total = sum(mask.numel() for mask in masks.values())
    every = ["0.weight", "3.weight", "8.weight"]
    if name in ("predefined", "fixed"):
        assert list(masks) == ["3.weight"]
        assert torch.equal(masks["3.weight"], PSD2_P8.mask((16, 8, 3, 3)))
    elif name == "spred":
        assert list(masks) == ["3.weight"]
        assert kept == total - int(total * SPARSITY)
    elif name == "sabr":
        # BatchNorm's scale takes part; how much is kept is what comes out.
        assert list(masks) == ["0.weight", "1.weight", *every[1:]]
        assert 0 < kept < total
    else:
        assert list(masks) == every
        # The weight at HyperSparse's threshold is removed too.
        assert kept == total - int(total * SPARSITY) - (name == "hypersparse")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_bits(name, optimizer):
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # the global state must not matter
        model = small_net()
        train(model, name, optimizer)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", METHODS)
def test_another_seed_gives_another_model(name):
    models = [small_net(), small_net()]
    for seed, model in enumerate(models):
        train(model, name, seed=seed)
    assert not torch.equal(models[0][3].weight, models[1][3].weight)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_can_be_used_again(name):
    method = make(name)
    results = []
    for _ in range(2):
        model = small_net()
        masks = fit(model, small_task(), method, epochs=2, lr=0.01, batch_size=16, progress=False)
        results.append((model[3].weight.detach(), masks["3.weight"]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("name", METHODS)
def test_no_epochs_only_mask_the_model(name):
    model, before = small_net(), small_net()
    masks = fit(model, small_task(), make(name), epochs=0, progress=False)
    for key, value in before.named_parameters():
        expected = value * masks[key] if key in masks else value
        assert torch.equal(model.get_parameter(key), expected)


@pytest.mark.parametrize("name", METHODS)
def test_a_model_with_nothing_to_prune_is_refused(name):
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(36))
    with pytest.raises(ValueError, match=r"Conv2d"):
        fit(model, small_task(), make(name), epochs=1, progress=False)


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name not in ("predefined", "sabr", "fixed")]
)
@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 90, float("nan")])
def test_a_sparsity_outside_of_its_range_is_refused(name, sparsity):
    with pytest.raises(ValueError, match=rf"sparsity must be in \[0, 1\), got {sparsity}"):
        METHODS[name](sparsity=sparsity)
