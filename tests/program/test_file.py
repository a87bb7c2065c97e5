"""Networks that are one program, in files, and what is loaded without the architecture."""

import copy
import json
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

import sparse_ops as so
from sparse_ops.ops import _native
from sparse_ops.program.network import ProgramModel
from sparse_ops.program.validate import validate
from tests.convert.small_networks import MODELS, Branches, Gates, Residual, Vgg, assert_same, images
from tests.packed_files import contents, rewritten
from tests.program.converted import ORDERS, converted, in_order
from tests.program.random_programs import random_program


@pytest.fixture
def path(tmp_path):
    so.save(converted(Residual), tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def equal(actual, expected):
    pairs = zip(tree_leaves(actual), tree_leaves(expected), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind is not Gates])
def test_what_is_loaded_without_the_architecture_computes_what_was_saved(tmp_path, kind, order):
    fast = converted(kind, order)
    so.save(fast, tmp_path / "x")
    loaded = so.load(tmp_path / "x")
    assert isinstance(loaded, ProgramModel)
    assert loaded.state_dict().keys() == fast.state_dict().keys()
    for name, tensor in fast.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert dict(loaded.named_parameters()).keys() == dict(fast.named_parameters()).keys()
    with torch.no_grad():
        for count in (16, 3):
            x = images(count)
            expected = fast(x)
            assert type(loaded(x)) is type(expected) or isinstance(expected, dict)
            if _native.MISSING is None:
                assert equal(loaded(x), expected)
            assert_same(loaded(x), expected)


def test_nothing_is_stored_twice(path):
    fast = converted(Residual)
    tensors, _, model = contents(path)
    assert tensors.keys() - fast.state_dict().keys() == {"_program_code_0"}
    assert "weight" not in json.dumps(model["program"]["whole"]["tied"])


def test_a_file_with_a_program_is_loaded_into_a_model_as_well(path):
    fast = converted(Residual)
    loaded = so.load(path, Residual().eval())
    x = images()
    with torch.no_grad():
        assert equal(loaded(x), fast(x))
    assert isinstance(loaded, Residual)


def test_what_was_loaded_is_saved_again_as_the_same_file(path, tmp_path):
    so.save(so.load(path), tmp_path / "again")
    (tensors, *words), (others, *same) = contents(path), contents(tmp_path / "again")
    assert tensors.keys() == others.keys() and words == same
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_a_network_that_is_no_single_program_needs_the_model(tmp_path):
    so.save(nn.Sequential(nn.Linear(3, 3)), tmp_path / "x")
    with pytest.raises(ValueError, match="model= is needed"):
        so.load(tmp_path / "x")

    # PyTorch gives its gate two dimensions more.
    so.save(converted(Gates), tmp_path / "y")
    with pytest.raises(ValueError, match="model= is needed"):
        so.load(tmp_path / "y")


def test_a_model_in_halves_is_saved_as_what_it_is(tmp_path):
    fast = converted(Vgg)
    so.save(fast.half(), tmp_path / "x")
    with pytest.raises(ValueError, match="model= is needed"):
        so.load(tmp_path / "x")


@torch.no_grad()
def test_many_threads_may_call_it_while_weights_are_changed(path):
    loaded, x = so.load(path), images()
    expected = loaded(x)
    wrong = []

    def call():
        # Each thread has its own switch.
        with torch.no_grad():
            wrong.extend(1 for _ in range(8) if not torch.equal(loaded(x), expected))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        loaded.fc.bias.copy_(loaded.fc.bias.clone())
    for thread in threads:
        thread.join()
    assert not wrong


def test_gradients_are_those_of_the_model(path):
    fast, loaded, x = converted(Residual), so.load(path), images(4)
    x.requires_grad_()
    expected = torch.autograd.grad(fast(x).square().sum(), [x, *fast.parameters()])
    actual = torch.autograd.grad(loaded(x).square().sum(), [x, *loaded.parameters()])
    by_name = dict(zip(["x", *dict(fast.named_parameters())], expected, strict=True))
    for name, one in zip(["x", *dict(loaded.named_parameters())], actual, strict=True):
        torch.testing.assert_close(one, by_name[name], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_weights_that_change_are_seen(path):
    fast, loaded, x = converted(Residual), so.load(path), images()
    for change in (
        lambda model: model.get_parameter("norm.weight").mul_(2),
        lambda model: model.get_buffer("norm_a.running_mean").add_(1),
        lambda model: model.get_parameter("a.values")[3].add_(1),
        lambda model: model.load_state_dict(
            {name: t + 1 if t.is_floating_point() else t for name, t in model.state_dict().items()}
        ),
    ):
        before = loaded(x)
        change(fast), change(loaded)
        assert equal(loaded(x), fast(x))
        assert not equal(loaded(x), before)


@torch.no_grad()
def test_copies_and_pickles_are_independent(path):
    loaded, x = so.load(path), images()
    expected = loaded(x)
    for twin in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert equal(twin(x), expected)
        twin.get_parameter("stem.weight").zero_()
        assert not equal(twin(x), expected)
        assert equal(loaded(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_the_dense_equivalent_computes_the_same(tmp_path, order):
    fast, x = converted(Branches, order), images()
    so.save(fast, tmp_path / "x")
    dense = so.convert.to_dense(so.load(tmp_path / "x"))
    shapes = {tuple(parameter.shape) for parameter in dense.parameters()}
    assert (8, 4, 3, 3) in shapes and not any("values" in name for name in dense.state_dict())
    assert_same(dense(x), fast(x))
    assert_same(torch.export.export(dense, (x,)).module()(x), fast(x))


@torch.no_grad()
def test_other_dtypes_run_step_by_step(path):
    loaded, x = so.load(path), images()
    expected = loaded(x)
    assert_same(tree_map(torch.Tensor.float, copy.deepcopy(loaded).double()(x.double())), expected)
    half = copy.deepcopy(loaded).to(torch.bfloat16)(x.bfloat16())
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1)
    with pytest.raises(ValueError, match=r"must be torch.float64"):
        copy.deepcopy(loaded).double()(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert loaded(x).dtype == torch.bfloat16


@torch.no_grad()
def test_without_compiled_code_it_runs_step_by_step(path, monkeypatch):
    loaded, x = so.load(path), images()
    expected = loaded(x)
    monkeypatch.setattr("sparse_ops.program.network._COMPILED", None)
    assert_same(so.load(path)(x), expected)


@torch.no_grad()
def test_inputs_it_was_not_planned_for_are_refused_in_words(path):
    loaded = so.load(path)
    for x in (images()[0], torch.ones(2, 4, 12, 12), torch.ones(2, 3)):
        with pytest.raises(ValueError, match=r"input 0 must be \(N, 3, H, W\)"):
            loaded(x)
    with pytest.raises(ValueError, match="has 1 inputs, got 2"):
        loaded(images(), images())
    assert loaded(torch.ones(1, 3, 20, 17)).shape == (1, 10)


def test_it_does_not_go_into_training_mode(path):
    loaded = so.load(path)
    assert not loaded.training and loaded.eval() is loaded
    with pytest.raises(ValueError, match="always in eval mode"):
        loaded.train()


def test_tied_weights_stay_tied(tmp_path):
    def build():
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 4))
        model[2].weight = model[0].weight
        return model.eval()

    model, x = build(), torch.randn(2, 4)
    so.save(in_order(model, 0, x), tmp_path / "x")
    loaded = so.load(tmp_path / "x")
    assert loaded.get_parameter("2.weight") is loaded.get_parameter("0.weight")
    with torch.no_grad():
        assert_same(loaded(x), model(x))
    tensors, metadata, about = contents(tmp_path / "x")
    tensors["2.weight"] = tensors["2.weight"] + 1
    rewritten(tmp_path / "x", tensors, metadata, about)
    with pytest.raises(ValueError, match="must be the same as"):
        so.load(tmp_path / "x")


def test_a_vgg_of_pieces_and_constants_is_one_program_too(tmp_path):
    so.save(converted(Vgg, ORDERS["images"], piece=16), tmp_path / "x")
    tensors, _, _ = contents(tmp_path / "x")
    # One for batches that fill blocks of images, one for others.
    assert {"_program_code_0", "_program_code_1"} <= tensors.keys()


@pytest.mark.parametrize("seed", range(30))
def test_programs_that_run_are_valid(seed):
    program, inputs = random_program(seed)
    validate(program, [x.shape for x in inputs])
