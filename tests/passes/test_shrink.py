"""Each structure that channels are removed through; the rest gives what the masked model gave."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparse_ops as so
from sparse_ops.nn._constant import Constant
from tests.passes.comparing import shrunk, widths
from tests.passes.networks import chain, norm, without


@pytest.mark.parametrize("bias", [True, False])
def test_the_constants_of_removed_channels_go_into_the_bias_where_nothing_is_padded(bias):
    model = chain(padding=0, bias=bias)
    before = model[3].bias.clone()
    _, small = shrunk(model)
    assert widths(small) == [5, 4] and small[1].num_features == 5
    assert not torch.equal(small[3].bias, before)


def test_padding_with_zeros_leaves_one_channel_that_carries_all_constants():
    done, small = shrunk(chain(padding=1))
    assert widths(small) == [6, 4]
    assert done.cuts["0"].kept == 1 and "carries" in done.cuts["0"].why


def test_one_constant_channel_before_zero_padding_stays_and_the_reason_is_given():
    model = chain()
    model[0] = without(nn.Conv2d(3, 8, 3, padding=1), 4)
    done, small = shrunk(model)
    assert widths(small) == [8, 4]
    assert "cuts off at the border" in done.cuts["0"].why


def test_constants_of_zero_are_removed_before_zero_padding():
    model = chain()
    model[1].bias.data[[1, 2, 6]] = -100
    assert widths(shrunk(model)[1]) == [5, 4]


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_padding_than_with_zeros_keeps_constants_constant(mode):
    assert widths(shrunk(chain(mode=mode))[1]) == [5, 4]


@pytest.mark.parametrize("padding", ["same", (1, 0), (0, 2)])
def test_padding_by_words_and_on_one_side_counts(padding):
    assert widths(shrunk(chain(padding=padding))[1]) == [6, 4]


@pytest.mark.parametrize("act", [nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.Sigmoid(), nn.ReLU(True)])
def test_the_constant_is_bent_by_the_activation(act):
    assert widths(shrunk(chain(padding=0, act=act))[1]) == [5, 4]


def test_a_filter_whose_batch_norm_multiplies_by_zero_is_removed():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        model[1].weight[[2, 5]] = 0
    assert widths(shrunk(model)[1]) == [6, 4]


def test_channels_that_nothing_reads_are_removed_back_through_the_model():
    last = nn.Conv2d(8, 4, 1)
    middle = nn.Conv2d(6, 8, 3, padding=1)
    with torch.no_grad():
        last.weight[:, [1, 2]] = 0
        # The only filters that read channel 5 of the first layer are those two.
        middle.weight[[0, 3, 4, 5, 6, 7], 5] = 0
    model = nn.Sequential(nn.Conv2d(3, 6, 3), norm(6), nn.ReLU(), middle, nn.ReLU(), last)
    assert widths(shrunk(model)[1]) == [5, 6, 4]


class Block(nn.Module):
    """A residual block; `act` is what follows the sum."""

    def __init__(self, dead, dead_shortcut, inplace=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.a, self.na = without(nn.Conv2d(4, 6, 3, padding=1), *dead), norm(6)
        self.b, self.nb = without(nn.Conv2d(4, 6, 1), *dead_shortcut), norm(6)
        self.last = nn.Conv2d(6, 2, 1)
        self.inplace = inplace

    def forward(self, x):
        x = self.stem(x)
        y = self.na(self.a(x))
        if self.inplace:
            y += self.nb(self.b(x))
        else:
            y = torch.add(y, self.nb(self.b(x)))
        return self.last(F.relu(y))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_channel_goes_through_a_sum_only_if_it_is_dead_on_both_sides(inplace):
    done, small = shrunk(Block((0, 1, 2), (1, 2, 5), inplace))
    assert (small.a.out_channels, small.b.out_channels, small.last.in_channels) == (4, 4, 4)
    assert done.cuts["a"].kept == 1 and "last" in done.cuts["a"].why


class Cat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = without(nn.Conv2d(3, 4, 1), 0)
        self.b = without(nn.Conv2d(3, 5, 1), 1, 2)
        self.norm = norm(9)
        self.last = nn.Conv2d(9, 2, 1)

    def forward(self, x):
        return self.last(F.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1))))


def test_channels_go_through_concatenation():
    _, small = shrunk(Cat())
    assert widths(small) == [3, 3, 2] and small.norm.num_features == 6


def test_depthwise_channels_go_with_what_they_read():
    model = nn.Sequential(
        without(nn.Conv2d(3, 8, 1), 1, 2),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        norm(8),
        nn.ReLU6(),
        nn.Conv2d(8, 4, 1),
    )
    model[0].bias.data[[1, 2]] = -1
    _, small = shrunk(model)
    assert widths(small) == [6, 6, 4] and small[2].groups == 6


def test_a_depthwise_channel_with_a_constant_before_zero_padding_stays():
    model = nn.Sequential(
        without(nn.Conv2d(3, 8, 1), 1, 2),
        norm(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 4, 1),
    )
    done, small = shrunk(model)
    assert widths(small) == [8, 8, 4]
    assert done.cuts["0"].kept == 2 and "border" in done.cuts["0"].why


def test_groups_stay_even_or_go_whole():
    def grouped(*dead):
        first = without(nn.Conv2d(3, 8, 1), *dead)
        first.bias.data[list(dead)] = 0
        return nn.Sequential(first, nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.Conv2d(12, 4, 1))

    # One input of each group of two; then the same and both of the last group.
    _, small = shrunk(grouped(0, 2, 5, 7))
    assert (small[0].out_channels, small[1].groups, small[1].out_channels) == (4, 4, 12)
    done, small = shrunk(grouped(0, 2))
    assert small[0].out_channels == 8 and "even" in done.cuts["0"].why
    model = grouped(6, 7)
    without(model[1], 9, 10, 11)
    _, small = shrunk(model)
    assert (small[0].out_channels, small[1].groups, small[1].out_channels) == (6, 3, 9)


@pytest.mark.parametrize("flat", [nn.Flatten(), None, "view", "reshape"])
def test_channels_go_through_pooling_dropout_and_flattening_to_a_linear_layer(flat):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = without(nn.Conv2d(3, 6, 3), 0, 4)
            self.norm, self.pool, self.drop = norm(6), nn.MaxPool2d(2), nn.Dropout(0.5)
            self.fc = nn.Linear(6 * 9, 5)
            self.flat = flat

        def forward(self, x):
            x = self.drop(self.pool(F.relu(self.norm(self.a(x)))))
            if self.flat == "view":
                x = x.view(x.size(0), -1)
            elif self.flat == "reshape":
                x = x.reshape(x.shape[0], -1)
            else:
                x = torch.flatten(x, 1) if self.flat is None else self.flat(x)
            return self.fc(F.dropout(x, 0.5, self.training))

    _, small = shrunk(Net())
    assert small.a.out_channels == 4 and small.fc.in_features == 36


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(2),
        nn.AdaptiveMaxPool2d(1),
        nn.MaxPool2d(3, 2, 1),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    ],
)
def test_constants_go_through_pooling(pool):
    model = nn.Sequential(without(nn.Conv2d(3, 6, 1), 0, 4), norm(6), pool, nn.Conv2d(6, 2, 1))
    assert widths(shrunk(model)[1]) == [4, 2]


def test_an_average_over_padding_is_no_constant():
    pool = nn.AvgPool2d(3, 1, 1)
    model = nn.Sequential(without(nn.Conv2d(3, 6, 1), 0, 4), norm(6), pool, nn.Conv2d(6, 2, 1))
    assert widths(shrunk(model)[1]) == [6, 2]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = without(nn.Conv2d(3, 6, 1), 0, 2)
        self.body = without(nn.Conv2d(6, 6, 1), 0, 3)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.last(self.body(torch.relu(self.body(x))))


def test_a_module_called_twice_loses_channels_that_nothing_needs_in_either_call():
    model = Twice()
    model.stem.bias.data[[0, 2]] = 0
    model.body.bias.data[[0, 3]] = torch.tensor([0.0, 1.0])
    _, small = shrunk(model)
    # Channel 0 is zero whenever body reads it; 3 is dead in its output only.
    assert small.body.in_channels == small.body.out_channels == 5
    assert small.stem.out_channels == 5


def test_constants_that_differ_between_two_calls_are_not_folded():
    model = Twice()
    model.stem.bias.data[0], model.body.bias.data[0] = 1.0, 2.0
    with torch.no_grad():
        model.stem.weight[2] = 1
        model.body.weight[3] = 1
    assert shrunk(model)[1].body.in_channels == 6


def test_layers_that_share_a_weight_still_share_it():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = without(nn.Conv2d(3, 6, 1), 0, 2)
            self.b, self.c = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
            self.c.weight = self.b.weight
            without(self.b, 0, 2)
            self.last = nn.Conv2d(6, 2, 1)
            for layer in (self.a, self.b):
                layer.bias.data[[0, 2]] = 0
            self.c.bias.data[[0, 2]] = 0.5

        def forward(self, x):
            return self.last(self.c(self.b(self.a(x))))

    _, small = shrunk(Shared())
    assert small.b.weight is small.c.weight and small.b.weight.shape[:2] == (4, 4)


def test_the_gate_of_a_squeeze_and_excitation_block_shrinks_along():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm = without(nn.Conv2d(3, 8, 3), 1, 5), norm(8)
            self.fc1, self.fc2 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
            self.last = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = F.relu(self.norm(self.a(x)))
            gate = torch.sigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))
            return self.last(x * gate)

    model = Gated()
    model.norm.bias.data.fill_(-9)
    model.norm.bias.data[[0, 2, 3, 4, 6, 7]] = 3
    _, small = shrunk(model)
    assert small.a.out_channels == small.fc2.out_channels == small.last.in_channels == 6


def test_zeros_that_the_code_pads_as_channels_go_through():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = without(nn.Conv2d(3, 4, 1), 1)
            self.b = without(nn.Conv2d(4, 8, 3, 2, 1), 3)
            self.last = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = self.a(x)
            return self.last(self.b(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))

    model = Padded()
    model.a.bias.data[1] = 0
    _, small = shrunk(model)
    assert (small.a.out_channels, small.b.out_channels) == (3, 7)


def test_a_layer_without_any_weight_becomes_its_bias():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        without(nn.Conv2d(6, 4, 3, 2, 1), 0, 1, 2, 3),
        nn.ReLU(True),
        nn.Conv2d(4, 2, 3, padding=1),
    )
    done, small = shrunk(model)
    assert isinstance(small[2], Constant) and isinstance(small[0], Constant)
    assert done.cuts["2"].constant
    assert sum(p.numel() for p in small.parameters()) < 60


def test_a_dead_branch_becomes_its_bias_and_the_shortcut_lives():
    model = Block(range(6), ())
    _, small = shrunk(model)
    assert isinstance(small.a, Constant) and small.b.out_channels == 6


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_masks_of_any_sparsity(sparsity):
    torch.manual_seed(1)
    model = so.models.resnet18(10).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.bias.data.uniform_(-1, 1)
    masks = {n: torch.rand_like(p) >= sparsity for n, p in so.masks.prunable(model).items()}
    so.masks.apply_(model, masks)
    shrunk(model)
