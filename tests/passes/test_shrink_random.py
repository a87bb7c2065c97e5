"""Random small networks with dead channels: the shrunk one gives what the masked one gives."""

import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from sparse_ops.graph.capture import Uncaptured
from sparse_ops.graph.evaluate import evaluate
from sparse_ops.passes.shrink import shrink
from tests.passes.comparing import changed, masked_, same, written
from tests.passes.networks import KINDS, Random


def numbers(graph):
    """How many there are in the layers of a graph."""
    tensors = {id(t): t for node in graph for t in node.parameters.values()}
    return sum(tensor.numel() for tensor in tensors.values())


def nothing_is_copied(before, after):
    """What is the same as it was is the same tensor."""
    old = {node.name: node.parameters for node in before}
    for node in after:
        for name, tensor in node.parameters.items():
            was = old[node.name].get(name)
            alike = was is not None and was.shape == tensor.shape and torch.equal(was, tensor)
            assert not alike or was is tensor, (node.name, name)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    chance=st.randoms(use_true_random=False),
    seed=st.integers(0, 10**6),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=10),
    multiple=st.sampled_from((1, 1, 4)),
)
@torch.no_grad()
def test_a_random_network_gives_what_it_gave(chance, seed, kinds, multiple):
    torch.manual_seed(seed)
    model, masks = masked_(Random(chance, kinds))
    x = torch.randn(2, 3, 6, 6).double()

    def change(graph):
        before = graph.copy()
        done = shrink(graph, masks, multiple=multiple)
        nothing_is_copied(before, graph)
        # A layer may have got a bias.
        assert numbers(graph) <= numbers(before) + 100, done.cuts
        return done

    try:
        _, graph = changed(model, x, change)
    except Uncaptured as error:
        # A ReLU in place, on what capture takes for a view.
        assert "in place" in str(error)
        reject()
    other = torch.randn(1, 3, 7, 5).double()
    same(model(other), evaluate(graph, (other,)), 1e-10)
    # Capture leaves out what is not used, which the model's own code still does.
    if not model.wastes():
        small = written(model, graph)
        for image in (x, other):
            same(evaluate(graph, (image,)), small(image))
