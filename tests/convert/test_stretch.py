"""Parts of a graph that run on blocked tensors compute what they computed before."""

import copy
import pickle

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import sparse_ops as so
from sparse_ops.convert import fuse, stretch, to_dense
from sparse_ops.convert.layout import take_channels_last_
from sparse_ops.convert.stretch import Stretch
from sparse_ops.nn import SparseLayer
from sparse_ops.nn._conv import SparseConv2d
from sparse_ops.ops.blocked import enter, leave
from sparse_ops.report.macs import count_macs
from tests.convert.stretches import (
    COUNTS,
    IMAGES,
    MODELS,
    SIZE,
    Branches,
    Gates,
    Residual,
    blocked,
    conv,
    images,
    model_of,
    packed,
)

kinds = pytest.mark.parametrize("kind", MODELS)


def assert_same(actual, expected):
    pairs = zip(tree_leaves(actual), tree_leaves(expected), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def ranks(model, x):
    """How many dimensions the tensors have that packed convolutions of a model are given."""
    seen = set()

    class Watching(fx.Interpreter):
        def call_module(self, target, args, kwargs):
            if isinstance(self.fetch_attr(target), SparseConv2d):
                seen.add(args[0].dim())
            return super().call_module(target, args, kwargs)

    with torch.no_grad():
        Watching(model).run(x)
    return seen


@kinds
def test_stretches_are_found_and_enter_and_leave_where_they_must(kind):
    model = blocked(packed(model_of(kind)))
    targets = [node.target for node in model.graph.nodes]
    counts = len(stretch.stretches_of(model)), targets.count(enter), targets.count(leave)
    assert counts == COUNTS[kind]
    assert ranks(model, images()) == {5}


@kinds
@pytest.mark.parametrize("count", [1, 8, 16, 19, 33])
def test_batches_of_any_size_are_computed_as_before(kind, count):
    model = packed(model_of(kind))
    fast = blocked(model)
    x = images(count)
    before = x.clone()
    with torch.no_grad():
        assert_same(fast(x), model(x))
    # Blocks of 16 for half as many images again at most.
    assert ranks(fast, x) == {5 if count in (16, 33) else 4}
    assert torch.equal(x, before)


@kinds
@pytest.mark.parametrize("count", [8, 9, 19])
def test_the_batch_of_the_example_is_always_blocked(kind, count):
    model = packed(model_of(kind))
    fast = blocked(model, count)
    assert ranks(fast, images(count)) == ranks(fast, images(16)) == {5}
    assert ranks(fast, images(count - 1)) == {4}
    with torch.no_grad():
        x = images(count)
        assert_same(fast(x), model(x))


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind is not Gates])
def test_images_of_another_size_are_computed_as_before(kind):
    model = packed(model_of(kind))
    fast = blocked(model)
    x = torch.randn(IMAGES, 3, 17, 24)
    with torch.no_grad():
        assert_same(fast(x), model(x))
    assert ranks(fast, x) == {5}


def test_an_image_without_a_batch_is_computed_as_before():
    model = packed(model_of(Branches))
    fast = blocked(model)
    x = torch.randn(SIZE)
    with torch.no_grad():
        assert_same(fast(x), model(x))


def test_under_autocast_it_gives_what_it_gave():
    model = packed(nn.Sequential(conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 8)))
    fast = blocked(model)
    x = images()
    with torch.no_grad(), torch.autocast("cpu"):
        y = fast(x)
        assert y.dtype is torch.bfloat16 and torch.equal(y, model(x))


def test_an_adaptive_pool_whose_size_does_not_divide_is_computed_as_before():
    model = packed(nn.Sequential(conv(3, 8), conv(8, 8), nn.AdaptiveAvgPool2d((3, 2))))
    fast = blocked(model)
    assert any("adaptive" in name for each in stretch.stretches_of(fast) for name in each.nodes)
    x = torch.randn(IMAGES, 3, 10, 7)
    with torch.no_grad():
        assert_same(fast(x), model(x))


@kinds
def test_gradients_and_other_dtypes_go_the_ordinary_way(kind):
    model = packed(model_of(kind))
    fast = blocked(model)
    x = images().requires_grad_()
    outputs = [sum(y.square().sum() for y in tree_leaves(m(x))) for m in (model, fast)]
    wanted = [p for p in model.parameters()]
    one = torch.autograd.grad(outputs[0], [x, *wanted])
    two = torch.autograd.grad(outputs[1], [x, *fast.parameters()])
    assert_same(list(two), list(one))
    with torch.no_grad():
        wide = fast.double()
        assert tree_leaves(wide(images().double()))[0].dtype is torch.float64


@kinds
def test_copies_and_pickles_have_the_same_stretches(kind, tmp_path):
    fast = blocked(packed(model_of(kind)))
    x = images()
    again = pickle.loads(pickle.dumps(copy.deepcopy(fast)))
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), again):
        assert isinstance(other, fx.GraphModule)
        assert stretch.stretches_of(other) == stretch.stretches_of(fast)
        assert ranks(other, x) == {5}
        with torch.no_grad():
            assert_same(other(x), fast(x))


@kinds
def test_names_of_tensors_are_those_of_the_model(kind):
    model = packed(model_of(kind))
    fast = blocked(model)
    assert fast.state_dict().keys() == model.state_dict().keys()


@kinds
def test_channels_last_changes_nothing(kind):
    model = packed(model_of(kind))
    x = images()
    with torch.no_grad():
        expected = model(x)
        fast = take_channels_last_(blocked(model))
        assert_same(fast(x), expected)
        assert_same(pickle.loads(pickle.dumps(fast))(x), expected)
        assert_same(blocked(model).to(memory_format=torch.channels_last)(x), expected)


@kinds
def test_its_dense_equivalent_and_its_macs_are_those_of_the_model_without_stretches(kind):
    model = packed(model_of(kind))
    fast = blocked(model)
    dense = to_dense(fast)
    assert not any(isinstance(module, SparseLayer) for module in dense.modules())
    x = images()
    with torch.no_grad():
        assert_same(dense(x), model(x))
        assert count_macs(fast, x) == count_macs(model, x)
        assert ranks(fast, x) == {5}


@kinds
def test_it_compiles_and_exports(kind):
    fast = blocked(packed(model_of(kind)))
    x = images()
    with torch.no_grad():
        compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
        assert_same(compiled(x), fast(x))
        assert_same(torch.export.export(fast, (x,)).module()(x), fast(x))


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
    assert SIZE[0] == 3 and so.nn.CSRConv2d in {type(m) for m in fast.modules()}
