"""A detector as people write them: blocks that chunk and concatenate, heads that keep anchors."""

import copy

import pytest
import torch
from torch import nn

import sparse_ops as so
from benchmarks._ecosystem_networks import ConvNormAct, Detect, Yolo
from benchmarks.ecosystem import half_of_filters
from sparse_ops.graph.capture import Uncaptured, capture
from sparse_ops.ops._program_code import CHANNELS
from sparse_ops.passes.fuse import fuse
from sparse_ops.passes.layout import uniform
from sparse_ops.planning.decisions import Decisions
from sparse_ops.planning.programmed import with_programs_
from sparse_ops.planning.ways import shrunk_way
from sparse_ops.program.model import Programs, programs_of
from sparse_ops.program.segments import Segment

SIZE = (1, 3, 64, 64)


def half(model):
    """(a model without half of its filters, its masks, an example)."""
    x = torch.randn(SIZE)
    masks = half_of_filters(model, x)
    so.masks.apply_(model, masks)
    return model, masks, x


def converted(model, masks, x):
    """(the model without dead channels, as programs; how many channels are left of its layers)."""
    way = shrunk_way(model, capture(model, (x,)), masks, (x,), True)
    graph = capture(way.model, (x,))
    fuse(graph)
    orders = tuple(uniform(graph, CHANNELS).items())
    fast = with_programs_(way.model, Decisions((), orders, orders), (x,), given_out=True)
    return fast, {name: cut.shape for name, cut in way.shrinking.cuts.items()}


def assert_same(fast, model, shape=SIZE):
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-3, atol=1e-4)


def test_every_layer_of_a_detector_gets_narrower_and_it_is_one_program():
    model, masks, x = half(Yolo(8, classes=4).eval())
    fast, left = converted(model, masks, x)
    for name, weight in so.masks.weights(model).items():
        now = left[name.removesuffix(".weight")]
        assert now[1] == weight.shape[1] // (1 if name.startswith("stem") else 2)
        # The model's outputs are all there.
        assert now[0] == weight.shape[0] // (2 if name in masks else 1)
    items = programs_of(fast).made(fast)[0]
    assert sum(isinstance(item, Segment) for item in items) == 1
    assert_same(fast, model)
    assert_same(fast, model, (3, 3, 96, 32))


class Anchored(Detect):
    """Keeps the places of its boxes for as long as images are as large."""

    shape = None
    anchors = torch.empty(0)

    def forward(self, xs):
        y, shape = super().forward(xs), xs[0].shape
        if self.shape != shape:
            self.anchors = torch.cat([torch.arange(x.shape[2] * x.shape[3]) for x in xs])
            self.shape = shape
        return y * self.anchors


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = ConvNormAct(3, 16, 3, 2), ConvNormAct(16, 32, 3, 2)
        self.detect = Anchored((16, 32), classes=4)

    def forward(self, x):
        x = self.a(x)
        return self.detect([x, self.b(x)])


def test_a_head_that_keeps_anchors_stays_in_charge_of_itself_alone():
    model, masks, x = half(Detector().eval())
    (note,) = capture(model, (x,)).notes
    assert note == "keeps something from call to call, so its own code runs: detect"
    fast, left = converted(model, masks, x)
    assert left["a.conv"][0] == 16 and left["b.conv"][0] == 32
    calls, own = [], Programs.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Programs, "__call__", lambda *args: (calls.append(1), own(*args))[1])
        for shape in (SIZE, (2, 3, 32, 64), SIZE, (1, 3, 96, 96)):
            calls.clear()
            assert_same(fast, model, shape)
            assert calls and tuple(fast.detect.shape) == tuple(model.detect.shape)
    assert_same(copy.deepcopy(fast), model, (1, 3, 32, 32))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.calls = nn.Conv2d(3, 8, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x)


class Reader(nn.Module):
    """Reads, or writes, what a module inside keeps."""

    def __init__(self, writes):
        super().__init__()
        self.inner, self.conv, self.writes = Counting(), nn.Conv2d(8, 8, 3), writes

    def forward(self, x):
        y = self.conv(self.inner(x))
        if self.writes:
            self.inner.calls = 7
            return y
        return y * self.inner.calls


@pytest.mark.parametrize("writes", [False, True])
def test_what_others_read_or_write_of_it_leaves_the_model_in_charge(writes):
    with pytest.raises(Uncaptured, match=r"keeps something from call to call: inner\.calls"):
        capture(Reader(writes).eval(), (torch.randn(SIZE),))
