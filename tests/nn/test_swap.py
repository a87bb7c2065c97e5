"""PeriodicConv2d in the place of nn.Conv2d: alone, and all over a model."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import sparse_ops as so
from sparse_ops.nn import PeriodicConv2d, Swaps, swap_
from sparse_ops.patterns import PSD2_P8, PSD4_P8, default_pattern


def test_a_convolution_needs_no_more_than_nn_conv2d_does():
    layer = so.PeriodicConv2d(64, 128, 3, padding=1)
    assert layer.pattern == PSD2_P8
    x = torch.randn(2, 64, 9, 9)
    expected = nn.functional.conv2d(x, layer.weight.to_dense(), layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "period", "kept"),
    [
        # (n · pairs + taps) / (period · taps), by hand.
        ((3, 3), 8, 23 / 72),
        ((5, 5), 24, 71 / 600),
        ((7, 7), 48, 143 / 2352),
        ((2, 2), 8, 18 / 32),
        ((1, 3), 8, 17 / 24),
        ((3, 1), 8, 17 / 24),
    ],
)
def test_other_kernels_have_a_default_pattern_of_the_same_rule(kernel, period, kept):
    pattern = default_pattern(kernel)
    assert (pattern.period, pattern.kernel_size) == (period, kernel)
    assert pattern.table().float().mean().item() == pytest.approx(kept)
    *pairs, whole = pattern.supports
    assert len(whole) == kernel[0] * kernel[1] and all(len(pair) == 2 for pair in pairs)
    for first, second in pairs:
        (y, x), (v, u) = divmod(first, kernel[1]), divmod(second, kernel[1])
        assert (v - y, u - x) == ((1, 0) if kernel[1] == 1 else (0, 1))
    layer = PeriodicConv2d(period, 2 * period, kernel)
    assert layer.sparsity == pytest.approx(1 - kept)


def test_kernels_of_one_tap_have_no_pattern_and_say_so():
    with pytest.raises(ValueError, match="no default pattern for kernels of 1×1"):
        PeriodicConv2d(8, 8, 1)


@pytest.mark.parametrize(
    "layer",
    [
        so.PeriodicConv2d(8, 16, 3),
        so.CSRConv2d(8, 16, 3, mask=torch.rand(16, 8, 3, 3) > 0.5),
        so.CSRLinear(8, 16, mask=torch.rand(16, 8) > 0.5),
        so.ChannelPrunedConv2d(
            8, 16, 3, mask=(torch.arange(8) > 3)[:, None, None].expand(16, 8, 3, 3)
        ),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_the_packed_weight_answers_what_the_code_of_models_asks(layer):
    layer = layer.to(torch.float64)
    assert layer.weight.dtype is torch.float64
    assert layer.weight.device == torch.device("cpu")
    assert layer.weight.shape[:2] == (16, 8)
    assert layer.to("meta").weight.device.type == "meta"


class Zoo(nn.Module):
    """One convolution for each rule."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(16, 16, 5, padding=2)
        )
        self.point = nn.Conv2d(16, 16, 1)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.pruned = nn.Conv2d(16, 16, 3, padding=1)
        self.normed = nn.Conv2d(16, 16, 3, padding=1)
        self.watched = nn.Conv2d(16, 16, 3, padding=1)
        self.tied = nn.Conv2d(16, 16, 3, padding=1)
        self.twin = nn.Conv2d(16, 16, 3, padding=1)
        self.twin.weight = self.tied.weight
        self.again = self.last = nn.Conv2d(16, 8, 3, padding="same", padding_mode="reflect")
        prune.l1_unstructured(self.pruned, "weight", 0.5)
        parametrizations.weight_norm(self.normed)
        self.watched.register_forward_hook(lambda *_: None)

    def forward(self, x):
        x = self.body(self.stem(x))
        for layer in (self.point, self.depth, self.grouped, self.pruned, self.normed):
            x = layer(x)
        return self.again(self.twin(self.tied(self.watched(x))))


STAYS = {
    "stem": "it is the first convolution",
    "point": "its kernels are 1×1",
    "depth": "it is depthwise",
    "grouped": "it has 2 groups",
    "pruned": "its weight is computed",
    "normed": "its weight is computed",
    "watched": "it has hooks, which would be lost",
    "tied": "another layer has the same weight or bias",
    "twin": "another layer has the same weight or bias",
}


def test_every_rule_says_why_a_layer_stays():
    model = Zoo().eval()
    found = swap_(model)
    assert {each.name: each.reason for each in found.layers if each.reason} == STAYS
    assert found.swapped == ("body.0", "body.2", "again")
    kinds = {name for name, module in model.named_modules() if isinstance(module, PeriodicConv2d)}
    assert kinds == {"body.0", "body.2", "again"}
    assert model.again is model.last and not model.again.training
    assert type(model.stem) is nn.Conv2d and model(torch.randn(1, 3, 12, 12)).shape == (
        1,
        8,
        12,
        12,
    )
    text = str(found)
    assert "body.0 16×16×3×3: PeriodicConv2d, PSD2_P8, keeps 31.9%" in text
    assert "point 16×16×1×1: stays, its kernels are 1×1" in text
    assert text.endswith("3 of 12 convolutions exchanged")


def test_trained_weights_are_kept_where_the_pattern_keeps_them():
    model = Zoo()
    old = model.body[0].weight.detach().clone()
    swap_(model, PSD4_P8)
    kept = PSD4_P8.mask((16, 16, 3, 3))
    assert torch.equal(model.body[0].weight.to_dense(), old * kept)
    assert type(model.body[2]) is nn.Conv2d  # 5×5, and the pattern is for 3×3
    x = torch.randn(1, 16, 6, 6)
    expected = nn.functional.conv2d(x, old * kept, padding=1)
    torch.testing.assert_close(model.body[0](x), expected, rtol=1e-4, atol=1e-4)


def test_weights_are_drawn_anew_where_that_is_asked_for():
    model, other = (nn.Sequential(nn.Conv2d(8, 8, 3)).to(torch.float64) for _ in range(2))
    nn.init.constant_(model[0].weight, 7)
    swap_(model, first=True, keep_weights=False)
    # As nn.Conv2d draws: uniform within 1/√(taps · inputs).
    assert 0.5 / 72**0.5 < float(model[0].values.detach().abs().max()) <= 1 / 72**0.5
    assert model[0].values.dtype is torch.float64
    swap_(other, first=True)
    assert not torch.equal(model[0].values, other[0].values)


def test_what_is_frozen_stays_frozen():
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)).eval()
    model[0].weight.requires_grad_(False)
    model[1].bias.requires_grad_(False)
    swap_(model, first=True)
    assert [model[0].values.requires_grad, model[0].bias.requires_grad] == [False, True]
    assert [model[1].values.requires_grad, model[1].bias.requires_grad] == [True, False]
    assert not model[0].training


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ("layer?.0.conv2", 4),
        (["layer1.*", "layer4.1.conv1"], 5),
        (lambda name, layer: layer.out_channels == 512, 4),
        ((), 0),
    ],
)
def test_what_skip_names_stays(skip, left):
    found = swap_(so.models.resnet18(), skip=skip)
    assert sum(each.reason == "skip names it" for each in found.layers) >= left
    # 16 of 3×3 behind the first; three shortcuts are 1×1.
    assert len(found.layers) == 20 and len(found.swapped) == 16 - left


def test_resnet18_becomes_the_network_of_the_pre_defined_patterns():
    model = so.models.resnet18()
    assert isinstance(swap_(model, so.patterns.PSD2_P8), Swaps)
    nnz = sum(m.nnz for m in model.modules() if isinstance(m, PeriodicConv2d))
    dense = sum(w.numel() for w in so.masks.prunable(model).values())
    assert nnz + dense == 3_688_128  # as published


def test_a_swapped_model_learns():
    model = so.models.small_vgg(width=8)
    swap_(model)
    x, y = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    steps = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(x), y)
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_mistake_leaves_the_model_as_it_was():
    model = so.models.resnet18()
    with pytest.raises(ValueError, match=r"skip names 'layer9.*', .* it has layer"):
        swap_(model, skip=["conv1", "layer9.0.conv1"])
    assert not any(isinstance(m, PeriodicConv2d) for m in model.modules())
    with pytest.raises(ValueError, match="model must hold convolutions, got one alone"):
        swap_(nn.Conv2d(8, 8, 3))
