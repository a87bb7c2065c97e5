"""The modules of a model get what the nodes of its graph have; its forward gives the same."""

import copy

import pytest
import torch
from torch import nn

from sparse_ops.graph.capture import capture
from sparse_ops.graph.evaluate import evaluate
from sparse_ops.nn._constant import Constant
from sparse_ops.passes.shrink import shrink
from sparse_ops.passes.write_back import write_back_
from tests.passes.comparing import masked_, same
from tests.passes.networks import SIZE, chain, without


def sharing(model):
    """A copy of a model with the same tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def shrunk_graph(model):
    """(the model in float64, an input, its shrunk graph)."""
    model, masks = masked_(model)
    x = torch.randn(2, 3, SIZE, SIZE).double()
    graph = capture(model, (x,)).copy()
    assert shrink(graph, masks).changes
    return model, x, graph


class Shared(nn.Module):
    """Two layers of one weight and bias, one that is dead, and one that nothing is taken from."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.a = without(nn.Conv2d(3, 6, 3, bias=False), 0, 4)
        self.b, self.c = without(nn.Conv2d(6, 6, 1), 0, 4), nn.Conv2d(6, 6, 1)
        self.b.bias.data[[0, 4]] = 0
        self.c.weight, self.c.bias = self.b.weight, self.b.bias
        self.norm = nn.BatchNorm2d(6)
        self.dead = without(nn.Conv2d(6, 6, 1), *range(6))
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = self.c(torch.relu(self.b(self.a(self.first(x)))))
        x = self.deep(self.norm(x)) + self.dead(x)
        return self.fc(x.mean((2, 3)))


def test_modules_have_the_sizes_and_tensors_of_their_nodes_and_nothing_is_copied():
    model, x, graph = shrunk_graph(Shared())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    twin = sharing(model)
    write_back_(twin, graph)
    assert twin.b.weight is twin.c.weight and twin.b.bias is twin.c.bias
    assert twin.b.weight is graph.named("b").parameters["weight"]
    assert (twin.a.out_channels, twin.b.in_channels, twin.c.out_channels) == (4, 4, 4)
    assert (twin.deep.groups, twin.norm.num_features, twin.fc.in_features) == (4, 4, 4)
    assert isinstance(twin.dead, Constant) and isinstance(twin.a.weight, nn.Parameter)
    # What has not changed is the model's own.
    for name in ("first.weight", "first.bias"):
        assert dict(twin.named_parameters())[name] is dict(model.named_parameters())[name]
    same(evaluate(graph, (x,)), twin(x))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_gradients_are_wanted_of_what_they_were_wanted_of():
    model = chain(padding=0)
    model[0].weight.requires_grad_(False)
    model, _, graph = shrunk_graph(model)
    twin = sharing(model)
    write_back_(twin, graph)
    assert not twin[0].weight.requires_grad and twin[0].bias.requires_grad
    assert twin[1].running_mean.shape == (5,) and not twin[1].running_mean.requires_grad
    assert set(twin.state_dict()) == set(model.state_dict())


def test_a_graph_of_a_constant_is_written_to_a_model_that_has_it_already():
    model, x, graph = shrunk_graph(Shared())
    twin = sharing(model)
    write_back_(twin, graph)
    again = sharing(twin)
    again.dead.bias = nn.Parameter(torch.zeros_like(twin.dead.bias))
    write_back_(again, graph)
    same(twin(x), again(x), 0)


def replaced(model, name, module):
    setattr(model, name, module)
    return model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: replaced(m, "a", nn.Linear(3, 6)), "a must be a Conv2d, got a Linear"),
        (
            lambda m: replaced(m, "a", nn.Conv2d(3, 6, 3, stride=2)),
            r"a must have stride=\(1, 1\), got \(2, 2\)",
        ),
        (
            lambda m: replaced(m, "deep", nn.Conv2d(6, 6, 5, padding=2, groups=6)),
            r"deep must have kernel=\(3, 3\), got \(5, 5\)",
        ),
        (
            lambda m: replaced(m, "norm", nn.BatchNorm2d(6, 0.1)),
            "norm must have eps=1e-05",
        ),
        (
            lambda m: replaced(m, "dead", nn.Conv2d(6, 6, 3)),
            r"dead must have the geometry \(\(0, 0\), \(1, 1\), \(1, 1\)\), got .*\(3, 3\)",
        ),
        (lambda m: delattr(m, "fc") or m, "the model has no module 'fc'"),
    ],
)
def test_a_module_that_its_node_does_not_fit_is_an_error_and_nothing_is_written(change, words):
    model, _, graph = shrunk_graph(Shared())
    twin = change(sharing(model))
    with pytest.raises(ValueError, match=words):
        write_back_(twin, graph)
    assert twin.b.weight is model.b.weight and twin.b.in_channels == 6


def test_what_modules_cannot_do_is_an_error():
    model, _, graph = shrunk_graph(Shared())
    other = graph.copy()
    other.named("a").attributes["activation"] = "relu"
    with pytest.raises(ValueError, match="a ends with relu in the graph"):
        write_back_(sharing(model), other)
    other = graph.copy()
    other.named("a").module = None
    with pytest.raises(ValueError, match=r"a \(conv2d\) is no module of the model"):
        write_back_(sharing(model), other)


def test_a_module_whose_calls_have_different_weights_is_an_error():
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(conv, nn.ReLU(), conv)
    graph = capture(model.eval(), (torch.randn(1, 3, 4, 4),)).copy()
    graph.nodes[0].parameters["weight"] = nn.Parameter(torch.zeros(3, 3, 1, 1))
    with pytest.raises(ValueError, match="0 is called twice, with different weights"):
        write_back_(model, graph)
