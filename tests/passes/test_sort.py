"""Channels are put side by side through the whole graph, and the model gives what it gave."""

import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sparse_ops import masks as masks_
from sparse_ops.graph.capture import Uncaptured
from sparse_ops.graph.evaluate import evaluate
from sparse_ops.passes import sort
from sparse_ops.passes.shrink import shrink
from sparse_ops.patterns import PSD2_P8, PSD4_P16
from tests.passes.comparing import changed, masked_, same, written
from tests.passes.networks import KINDS, Block, Random, norm

X = (2, 3, 6, 6)


def sorted_(model, x=None):
    """(the sorted model, its masks, its graph), which was compared with the masked one."""
    model, masks = masked_(model)
    x = torch.randn(X).double() if x is None else x.double()
    found, graph = changed(model, x, lambda graph: sort.sort(graph, masks))
    if found is not None:
        assert found.keys() == masks.keys()
        for node in graph:
            name = f"{node.module}.weight"
            assert name not in found or torch.equal(found[name], node.parameters["weight"] != 0)
    small = written(model, graph)
    same(model(x), small(x), 1e-11)
    return small, found, graph


def runs(mask):
    """How many times neighbouring input channels are masked otherwise."""
    columns = mask.transpose(0, 1).flatten(1)
    return int((columns[1:] != columns[:-1]).any(1).sum())


@pytest.mark.parametrize("pattern", [PSD2_P8, PSD4_P16])
def test_channels_of_a_class_are_side_by_side_in_every_layer_of_a_block(pattern):
    model = Block(128, pattern)
    before = {name: p.clone() for name, p in model.double().named_parameters()}
    small, masks, _ = sorted_(model)
    for name in ("conv1.weight", "conv2.weight"):
        assert runs(pattern.mask((128, 128, 3, 3))) == 127
        assert runs(masks[name]) == runs(masks[name].transpose(0, 1)) == pattern.period - 1
    # What is given and what is given out stay as they were.
    after = dict(small.named_parameters())
    assert torch.equal(before["fc.bias"], after["fc.bias"])
    assert not torch.equal(before["fc.weight"], after["fc.weight"])
    # The same rows of weights, and columns of the last layer's, in another order.
    for name, axis in (("stem.weight", 0), ("norm.weight", 0), ("fc.weight", 1)):
        old, new = (
            p.detach().movedim(axis, 0).reshape(128, -1) for p in (before[name], after[name])
        )
        assert sorted(old.tolist()) == sorted(new.tolist()) and not torch.equal(old, new), name


def test_classes_that_are_alike_are_neighbours():
    # The corners of period 16 repeat by 4: classes c, c + 4, c + 8 and c + 12 differ in one kernel.
    _, masks, _ = sorted_(Block(128, PSD4_P16))
    rows = masks["conv1.weight"].flatten(1)[::8].float()
    likeness = (rows @ rows.T).fill_diagonal_(0)
    assert all(bool(likeness[i, i + 1] == likeness[i].max()) for i in range(16) if i % 4 < 3)


def test_few_channels_of_a_kind_are_left_where_they_are():
    assert sorted_(Block(32))[1] is None


def test_what_the_code_cannot_follow_stays():
    class Picks(Block):
        def forward(self, x):
            x = torch.relu(self.norm(self.stem(x)))
            return self.conv2(self.conv1(x).flip(1))

    model = Picks()
    stem, conv2 = model.stem.weight.clone().double(), model.conv2.weight.clone().double()
    small, masks, _ = sorted_(model)
    assert masks is not None and not torch.equal(small.stem.weight, stem)
    assert torch.equal(small.conv2.weight, conv2)


def test_a_shrunk_graph_is_sorted():
    model = Block(72)
    with torch.no_grad():
        model.stem.weight[64:], model.norm.bias[64:] = 0, 0
        model.norm.running_mean[64:] = model.stem.bias[64:]
        for conv, own in ((model.conv2, model.norm2), (model.conv1, model.norm1)):
            conv.weight[64:], own.bias[64:] = 0, 0
            own.running_mean[64:] = 0 if conv.bias is None else conv.bias[64:]
    model, masks = masked_(model)

    def both(graph):
        done = shrink(graph, masks)
        return done, sort.sort(graph, done.masks)

    x = torch.randn(X).double()
    (done, found), graph = changed(model, x, both)
    assert done.changes and found is not None
    assert found["conv1.weight"].shape == (64, 64, 3, 3) and runs(found["conv1.weight"]) == 7
    same(evaluate(graph, (x,)), written(model, graph)(x), 1e-11)


class Branches(nn.Module):
    """Concatenation, depthwise, grouped, and flattened into a Linear."""

    def __init__(self, grouped=1):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 64, 1), nn.Conv2d(3, 64, 1)
        self.deep = nn.Conv2d(128, 128, 3, padding=1, groups=128)
        self.norm = norm(128)
        self.conv = nn.Conv2d(128, 64, 3, padding=1, groups=grouped)
        self.fc = nn.Linear(64 * 36, 5)
        mask = PSD2_P8.mask((64, 128 // grouped, 3, 3))
        masks_.apply_(self, {"conv.weight": mask})

    def forward(self, x):
        x = torch.cat([self.a(x), torch.tanh(self.b(x))], 1)
        return self.fc(torch.flatten(F.silu(self.conv(F.relu(self.norm(self.deep(x))))), 1))


@pytest.mark.parametrize("grouped", [1, 2])
def test_concatenation_depthwise_groups_and_flattening(grouped):
    model = Branches(grouped)
    old = {name: p.clone().double() for name, p in model.named_parameters()}
    small, masks, _ = sorted_(model)
    # Each of the two that are joined is sorted by itself: 8 classes, twice.
    assert runs(masks["conv.weight"]) == (15 if grouped == 1 else 7)
    for name in ("a.weight", "b.weight", "deep.weight", "norm.bias", "conv.weight", "fc.weight"):
        # A group has 32 filters only, 4 of a class: those stay in their order.
        stays = grouped == 2 and name == "fc.weight"
        assert torch.equal(dict(small.named_parameters())[name], old[name]) == stays, name


def test_depthwise_on_channels_that_are_not_known_keeps_its_order():
    class Flipped(Branches):
        def forward(self, x):
            x = torch.cat([self.a(x), torch.tanh(self.b(x))], 1).flip(1)
            return self.fc(torch.flatten(F.silu(self.conv(F.relu(self.norm(self.deep(x))))), 1))

    model = Flipped()
    deep = model.deep.weight.clone().double()
    small, masks, _ = sorted_(model)
    assert masks is not None and torch.equal(small.deep.weight, deep)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    chance=st.randoms(use_true_random=False),
    seed=st.integers(0, 10**6),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=10),
)
@torch.no_grad()
def test_a_random_network_gives_what_it_gave(chance, seed, kinds):
    torch.manual_seed(seed)
    model, least = Random(chance, kinds), sort.LEAST_ALIKE
    sort.LEAST_ALIKE = 1
    try:
        small, _, graph = sorted_(model)
    except Uncaptured as error:
        # A ReLU in place, on what capture takes for a view.
        assert "in place" in str(error)
        reject()
    finally:
        sort.LEAST_ALIKE = least
    other = torch.randn(1, 3, 7, 5).double()
    same(model(other), evaluate(graph, (other,)), 1e-11)
    same(model(other), small(other), 1e-11)
