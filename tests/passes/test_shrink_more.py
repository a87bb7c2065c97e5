"""Operations that a graph knows and a traced model did not: channels go through them, too."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparse_ops.nn._constant import Constant
from sparse_ops.passes.fold_norms import fold_norms
from sparse_ops.passes.fuse import fuse
from sparse_ops.passes.shrink import shrink
from tests.passes.comparing import changed, masked_, shrunk, widths
from tests.passes.networks import SIZE, chain, norm, without


class Through(nn.Module):
    """A convolution with dead filters, something, and a convolution that reads it."""

    def __init__(self, through, *dead, after=6, width=6):
        super().__init__()
        self.a = without(nn.Conv2d(3, width, 1), *dead)
        self.last = nn.Conv2d(after, 2, 1)
        self.through = through

    def forward(self, x):
        return self.last(self.through(self.a(x)))


@pytest.mark.parametrize(
    ("pick", "after", "width"),
    [
        # Channels 4 and 5 are read by nobody; those before are counted by the code.
        (lambda x: x[:, 1:4], 3, 4),
        (lambda x: x.narrow(1, 1, 3), 3, 4),
        # Nothing says how many there are after the second.
        (lambda x: x[:, 2:], 4, 4),
        (lambda x: x[:, -2:], 2, 2),
        (lambda x: x[:, :-3], 3, 4),
        (lambda x: torch.cat([x[:, :2], x[:, 2:]], 1), 6, 4),
    ],
)
def test_a_slice_goes_on_picking_what_its_code_says(pick, after, width):
    done, small = shrunk(Through(pick, 0, 2, 4, after=after))
    assert widths(small) == [width, 2]
    assert "writes down how many channels" in done.cuts["a"].why or not done.cuts["a"].kept


@pytest.mark.parametrize(
    ("parts", "width"),
    [
        (lambda x: x.chunk(2, 1), 4),
        (lambda x: list(torch.chunk(x, 2, dim=1)), 4),
        # Pieces that are not alike are as wide as the code works out from the whole.
        (lambda x: (x.chunk(4, 1)[0], torch.cat(x.chunk(4, 1)[1:], 1)), 6),
        (lambda x: x.split([2, 4], dim=1), 6),
        (lambda x: torch.split(x, 3, 1), 6),
    ],
)
def test_pieces_lose_equally_many_channels_unless_their_sizes_are_written_down(parts, width):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = without(nn.Conv2d(3, 6, 1), 0, 4, 5)
            self.b = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            left, right = parts(self.a(x))
            return self.b(torch.cat([torch.relu(right), left], 1))

    _, small = shrunk(Net())
    assert widths(small) == [width, 2]


def test_channels_go_through_a_shuffle_only_together():
    # Of three groups of four: channel 1 of each is dead, channel 3 of one only.
    model = Through(lambda x: F.channel_shuffle(x, 3), 1, 5, 9, 3, after=12, width=12)
    done, graph = shrunk(model)
    assert widths(graph) == [9, 2]
    assert "last" in done.cuts["a"].why and done.cuts["a"].kept == 1


def test_different_constants_that_only_go_together_are_carried_each_with_its_weight():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = without(nn.Conv2d(3, 6, 1), 0, 1, 2, 3)
            self.b = nn.Conv2d(12, 2, 3, padding=1)

        def forward(self, x):
            x = self.a(x)
            return self.b(torch.cat([torch.relu(x), x * 2], 1))

    model = Net()
    with torch.no_grad():
        model.a.bias[:4] = torch.tensor([-1.0, -3.0, 2.0, 0.5])
    _, small = shrunk(model)
    assert small.a.out_channels == 3


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_constants_go_through_upsampling(mode):
    through = lambda x: F.interpolate(x, scale_factor=2, mode=mode)  # noqa: E731
    assert widths(shrunk(Through(through, 0, 4))[1]) == [4, 2]


@pytest.mark.parametrize("function", [torch.maximum, torch.minimum])
def test_the_larger_and_the_smaller_of_two_constants_are_constants(function):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = without(nn.Conv2d(3, 6, 1), 0, 2)
            self.b = without(nn.Conv2d(3, 6, 1), 2, 3)
            self.last = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.last(function(self.a(x), self.b(x)))

    assert widths(shrunk(Net())[1]) == [5, 5, 2]


def test_flat_values_are_concatenated():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = without(nn.Conv2d(3, 4, 1), 1)
            self.b = without(nn.Conv2d(3, 4, 1), 0, 3)
            self.fc = nn.Linear(4 + 4 * 4, 3)

        def forward(self, x):
            a = self.a(x).mean((2, 3))
            return self.fc(torch.cat([a, F.adaptive_max_pool2d(self.b(x), 2).flatten(1)], 1))

    _, small = shrunk(Net())
    assert widths(small) == [3, 2] and small.fc.in_features == 3 + 2 * 4


def test_a_written_flattened_size_keeps_the_channels():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = without(nn.Conv2d(3, 4, 1), 1)
            self.fc = nn.Linear(4 * SIZE * SIZE, 3)

        def forward(self, x):
            return self.fc(self.a(x).view(-1, 4 * SIZE * SIZE))

    done, small = shrunk(Net())
    assert widths(small) == [4] and "writes down" in done.cuts["a"].why


def test_features_of_tokens_are_channels_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = without(nn.Linear(3, 8), 1, 2, 5)
            self.b = nn.Linear(8, 4)

        def forward(self, x):
            return self.b(F.gelu(self.a(x)))

    _, small = shrunk(Net(), torch.randn(2, 5, 3))
    assert (small.a.out_features, small.b.in_features) == (5, 5)


def test_numbers_on_either_side_bend_constants():
    assert widths(shrunk(Through(lambda x: (1 - x) / 3 + 0.25, 0, 4))[1]) == [4, 2]


def test_what_is_infinite_is_no_constant():
    model = Through(lambda x: torch.sigmoid(1 / x), 0)
    model.a.bias.data[0] = 0
    assert widths(shrunk(model)[1]) == [6, 2]


def test_a_layer_that_is_a_constant_already_shrinks_along():
    constant = Constant(without(nn.Conv2d(4, 6, 3, padding=1), *range(6)))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), constant, nn.ReLU(), nn.Conv2d(6, 2, 1))
    with torch.no_grad():
        model[3].weight[:, 1] = 0
    _, small = shrunk(model)
    # The last layer gives a constant as well: all of it is in its bias.
    assert len(small[1].bias) == 1 and isinstance(small[0], Constant)


def test_an_activation_inside_a_batch_norm_bends_the_constant():
    class Activated(nn.BatchNorm2d):
        """As timm has them."""

        def __init__(self, width):
            super().__init__(width)
            self.drop, self.act = nn.Identity(), nn.SiLU()

        def forward(self, x):
            return self.act(self.drop(super().forward(x)))

    own = Activated(6)
    own.load_state_dict(norm(6).state_dict())
    model = nn.Sequential(without(nn.Conv2d(3, 6, 1), 0, 4), own, nn.Conv2d(6, 2, 1))
    _, small = shrunk(model)
    assert widths(small) == [4, 2] and small[1].num_features == 4


def test_a_part_that_cannot_be_traced_keeps_what_it_is_given_and_what_it_reads():
    class Opaque(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x) if bool(x.sum() > 0) else self.layer(-x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = without(nn.Conv2d(3, 6, 1), 0, 4), without(nn.Conv2d(6, 6, 1), 1)
            self.c = without(nn.Conv2d(6, 6, 1), 2, 3)
            self.opaque, self.last = Opaque(self.c), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.last(self.opaque(self.b(self.a(x))) + self.c(x.repeat(1, 2, 1, 1)))

    # Two traces fail, one of them with buffers as they are; one does without what failed.
    done, small = shrunk(Net(), writes=False, traces=3)
    assert widths(small) == [4, 6, 6, 2] and "Opaque" in done.cuts["b"].why


@pytest.mark.parametrize("passes", [[fold_norms], [fuse], [fold_norms, fuse]])
def test_folded_and_fused_graphs_shrink_as_well(passes):
    model, masks = masked_(chain(padding=0))

    def change(graph):
        for one in passes:
            one(graph)
        return shrink(graph, masks)

    done, graph = changed(model, torch.randn(2, 3, SIZE, SIZE).double(), change)
    assert widths(graph) == [5, 4] and done.changes


def test_a_layer_that_adds_another_tensor_itself_keeps_its_channels():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = without(nn.Conv2d(3, 6, 1), 1), without(nn.Conv2d(6, 6, 1), 1)
            self.last = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            x = self.a(x)
            return self.last(torch.relu(self.b(x) + x))

    model, masks = masked_(Net())

    def change(graph):
        fuse(graph)
        assert graph.named("b").attributes["residual"]
        return shrink(graph, masks)

    done, graph = changed(model, torch.randn(2, 3, SIZE, SIZE).double(), change)
    assert widths(graph) == [6, 6, 2]
    assert done.cuts["a"].why == "1 as b adds another tensor itself"
