"""Channels that cannot be had exactly stay, and the reason is given; other limits of shrinking."""

import copy

import pytest
from torch import nn
from torch.nn import functional as F

from tests.passes.comparing import shrunk, widths
from tests.passes.networks import chain, norm, without


def test_what_the_code_picks_or_an_unknown_layer_mixes_stays_and_the_reason_says_so():
    def with_middle(middle):
        return nn.Sequential(without(nn.Conv2d(3, 6, 1), 0, 2), middle, nn.Conv2d(6, 2, 1))

    class Flip(nn.Module):
        def forward(self, x):
            return x.flip(1)

    class Width(nn.Module):
        def forward(self, x):
            return x / x.shape[1]

    class Written(nn.Module):
        def forward(self, x):
            return x.view(-1, 6, 8, 8)

    for middle, words in (
        (Flip(), "flip"),
        (nn.GroupNorm(2, 6), "GroupNorm"),
        (Width(), "number of its channels"),
        (Written(), "writes down the shape"),
    ):
        done, small = shrunk(with_middle(middle))
        assert widths(small) == [6, 2] and words in done.cuts["0"].why


def test_a_layer_with_hooks_or_whose_weight_the_code_reads_stays():
    model = nn.Sequential(without(nn.Conv2d(3, 6, 1), 0, 2), nn.Conv2d(6, 2, 1))
    model[1].register_forward_hook(lambda *_: None)
    assert widths(shrunk(model)[1]) == [6, 2]

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = without(nn.Conv2d(3, 6, 1), 0, 2)
            self.b = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.b(self.a(x)) * self.a.weight.sum()

    assert widths(shrunk(Reads())[1]) == [6, 2]


def test_a_width_that_the_model_s_code_works_with_is_what_it_was():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = without(nn.Conv2d(3, 6, 1), 0, 2)
            self.b = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.b(self.a(x) / self.a.out_channels)

    _, graph = shrunk(Scaled(), writes=False)
    assert widths(graph) == [4, 2]


def test_what_is_changed_in_place_is_known_by_all_its_names():
    class Before(nn.Module):
        """The shortcut takes what the activation has changed."""

        def __init__(self):
            super().__init__()
            self.a = without(nn.Conv2d(3, 6, 1), 0, 2)
            self.b = without(nn.Conv2d(6, 6, 1), 0, 2)
            self.last = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            x = self.a(x)
            y = F.relu(x, inplace=True)
            return self.last(self.b(y) + x)

    model = Before()
    model.a.bias.data[[0, 2]] = -1
    assert widths(shrunk(model)[1]) == [4, 4, 2]


def test_widths_are_rounded_up_with_zeros():
    model = chain(padding=0)
    done, small = shrunk(model, multiple=4)
    assert widths(small) == [8, 4] and "even" in done.cuts["0"].why
    model = nn.Sequential(without(nn.Conv2d(3, 12, 3), *range(5)), norm(12), nn.Conv2d(12, 4, 1))
    _, small = shrunk(model, multiple=4)
    assert widths(small) == [8, 4] and not small[0].weight[0].any()
    assert int((small[0].weight.flatten(1) == 0).all(1).sum()) == 1
    assert int((small[2].weight.flatten(2) == 0).all(2).all(0).sum()) == 1


@pytest.mark.parametrize("where", ["", "body.1"])
def test_channels_that_a_hook_may_read_stay(where):
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(without(nn.Conv2d(3, 6, 1), 0, 2), nn.ReLU()))
    model.add_module("last", nn.Conv2d(6, 2, 1))
    assert widths(shrunk(copy.deepcopy(model))[1]) == [4, 2]
    model.get_submodule(where).register_forward_hook(lambda *_: None)
    assert widths(shrunk(model)[1]) == [6, 2]


def test_code_that_nobody_thought_of_keeps_its_channels():
    class Indices(nn.Module):
        def forward(self, x):
            pooled, where = F.max_pool2d(x, 2, return_indices=True)
            return pooled + where.sum() * 0

    model = nn.Sequential(without(nn.Conv2d(3, 6, 1), 0, 2), Indices(), nn.Conv2d(6, 2, 1))
    assert widths(shrunk(model)[1]) == [6, 2]
