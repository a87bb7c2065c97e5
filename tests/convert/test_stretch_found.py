"""What is in a stretch and what is not, and that nothing of it shows."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparse_ops.convert import fuse, stretch
from sparse_ops.convert.stretch import Stretch
from tests.convert.stretches import (
    IMAGES,
    Branches,
    Residual,
    assert_same,
    blocked,
    conv,
    images,
    model_of,
    packed,
)


class Chain(nn.Module):
    """Two convolutions, and something between and after them."""

    def __init__(self, then):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 8), conv(8, 8)
        self.norm = nn.BatchNorm2d(8)
        self.then = then

    def forward(self, x):
        return self.then(self, x)


def inside(then, size=IMAGES):
    model = packed(Chain(then).eval())
    x = images(size)
    shapes = fuse.shapes_of(model, (x,))
    found = stretch.find(model, shapes)
    fast = stretch.blocked(copy.deepcopy(model), found) if found else model
    with torch.no_grad():
        assert_same(fast(x.clone()), model(x.clone()))
    return {name for each in found for name in each.nodes}


@pytest.mark.parametrize(
    "then",
    [
        lambda m, x: m.a(x).sin(),
        lambda m, x: m.b(m.norm(F.silu(m.a(x)))),
        lambda m, x: m.b(m.a(x).sigmoid()),
        lambda m, x: m.b(m.a(x) + 1),
        lambda m, x: m.b(m.a(x) * 2),
        lambda m, x: m.b(F.max_pool2d(m.a(x), 2, dilation=2)),
        lambda m, x: m.b(F.max_pool2d(m.a(x), 5, ceil_mode=True)),
        lambda m, x: m.b(F.avg_pool2d(m.a(x), 3, padding=1)),
        lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(x), 5)),
        lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(x), (None, 4))),
        lambda m, x: m.b(F.max_pool2d(m.a(x), 2, return_indices=True)[0]),
        lambda m, x: m.b(torch.cat([m.a(x), m.a(x)], 2)),
        lambda m, x: m.b(F.dropout(m.a(x), 0.0, training=True)),
        lambda m, x: m.b(m.a(x).mean(1, keepdim=True).expand(-1, 8, -1, -1)),
        lambda m, x: m.a(x) + torch.relu(m.a(x)),
    ],
)
def test_what_takes_no_blocked_tensors_breaks_a_stretch(then):
    assert inside(then) == set()


@pytest.mark.parametrize(
    "then",
    [
        lambda m, x: m.b(torch.nn.functional.leaky_relu(m.a(x), 0.1)),
        lambda m, x: m.b(torch.add(m.a(x), m.a(x))),
        lambda m, x: m.b(F.hardswish(m.a(x))) * 2,
        lambda m, x: m.b(F.dropout(m.a(x), 0.5, training=False)),
        lambda m, x: m.b(torch.max_pool2d(m.a(x), 2, 2)),
        lambda m, x: m.b(F.max_pool2d(m.a(x), (3, 2), padding=(1, 0))),
        lambda m, x: m.b(F.avg_pool2d(m.a(x), (2, 3), 1)),
        lambda m, x: m.b(m.a(x)).mean(dim=(2, 3)),
        lambda m, x: torch.mean(m.b(m.a(x)), [3, 2], True),
        lambda m, x: m.b(m.a(x) + m.a(x).relu_()),
    ],
)
def test_what_takes_them_does_not(then):
    assert {"a", "b"} <= inside(then)


def test_a_small_batch_or_less_than_two_layers_in_a_row_are_no_stretch():
    assert inside(lambda m, x: m.b(m.a(x)), 7) == set()
    assert inside(lambda m, x: m.b(m.a(x)), 8) == {"a", "b"}
    assert inside(lambda m, x: m.a(x).sin() + m.a(x).relu().cos()) == set()


def test_what_nothing_in_a_stretch_gives_or_wants_stays_outside():
    found = inside(lambda m, x: torch.cat([m.b(m.a(F.relu(x))).relu(), x.sin()], 1))
    assert found == {"a", "b"}
    assert inside(lambda m, x: F.max_pool2d(m.b(m.a(x)), 2)) == {"a", "b", "torch.max_pool2d"}
    found = inside(lambda m, x: m.b(F.max_pool2d(m.a(F.max_pool2d(x, 2)), 2)))
    assert found == {"a", "b", "torch.max_pool2d (2)"}


def test_a_concatenation_is_inside_only_where_fewer_numbers_are_turned_around_then():
    def then(m, x):
        first = m.b(m.a(x))
        return torch.cat([first, m.c(first)], 1).sin()

    assert inside(then) == {"a", "b", "c"}

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.last = conv(3, 8), conv(8, 8), conv(16, 8)

        def forward(self, x):
            first = self.a(x)
            return self.last(torch.cat([first, self.b(first)], 1))

    (found,) = stretch.stretches_of(blocked(packed(Joined().eval())))
    assert found.nodes == ("a", "b", "torch.cat", "last")


@pytest.mark.parametrize(
    "then",
    [
        # A tensor that enters is written to while the stretch uses it.
        lambda m, x: _written_before_the_second_use(m, x),
        # One that is handed on within is written to outside.
        lambda m, x: _written_outside(m, x),
        # Through a view.
        lambda m, x: _written_through_a_view(m, x),
        # Inside, where it leaves as well.
        lambda m, x: _written_inside(m, x),
    ],
)
def test_tensors_that_are_written_to_are_seen_as_they_are_by_all(then):
    inside(then)


def _written_before_the_second_use(m, x):
    y = x.sin().repeat(1, 3, 1, 1)[:, :8]
    one = m.c(m.b(y))
    y.mul_(2)
    return m.c(m.b(y)) + one


def _written_outside(m, x):
    y = m.a(x)
    one = m.b(y)
    y.mul_(2)
    return m.c(one), m.c(y), y


def _written_through_a_view(m, x):
    y = m.a(x)
    view = y.flatten(1)
    one = m.c(m.b(y))
    view.add_(1)
    return one, m.c(m.b(y)), view


def _written_inside(m, x):
    y = m.a(x)
    kept = y.view(y.shape)
    z = m.b(F.relu(y, inplace=True))
    return z, kept * 1, m.c(z)


def test_a_halo_is_as_wide_as_the_widest_user_wants():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = conv(3, 8), conv(8, 8, 1), conv(8, 8, 7)

        def forward(self, x):
            y = self.a(x)
            return self.c(y + self.b(y).sin()) + self.b(y)

    fast = blocked(packed(Wide().eval()))
    halos = {node.target: node.kwargs["halos"] for node in fast.graph.nodes if node.kwargs}
    assert halos["a"][:2] == (1, 3) and halos["c"][:2] == (3, 0)


def test_layers_with_hooks_are_not_given_blocked_tensors():
    model = packed(nn.Sequential(conv(3, 8), nn.LeakyReLU(), conv(8, 8), conv(8, 8)))
    model.get_submodule("1").register_forward_hook(lambda *_: None)
    found = stretch.find(model, fuse.shapes_of(model, (images(),)))
    assert [each.nodes for each in found] == [("2", "3")]


@pytest.mark.parametrize(
    "nodes",
    [(), ("stem", "nowhere"), ("stem", "stem"), ("stem", "fc"), ("torch.flatten",), ("x",), ("",)],
)
def test_blocked_wants_a_place(nodes):
    model = packed(model_of(Residual))
    with pytest.raises(ValueError, match="no place"):
        stretch.blocked(model, [Stretch(nodes)])


def test_a_node_is_in_one_stretch_only():
    model = packed(model_of(Branches))
    with pytest.raises(ValueError, match="no place"):
        stretch.blocked(model, [Stretch(("one",)), Stretch(("one",))])


def test_stretches_may_stand_side_by_side_and_need_not_be_the_longest():
    model = packed(model_of(Residual))
    fast = stretch.blocked(copy.deepcopy(model), [Stretch(("d", "down")), Stretch(("a", "c"))])
    x = images()
    with torch.no_grad():
        assert_same(fast(x), model(x))
    inside = [each.nodes for each in stretch.stretches_of(fast)]
    assert sorted(node for nodes in inside for node in nodes) == ["a", "c", "d", "down"]
