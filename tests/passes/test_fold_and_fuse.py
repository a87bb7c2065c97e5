import torch
from torch import nn
from torch.nn import functional as F

from sparse_ops.graph.capture import capture
from sparse_ops.graph.evaluate import evaluate
from sparse_ops.passes.fold_norms import fold_norms
from sparse_ops.passes.fuse import fuse
from tests.convert import golden
from tests.graph.test_capture import captured, ops


def close(graph, model, x):
    with torch.no_grad():
        torch.testing.assert_close(evaluate(graph, (x,)), model(x), rtol=1e-5, atol=1e-5)


def test_norms_and_sums_and_activations_become_parts_of_layers():
    model, x = golden.network("resnet18")
    graph = capture(model, (x,))
    before = len(graph.nodes)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = fold_norms(graph)
    fuse(graph.verify())
    graph.verify()
    assert (before, len(graph.nodes)) == (68, 23) and len(done) == 20
    assert done["layer1.0.conv1"] == "layer1.0.bn1"
    close(graph, model, x)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_an_activation_inside_of_a_norm_is_taken_with_its_slope():
    class Norm(nn.BatchNorm2d):
        """As timm's."""

        def __init__(self):
            super().__init__(8)
            self.drop, self.act = nn.Identity(), nn.LeakyReLU(0.3)

        def forward(self, x):
            return self.act(self.drop(super().forward(x)))

    graph, model, x = captured(lambda x, conv, norm: norm(conv(x)), nn.Conv2d(8, 8, 1), Norm())
    fold_norms(graph)
    assert ops(graph.verify()) == ["conv2d", "unary"]
    close(graph, model, x)
    fuse(graph)
    assert ops(graph.verify()) == ["conv2d"]
    assert graph.nodes[0].attributes["activation"] == "leaky_relu(0.3)"
    close(graph, model, x)


def test_a_norm_that_another_layer_shares_stays():
    norm = nn.BatchNorm2d(8)
    layers = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), norm
    graph, model, x = captured(lambda x, a, b, n: n(b(n(a(x)))), *layers)
    assert fold_norms(graph) == {} and ops(graph).count("batch_norm") == 2
    close(graph, model, x)


def test_a_norm_of_what_is_used_elsewhere_stays():
    def forward(x, conv, norm):
        y = conv(x)
        return norm(y) + y

    graph, model, x = captured(forward, nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    assert fold_norms(graph) == {}
    close(graph, model, x)


class Offset(nn.Module):
    """Adds a parameter as large as the example, of a batch of one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.offset = nn.Parameter(torch.randn(1, 8, 6, 6))

    def forward(self, x):
        return F.relu(self.conv(x) + self.offset)


def test_a_parameter_as_large_as_the_example_is_no_residual():
    model = Offset().eval()
    graph = capture(model, (torch.randn(1, 8, 6, 6),))
    fuse(graph)
    assert sorted(ops(graph)) == ["binary", "call", "conv2d"]
    assert graph.named("conv").attributes["residual"] is False
    close(graph, model, torch.randn(4, 8, 6, 6))


def test_the_later_of_two_layers_takes_the_sum():
    graph, model, x = captured(
        lambda x, a, b: F.silu(a(x) + b(x)), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
    )
    fuse(graph.verify())
    assert ops(graph.verify()) == ["conv2d", "conv2d"]
    assert [n.attributes["residual"] for n in graph.nodes] == [False, True]
    assert graph.nodes[1].attributes["activation"] == "silu"
    close(graph, model, x)


def test_an_activation_that_others_do_not_see_stays():
    def forward(x, conv):
        y = conv(x)
        return F.relu(y) + y

    graph, model, x = captured(forward, nn.Conv2d(8, 8, 1))
    fuse(graph)
    assert graph.nodes[0].attributes["activation"] is None
    close(graph, model, x)
