"""Parts of a graph that run on blocked tensors compute what they computed before."""

import copy
import pickle

import pytest
import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from sparse_ops.convert import stretch, to_dense
from sparse_ops.convert.layout import take_channels_last_
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
    assert_same,
    blocked,
    conv,
    images,
    model_of,
    packed,
)

kinds = pytest.mark.parametrize("kind", MODELS)


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
