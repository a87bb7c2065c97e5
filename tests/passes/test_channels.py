"""What is known of the channels of a graph, apart from what is removed for it."""

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.graph.capture import Uncaptured, capture
from sparse_ops.graph.channel_rules import RULES
from sparse_ops.graph.channels import Unanalysed, analyse
from sparse_ops.graph.ops import OPS
from tests.passes.comparing import shrunk, widths
from tests.passes.networks import SIZE, without


def reasons(model, name):
    """Why the outputs of a layer must stay; None for those that need not."""
    graph = capture(model.eval(), (torch.randn(2, 3, SIZE, SIZE),))
    analysis = analyse(graph)
    (layer,) = [layer for layer in analysis.layers.values() if name in layer.names]
    return {analysis.classes.stays(id_) for id_ in layer.outputs}


def test_every_operation_has_a_rule():
    assert RULES.keys() == OPS.keys() | {"call"}


def test_constants_are_known_in_float64_and_others_are_not():
    model = nn.Sequential(without(nn.Conv2d(3, 4, 1), 1, 2), nn.Sigmoid(), nn.AvgPool2d(2)).double()
    graph = capture(model.eval(), (torch.randn(2, 3, SIZE, SIZE).double(),))
    channels = analyse(graph).channels(graph.outputs()[0])
    assert channels is not None and channels.axis == 1
    assert channels.constant.isnan().tolist() == [True, False, False, True]
    want = torch.sigmoid(model[0].bias.detach()[1:3])
    torch.testing.assert_close(channels.constant[1:3], want, rtol=1e-15, atol=0)


def test_a_packed_layer_keeps_what_it_reads_and_gives():
    dense = nn.Conv2d(6, 4, 1)
    with torch.no_grad():
        dense.weight[torch.rand(4, 6) < 0.5] = 0
        dense.weight[:, 1] = 0
    packed = so.nn.CSRConv2d.from_dense(dense, dense.weight != 0)
    model = nn.Sequential(without(nn.Conv2d(3, 6, 1), 1), packed, nn.Conv2d(4, 2, 1)).eval()
    assert reasons(model, "0") == {"1 is packed already"}
    graph = capture(model, (torch.randn(2, 3, SIZE, SIZE),))
    (known,) = [n.output for n in graph if n.module == "1"]
    assert analyse(graph).channels(known) is None


def test_softmax_needs_all_of_its_channels():
    model = nn.Sequential(
        without(nn.Conv2d(3, 6, 1), 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Softmax(1)
    )
    assert reasons(nn.Sequential(model, nn.Linear(6, 2)), "0.0") == {"0.3 mixes the channels"}


class Sizes(nn.Module):
    """Asks for something of what a layer gives."""

    def __init__(self, ask):
        super().__init__()
        self.a, self.b, self.ask = without(nn.Conv2d(3, 6, 1), 0, 2), nn.Conv2d(6, 2, 1), ask

    def forward(self, x):
        x = self.a(x)
        return self.b(x) * self.ask(x)


@pytest.mark.parametrize(
    ("ask", "left"),
    [
        (lambda x: x.size(0), 4),
        (lambda x: x.shape[-1], 4),
        (lambda x: x.shape[3], 4),
        (lambda x: x.shape[2:][0], 4),
        (lambda x: x.dim(), 4),
        (lambda x: x.size(1), 6),
        (lambda x: x.shape[1], 6),
        (lambda x: x.shape[1:][0], 6),
        (lambda x: x.numel(), 6),
    ],
)
def test_sizes_may_be_asked_for_but_not_the_number_of_channels(ask, left):
    _, graph = shrunk(Sizes(ask))
    assert widths(graph) == [left, 2]


@pytest.mark.parametrize(
    "through",
    [
        lambda x: x[:, :, ::2, 1:],
        lambda x: x.amax((2, 3), keepdim=True),
        lambda x: x.mean(3, keepdim=True),
        lambda x: nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: nn.functional.selu(x),
        lambda x: torch.add(x, x, alpha=2),
        lambda x: x.contiguous(),
        lambda x: nn.functional.interpolate(x, size=(5, 7)),
    ],
)
def test_calls_that_leave_channels_alone_are_known(through):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = without(nn.Conv2d(3, 6, 1), 0, 2), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.b(through(self.a(x)))

    assert widths(shrunk(Net())[1]) == [4, 2]


def test_squeezed_and_flattened_values_are_followed():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.fc = without(nn.Conv2d(3, 6, 1), 0, 2), nn.Linear(6, 2)

        def forward(self, x):
            x = self.a(x).mean((2, 3), keepdim=True).squeeze(3).squeeze(2)
            return self.fc(x.flatten(1))

    assert shrunk(Net())[1].fc.in_features == 4


@pytest.mark.parametrize("where", ["", "0"])
def test_hooks_on_what_is_no_node_are_an_error(where):
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 6, 1)), nn.ReLU()).eval()
    model.get_submodule(where).register_forward_hook(lambda *_: None)
    with pytest.raises((Unanalysed, Uncaptured), match="has hooks"):
        analyse(capture(model, (torch.randn(1, 3, 4, 4),)))


def test_a_weight_that_another_kind_of_layer_reads_keeps_its_rows():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = without(nn.Conv2d(3, 6, 1), 0, 2), nn.Conv2d(6, 2, 1)
            self.c = nn.Conv2d(6, 6, 1, groups=6)
            self.d = nn.Conv2d(1, 6, 1)
            self.d.weight = self.c.weight

        def forward(self, x):
            return self.b(self.c(self.a(x)) + self.d(x[:, :1]))

    assert reasons(Tied(), "a") == {"c shares its weight with d, a layer of another kind"}


def test_a_weight_of_a_module_that_is_not_called_keeps_its_rows():
    model = nn.Sequential(without(nn.Conv2d(3, 6, 1), 0, 2), nn.Conv2d(6, 2, 1))
    model[0].spare = nn.Conv2d(3, 6, 1)
    model[0].spare.weight = model[0].weight
    graph = capture(model.eval(), (torch.randn(1, 3, 4, 4),))
    analysis = analyse(graph)
    assert [layer.name for layer in analysis.layers.values()] == ["1"]
