"""Channels go through what other people's networks are made of, or stay for a reason in words."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.passes.comparing import shrunk
from tests.passes.networks import norm, without


class Frozen(nn.Module):
    """A BatchNorm of buffers, as detection networks have them."""

    def __init__(self, width):
        super().__init__()
        for name in ("weight", "bias", "running_mean"):
            self.register_buffer(name, torch.randn(width))
        self.register_buffer("running_var", torch.rand(width) + 0.5)

    def forward(self, x):
        scale = (
            self.weight.reshape(1, -1, 1, 1) * (self.running_var[None, :, None, None] + 1).rsqrt()
        )
        return x * scale + (
            self.bias.view(1, -1, 1, 1) - self.running_mean.view(1, -1, 1, 1) * scale
        )


class Scaled(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return x * self.gamma


class OverChannels(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Of(nn.Module):
    """A function, maybe of modules that it uses."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.modules_ = function, nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x, *self.modules_)


def ready(module):
    """With other numbers than those that modules begin with."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) + 0.5)
    return module


def shuffled(x):
    batch, width, high, wide = x.size()
    x = x.view(batch, 2, width // 2, high, wide).transpose(1, 2).contiguous()
    return x.view(batch, -1, high, wide)


def shuffled_by_shape(x):
    b, c, h, w = x.shape
    return x.reshape(b, 2, c // 2, h, w).permute(0, 2, 1, 3, 4).reshape(b, c, h, w)


def functional_norm(x, bn):
    return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)


def focused(x):
    parts = x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]
    return torch.cat(parts, 1)


def squeezed(x):
    return x * x.mean((2, 3)).view(x.size(0), x.size(1), 1, 1)


# Of 16 channels 1, 2, 8, 9 and 10 are dead. name -> (what is between, its outputs, what is left).
GO = {
    "chunk": (Of(lambda x: torch.cat([y * 2 for y in x.chunk(2, 1)][::-1], 1)), 16, 12),
    "shuffle": (nn.ChannelShuffle(2), 16, 10 + 2),
    "shuffle by view": (Of(shuffled), 16, 12),
    "shuffle by reshape": (Of(shuffled_by_shape), 16, 12),
    "pixel shuffle": (nn.PixelShuffle(2), 4, 16),
    "pixel unshuffle": (nn.PixelUnshuffle(2), 64, 11),
    "focus": (Of(focused), 64, 11),
    "bicubic": (Of(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")), 16, 11),
    "to a size": (Of(lambda x: F.interpolate(x, size=x.shape[-2:])), 16, 11),
    # One dead channel carries what the others contribute.
    "transposed": (ready(nn.ConvTranspose2d(16, 12, 3, 2, 1, 1)), 12, 12),
    "permute": (Of(lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2)), 16, 11),
    "tokens": (Of(lambda x: (x.flatten(2).transpose(1, 2) * 2).mT.unflatten(2, (8, 8))), 16, 16),
    "scaled": (Scaled(1, 16, 1, 1), 16, 11),
    "layer scale": (Scaled(16, 1, 1), 16, 11),
    "prelu": (ready(nn.PReLU(16)), 16, 11),
    "one prelu": (nn.PReLU(), 16, 11),
    "instance norm": (ready(nn.InstanceNorm2d(16, affine=True)), 16, 11),
    "instance norm alone": (nn.InstanceNorm2d(16), 16, 11),
    # Group 4 of 8 is 8 and 9.
    "group norm": (ready(nn.GroupNorm(8, 16)), 16, 14),
    "group norm alone": (nn.GroupNorm(8, 16, affine=False), 16, 14),
    "frozen": (Frozen(16), 16, 11),
    "sync": (ready(nn.SyncBatchNorm(16)), 16, 11),
    "functional norm": (Of(functional_norm, norm(16)), 16, 11),
    "where": (Of(lambda x: torch.where(x > 0.3, x, x * 0.1)), 16, 11),
    "maximum": (Of(lambda x: x.maximum(torch.max(x * 0.1, x - 1))), 16, 11),
    "casts": (Of(lambda x: x.float().to(x.dtype).type_as(x)), 16, 11),
    "glu": (nn.GLU(1), 8, 12),
    "gate": (Of(squeezed), 16, 11),
    "expanded": (Of(lambda x: x.mean((2, 3), True).expand_as(x) + x), 16, 11),
    "rolled": (Of(lambda x: torch.roll(x, 1, 2).flip(3)), 16, 11),
    "more functions": (Of(lambda x: (x**2 + 1).rsqrt().log1p().clip(0.1, 0.9).sin()), 16, 11),
}


class Net(nn.Module):
    def __init__(self, middle, after):
        super().__init__()
        self.first = without(nn.Conv2d(3, 16, 3, padding=1), 1, 2, 8, 9, 10)
        self.norm, self.middle, self.last = norm(16), middle, nn.Conv2d(after, 4, 1)

    def forward(self, x):
        return self.last(self.middle(self.norm(self.first(x)).relu()))


@pytest.mark.parametrize("name", GO)
def test_channels_go_through(name):
    torch.manual_seed(0)
    middle, after, left = GO[name]
    model = Net(middle, after)
    _, small = shrunk(model)
    assert small.first.out_channels == left
    x = torch.randn(3, 3, *((8, 8) if name == "tokens" else (12, 10))).double()
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-11)


STAY = {
    "layer norm": (OverChannels(16), 16, "middle.norm (LayerNorm) works out one number"),
    "one group": (nn.GroupNorm(1, 16), 16, "middle (GroupNorm) takes one mean"),
    "softmax": (nn.Softmax(1), 16, "middle (Softmax) works out one number"),
    "mean": (Of(lambda x: x * x.mean(1, keepdim=True)), 16, "mean mixes the channels"),
    "max": (Of(lambda x: x * x.max(1, keepdim=True)[0]), 16, "max of one tensor mixes"),
    "split": (Of(lambda x: torch.cat(list(x.split(8, 1)), 1)), 16, "writes down how many channels"),
    "written": (
        Of(lambda x: x.view(-1, 2, 8, 8, 8).transpose(1, 2).reshape(-1, 16, 8, 8)),
        16,
        "writes down how many channels it shuffles",
    ),
    "works with": (Of(lambda x: x / x.shape[1]), 16, "works with the number of its channels"),
    "asks": (Of(lambda x: x * 2 if x.shape[1] > 12 else x), 16, "one thing or another by its size"),
    "step": (Of(lambda x: x[:, ::2]), 8, "picks some of the channels"),
}


@pytest.mark.parametrize("name", STAY)
def test_channels_stay_for_a_reason(name):
    torch.manual_seed(0)
    middle, after, words = STAY[name]
    done, small = shrunk(Net(middle, after))
    assert small.first.out_channels == 16 and words in done.cuts["first"].why


@pytest.mark.parametrize(
    "middle", [nn.ConvTranspose2d(16, 16, 2, 2, groups=16), Scaled(1, 16, 8, 8)]
)
def test_channels_of_zeros_go_through_what_makes_no_constant_of_others(middle):
    first = without(nn.Conv2d(3, 16, 1, bias=False), 3, 4, 5)
    _, small = shrunk(nn.Sequential(first, middle, nn.Conv2d(16, 4, 3)))
    assert small[0].out_channels == 13


def test_a_transposed_convolution_loses_its_dead_filters_and_a_1d_and_a_3d_one_too():
    for kind, rank in ((nn.ConvTranspose2d, 2), (nn.Conv1d, 1), (nn.Conv3d, 3)):
        first, last = kind(3, 6, 3, padding=1), kind(6, 4, 3, padding=1)
        with torch.no_grad():
            (first.weight.transpose(0, 1) if rank == 2 else first.weight)[[1, 4]] = 0
            first.bias[[1, 4]] = torch.tensor([0.5, -1.0])
        model = nn.Sequential(first, nn.ReLU(), last)
        _, small = shrunk(model, torch.randn(2, 3, *[7] * rank))
        # The padding of the last one cuts off the constant 0.5.
        assert (small[0].out_channels, small[2].in_channels) == (5, 5)
        x = torch.randn(1, 3, *[9] * rank).double()
        with torch.no_grad():
            torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-12)


class Mean(nn.Module):
    def __init__(self, *dims):
        super().__init__()
        self.dims = dims

    def forward(self, x):
        return x.mean(self.dims)


@pytest.mark.parametrize("rank", [1, 3])
def test_channels_go_through_pooling_of_one_and_three_dimensions(rank):
    kinds = {1: (nn.Conv1d, nn.MaxPool1d, nn.AvgPool1d), 3: (nn.Conv3d, nn.MaxPool3d, nn.AvgPool3d)}
    conv, most, average = kinds[rank]
    first, second = without(conv(3, 8, 3), 1, 4), without(conv(8, 6, 1), 0)
    end = Mean(*range(2, rank + 2)), nn.Linear(6, 4)
    model = nn.Sequential(first, nn.ReLU(), most(2), second, nn.ReLU(), average(2), *end)
    _, small = shrunk(model, torch.randn(2, 3, *[12] * rank))
    assert (small[0].out_channels, small[3].in_channels, small[3].out_channels) == (6, 6, 5)
    x = torch.randn(1, 3, *[14] * rank).double()
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-12)


def test_pooling_of_one_dimension_over_what_are_no_pixels_keeps_channels():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.pool, self.b = (
                without(nn.Linear(5, 8), 1, 4),
                nn.MaxPool1d(2),
                nn.Linear(4, 3),
            )

        def forward(self, x):
            return self.b(self.pool(torch.relu(self.a(x))))

    _, small = shrunk(Tokens(), torch.randn(2, 6, 5))
    assert small.a.out_features == 8
