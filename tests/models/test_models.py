"""Sizes and shapes of the networks."""

import pytest
import torch
from torch import nn

from sparse_ops.masks import prunable
from sparse_ops.models import MODELS, lenet5, lenet300, small_vgg


def scalars(model: nn.Module) -> tuple[int, int]:
    """(all trainable, prunable)."""
    return (
        sum(p.numel() for p in model.parameters()),
        sum(w.numel() for w in prunable(model).values()),
    )


def test_lenet300_has_the_size_that_papers_report():
    assert scalars(lenet300()) == (266_610, 266_200)


def test_lenet5_has_the_size_that_papers_report():
    assert scalars(lenet5()) == (431_080, 430_500)


def example(name: str, count: int) -> torch.Tensor:
    """Random images of the kind and the least size that a model takes."""
    shape = (1, 28, 28) if name.startswith("lenet") or name == "small_vgg" else (3, 32, 32)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_one_logit_a_class(name):
    model = MODELS[name](num_classes=7)
    assert model(example(name, 2)).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_learns_through_all_of_its_parameters(name):
    model = MODELS[name]()
    model(example(name, 4)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("lenet")])
def test_every_convolutional_model_takes_grey_images_too(name):
    model = MODELS[name](in_channels=1).eval()
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 10)
    with pytest.raises(ValueError, match="in_channels must be at least 1, got 0"):
        MODELS[name](in_channels=0)


def test_lenet300_takes_flat_images_too():
    model = lenet300()
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x.flatten(1)), model(x))


def test_small_vgg_spends_its_work_in_wide_layers():
    macs = {}
    model = small_vgg()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda m, _, y, name=name: macs.update({name: m.weight.numel() * y[0, 0].numel()})
            )
    model(torch.zeros(1, 1, 28, 28))
    first, *rest = macs
    assert macs[first] < 0.02 * sum(macs.values())
    assert all(min(model.get_submodule(name).weight.shape[:2]) >= 64 for name in rest)


def test_small_vgg_takes_colour_images():
    assert small_vgg(in_channels=3, width=8)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("wrong", ["num_classes", "in_channels", "width"])
def test_small_vgg_refuses_sizes_below_one(wrong):
    with pytest.raises(ValueError, match=f"{wrong} must be at least 1, got 0"):
        small_vgg(**{wrong: 0})
