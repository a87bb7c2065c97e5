"""Copies of converted models: deepcopy, pickle and torch.save keep the programs, and are right."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.program.model import Programs, programs_of
from tests.convert.small_networks import MODELS, Residual, assert_same, conv, images
from tests.program.converted import CHANNELS, converted, in_order


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": saved_and_loaded,
}


def ran_as_programs(model, x):
    """What the model gives, which must have come from its programs."""
    calls = []
    own = Programs.__call__

    def call(self, *args):
        calls.append(self)
        return own(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Programs, "__call__", call)
        y = model(x)
    assert calls == [programs_of(model)]
    return y


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_copy_runs_as_programs_on_its_own_weights(kind, way):
    fast, x = converted(kind), images()
    expected = fast(x)
    twin = way(fast)
    assert programs_of(twin) is not programs_of(fast)
    assert twin.state_dict().keys() == fast.state_dict().keys()
    assert_same(ran_as_programs(twin, x), expected)
    for parameter in twin.parameters():
        parameter.mul_(0.5)
    changed = ran_as_programs(twin, x)
    assert_same(changed, type(twin).forward(twin, x))
    with pytest.raises(AssertionError):
        assert_same(changed, expected)
    assert_same(fast(x), expected)
    # What the copy holds of the first one's would be kept alive by it.
    assert programs_of(twin).graph.root is twin


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_copy_of_a_copy_is_saved_as_the_first(tmp_path, way):
    fast, x = converted(Residual), images()
    so.save(way(way(fast)), tmp_path / "x")
    assert torch.equal(so.load(tmp_path / "x")(x), fast(x))


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_deep_networks_are_copied(way):
    layers = [conv(3 if not i else 4, 4) for i in range(250)]
    deep, x = in_order(nn.Sequential(*layers).eval(), CHANNELS, images(2)), images(2)
    twin = way(deep)
    assert torch.equal(ran_as_programs(twin, x), deep(x))
    assert list(twin) == list(twin.children()) and len(twin) == 250


def test_a_copy_in_training_runs_its_own_forward():
    fast, x = converted(Residual), images(2)
    twin = copy.deepcopy(fast)
    twin.train()
    twin(x).sum().backward()
    assert twin.stem.weight.grad is not None and fast.stem.weight.grad is None


@torch.no_grad()
def test_a_copy_that_was_not_called_yet_is_compiled_by_its_own_forward():
    twin, x = copy.deepcopy(converted(Residual)), images()
    exported = torch.export.export(twin, (x,))
    assert_same(exported.module()(x), twin(x))


@torch.no_grad()
def test_hooks_on_inner_modules_of_a_copy_are_called():
    twin, x, seen = copy.deepcopy(converted(Residual)), images(), []
    twin(x)
    twin.fc.register_forward_hook(lambda *given: seen.append(1))
    twin(x)
    assert seen == [1]
