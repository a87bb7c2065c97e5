import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import sparse_ops as so
from sparse_ops.graph import trace
from sparse_ops.graph.capture import Uncaptured, capture
from sparse_ops.graph.evaluate import evaluate
from tests.convert import golden
from tests.convert.small_networks import MODELS, images, model_of

X = (2, 8, 6, 6)


def captured(function, *layers, x=None):
    """(graph of a module with this forward, its model, x)."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, x):
            return function(x, *self.layers)

    model, x = Model().eval(), torch.randn(X) if x is None else x
    return capture(model, (x,)), model, x


def assert_same(graph, model, x):
    with torch.no_grad():
        pairs = zip(
            tree_leaves(evaluate(graph, (x.clone(),))), tree_leaves(model(x.clone())), strict=True
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def ops(graph):
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("name", so.models.MODELS)
def test_our_networks_are_known_in_all_parts_and_give_the_same(name):
    model, x = golden.network(name)
    graph = capture(model, (x,))
    assert "call" not in ops(graph)
    assert_same(graph, model, x)
    # Of another size, too.
    assert_same(graph, model, torch.cat([x, x]))


@pytest.mark.parametrize("kind", MODELS)
def test_graphs_of_any_shape_give_what_the_model_gives(kind):
    model = model_of(kind)
    assert_same(capture(model, (images(3),)), model, images(3))


def test_a_model_is_traced_once(monkeypatch):
    counts = {"trace": 0, "run": 0}
    traced = trace.Tracer.trace

    def counted(self, *args, **kwargs):
        counts["trace"] += 1
        return traced(self, *args, **kwargs)

    monkeypatch.setattr(trace.Tracer, "trace", counted)
    model, x = golden.network("resnet18")
    convolved = nn.Conv2d.forward

    def run(self, x):
        counts["run"] += self is model.conv1
        return convolved(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", run)
    graph = capture(model, (x,))
    # Once by its own code, and once as a graph, which has to give the same.
    assert counts == {"trace": 1, "run": 2}
    # No tensor was copied.
    held = {id(t) for t in (*model.parameters(), *model.buffers())}
    assert all(id(t) in held for node in graph.nodes for t in node.parameters.values())


FUNCTIONS = {
    "unary": lambda x: F.leaky_relu(torch.sigmoid(x).relu(), 0.2) + F.gelu(x, approximate="tanh"),
    "scalars": lambda x: (2 - (x * 3 + 1) / 4) - 0.5,
    "clamp": lambda x: x.clamp(min=-0.5) + F.hardtanh(x) + torch.clamp(x, -1, 0.3),
    "pools": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True) + F.avg_pool2d(x, 3, 2, 1, True),
    "means": lambda x: x.mean((2, 3), keepdim=True) * x + x.mean([-1, -2])[:, :, None, None],
    "chunks": lambda x: torch.cat([x.chunk(2, 1)[1], x.split([3, 5], dim=1)[0], x[:, 2:4]], 1),
    "shuffle": lambda x: F.channel_shuffle(x, 4),
    "upsample": lambda x: F.interpolate(x, scale_factor=2) + F.interpolate(
        x, scale_factor=2, mode="bilinear", align_corners=True
    ),
    "flat": lambda x: F.log_softmax(x.view(x.size(0), -1), dim=-1) * x.flatten(1).sigmoid(),
    "padded": lambda x: F.pad(x, (1, 0, 2, 1), value=3.0),
    "unknown": lambda x: torch.fft.rfft2(x).abs().cumsum(1),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_methods_are_what_torch_does(name):
    graph, model, x = captured(FUNCTIONS[name])
    assert_same(graph, model, x)
    assert ("call" in ops(graph)) == (name in ("unknown", "means", "scalars", "flat"))


def test_what_is_written_in_place_is_a_new_value():
    def inplace(x, conv):
        y = conv(x)
        z = y + 1
        y += z
        y.relu_()
        return F.relu(y, inplace=True) * z, y

    graph, model, x = captured(inplace, nn.Conv2d(8, 8, 3))
    assert_same(graph, model, x)


REFUSED = {
    "an input": lambda x, conv: conv(x.relu_()),
    "seen through a view": lambda x, conv: (lambda y: (y.flatten(1), y.relu_())[0] + 1)(conv(x)),
    "in part": lambda x, conv: (lambda y: (y.__setitem__(0, 0.0), y)[1])(conv(x)),
    "a named tensor": lambda x, conv: torch.add(x, x, out=conv(x)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_writes_that_others_may_see_are_refused_in_words(case):
    with pytest.raises(Uncaptured, match=r"in place|writes to|does not run"):
        captured(REFUSED[case], nn.Conv2d(8, 8, 1))


def test_a_written_down_size_is_noted():
    graph, _, _ = captured(lambda x: x.view(-1, 8 * 36))
    assert graph.nodes[0].op == "flatten" and graph.nodes[0].attributes["fixed"]
    graph, _, _ = captured(lambda x: x.view(x.shape[0], -1))
    assert not graph.nodes[0].attributes["fixed"]


def test_a_module_with_hooks_is_called_as_it_is():
    relu = nn.ReLU()
    relu.register_forward_hook(lambda module, inputs, output: output * 2)
    graph, model, x = captured(lambda x, relu: relu(x), relu)
    assert ops(graph) == ["call"]
    assert_same(graph, model, x)


class Untraceable(nn.Module):
    def forward(self, x):
        return x if x.sum() > 1e9 else x * 2


def test_what_cannot_be_traced_is_one_node_and_noted():
    graph, model, x = captured(lambda x, a, b: b(a(x)), nn.Conv2d(8, 8, 1), Untraceable())
    assert ops(graph) == ["conv2d", "call"] and "cannot trace" in graph.notes[0]
    assert_same(graph, model, x)


class Quiet(nn.Conv2d):
    """A subclass that computes nothing else."""

    extra = "yes"


class Loud(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


def test_subclasses_are_layers_if_they_compute_nothing_else():
    graph, model, x = captured(lambda x, a, b: b(a(x)), Quiet(8, 8, 1), Loud(8, 8, 1))
    assert "conv2d" in ops(graph)
    assert_same(graph, model, x)


def test_packed_layers_and_what_was_folded_are_known():
    conv = nn.Conv2d(8, 8, 3, padding=1)
    packed = so.nn.CSRConv2d.from_dense(conv, torch.rand_like(conv.weight) > 0.5, activation="relu")
    graph, model, x = captured(lambda x, a: a(x), packed)
    about = graph.nodes[0].attributes
    assert about["packed"] is not None and about["activation"] == "relu"
    with torch.no_grad():
        torch.testing.assert_close(evaluate(graph, (x,)), model(x), rtol=1e-5, atol=1e-5)


def test_a_graph_can_be_copied_and_changed_alone():
    model, x = golden.network("resnet18")
    graph = capture(model, (x,))
    before = str(graph)
    twin = graph.copy().verify()
    node = next(node for node in twin.nodes if node.op == "unary")
    twin.replace(node.output, node.inputs[0])
    twin.erase(node)
    twin.verify()
    assert str(graph) == before and str(twin) != before
    assert copy.copy(graph.inputs) == graph.inputs


class Standardised(nn.Conv2d):
    """A convolution whose weight is worked out in each call, and a sum that names no `out`."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        y = F.silu(F.conv2d(x, weight, self.bias), inplace=True)
        return F.normalize(y, dim=1)


def test_what_functions_give_is_nobody_else_s():
    model, x = nn.Sequential(Standardised(3, 4, 3)).eval(), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(evaluate(capture(model, (x,)), (x,)), model(x))
