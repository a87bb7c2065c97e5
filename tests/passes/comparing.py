"""What the tests of passes share: a model captured, changed as a graph, and compared."""

import copy

import torch
from torch import fx, nn

from sparse_ops import masks as masks_
from sparse_ops.graph.capture import capture
from sparse_ops.graph.evaluate import evaluate
from sparse_ops.passes.shrink import shrink
from sparse_ops.passes.write_back import write_back_
from tests.passes.networks import SIZE

# The smallest normal number of float32: what is smaller counts as zero.
DENORMAL = torch.finfo(torch.float32).tiny


def masked_(model):
    """(the model in float64, its masks): what is zero is masked."""
    return model.double().eval(), masks_.from_zeros(model, DENORMAL)


def same(want, got, bound=1e-12):
    """Both give the same, by the arithmetic of float64."""
    want, got = want.detach(), got.detach()
    assert got.shape == want.shape
    # An output that is zero but for rounding is compared with its inputs' size, which is about 1.
    assert float((got - want).abs().max()) <= bound * max(1.0, float(want.abs().max()))


def shapes_are_right(graph, x):
    """Runs a graph: each value has the shape that it says."""

    def watch(node, given, result):
        if isinstance(result, torch.Tensor):
            assert tuple(result.shape) == node.output.shape, node.name
        elif isinstance(node.output.plain, torch.Size):
            assert result == node.output.plain, node.name

    return evaluate(graph, (x,), watch)


def tensors_of(model):
    return {name: (t, t.detach().clone()) for name, t in model.state_dict(keep_vars=True).items()}


@torch.no_grad()
def changed(model, x, change, traces=1):
    """(what `change` gave, the graph): by one trace, the model left alone, the graph in order.

    Args:
        change: what is done to a graph, in place.
        traces: how many it may take to capture the model.
    """
    traced, trace = [], fx.Tracer.trace

    def counted(self, *args, **kwargs):
        traced.append(self)
        return trace(self, *args, **kwargs)

    before = tensors_of(model)
    fx.Tracer.trace = counted
    try:
        captured = capture(model, (x,))
        graph = captured.copy()
        done = change(graph)
    finally:
        fx.Tracer.trace = trace
    assert len(traced) == traces
    graph.verify()
    same(model(x), shapes_are_right(graph, x))
    # Neither the model nor the graph that was copied has changed.
    same(model(x), shapes_are_right(captured, x), 0)
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0] and torch.equal(tensor, before[name][1])
    return done, graph


def written(model, graph):
    """A copy of the model whose modules have what the graph has."""
    twin = copy.deepcopy(model)
    write_back_(twin, graph)
    return twin


def shrunk(model, x=None, writes=True, traces=1, **options):
    """(what shrinking did, the shrunk model), which was compared with the masked one.

    Args:
        writes: whether the shrunk graph is written back; else it is given itself.
    """
    model, masks = masked_(model)
    x = torch.randn(2, 3, SIZE, SIZE) if x is None else x
    x = x.double()
    done, graph = changed(model, x, lambda graph: shrink(graph, masks, **options), traces)
    for name, mask in done.masks.items():
        weights = [n.parameters["weight"] for n in graph if f"{n.module}.weight" == name]
        assert weights and all(w.shape == mask.shape for w in weights), name
        assert all(bool((w[~mask] == 0).all()) for w in weights), name
    if not writes:
        return done, graph
    small = written(model, graph)
    same(shapes_are_right(graph, x), small(x))
    return done, small


def widths(model):
    if isinstance(model, nn.Module):
        return [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    return [node.attributes["shape"][0] for node in model if node.op == "conv2d"]
