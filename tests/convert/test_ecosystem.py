"""Converted models do what models do: compile, export, autocast, copies, threads, ONNX."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import sparse_ops as so
from sparse_ops.convert import to_dense
from sparse_ops.nn import SparseLayer
from tests.convert.models import EXAMPLE, masks_of_net, net, says


@pytest.fixture
def fast():
    model = net()
    plan = so.plan(model, torch.randn(EXAMPLE), masks_of_net(), measure=says(2.0), progress=False)
    assert len(plan.packed) == 4
    return plan.apply(model)


@pytest.fixture
def x():
    return torch.randn(EXAMPLE)


def sparse_layers(model):
    return [module for module in model.modules() if isinstance(module, SparseLayer)]


def test_compile_in_one_graph(fast, x):
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), fast(x))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), fast(x))
    fast.zero_grad()
    compiled(x).square().sum().backward()
    gradient = fast.periodic.values.grad.clone()
    fast.zero_grad()
    fast(x).square().sum().backward()
    torch.testing.assert_close(gradient, fast.periodic.values.grad)


@pytest.mark.slow
def test_compile_by_inductor_with_and_without_freezing(fast, x):
    with torch.no_grad():
        expected = fast(x)
        for options in ({}, {"freezing": True}):
            torch._dynamo.reset()
            compiled = torch.compile(fast, fullgraph=True, options=options)
            torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strict", [False, True])
def test_export_also_of_any_batch_size(fast, x, strict):
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(fast, (x,), dynamic_shapes=({0: batch},), strict=strict)
        for size in (1, 5):
            other = torch.randn(size, *EXAMPLE[1:])
            torch.testing.assert_close(program.module()(other), fast(other))


def test_an_exported_program_is_saved_and_loaded(fast, x, tmp_path):
    with torch.no_grad():
        torch.export.save(torch.export.export(fast, (x,)), tmp_path / "fast.pt2")
        loaded = torch.export.load(tmp_path / "fast.pt2").module()
        torch.testing.assert_close(loaded(x), fast(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(fast, x, dtype):
    with torch.autocast("cpu", dtype):
        y = fast(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), fast(x), rtol=5e-2, atol=5e-2)


def test_inference_mode_and_no_grad_give_the_same(fast, x):
    by_layers = fast(x).detach()
    with torch.no_grad():
        expected = fast(x)
    torch.testing.assert_close(expected, by_layers, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        assert torch.equal(fast(x), expected)
        assert torch.equal(copy.deepcopy(fast)(x), expected)


def test_several_threads_at_once_give_equal_results(fast):
    inputs = [torch.randn(EXAMPLE) for _ in range(4)]
    with torch.no_grad():
        expected = [fast(x) for x in inputs]

    def run(number):
        with torch.inference_mode():
            return torch.equal(fast(inputs[number % 4]), expected[number % 4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(80)))


def test_copies_and_pickles_are_the_same_model_and_not_the_same_memory(fast, x):
    expected = fast(x)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(other(x), expected)
        assert len(sparse_layers(other)) == 4
        with torch.no_grad():
            for layer in sparse_layers(other):
                layer.values.zero_()
        assert torch.equal(fast(x), expected) and not torch.equal(other(x), expected)


def test_a_state_dict_goes_to_another_converted_model_and_to_a_file(fast, x, tmp_path):
    other = copy.deepcopy(fast)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    other.load_state_dict(fast.state_dict())
    assert torch.equal(other(x), fast(x))
    torch.save(fast.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other(x), fast(x))


def test_half_precision_and_back(fast, x):
    narrow = copy.deepcopy(fast).bfloat16()
    torch.testing.assert_close(narrow(x.bfloat16()).float(), fast(x), rtol=5e-2, atol=5e-2)
    assert narrow.float()(x).dtype == torch.float32


def test_a_converted_model_learns_on_its_mask(fast, x):
    optimizer = torch.optim.SGD(fast.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    masks = [layer.mask() for layer in sparse_layers(fast)]
    target = torch.randn(2, 10)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (fast(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    for layer, mask in zip(sparse_layers(fast), masks, strict=True):
        assert not layer.weight.to_dense()[~mask].any()


def test_the_dense_equivalent_has_the_same_outputs(fast, x):
    dense = to_dense(fast)
    assert not sparse_layers(dense) and len(sparse_layers(fast)) == 4
    torch.testing.assert_close(dense(x), fast(x), rtol=1e-4, atol=1e-5)


def test_onnx_holds_the_dense_equivalent(fast, x, tmp_path):
    pytest.importorskip("onnxscript", reason='needs the extra "onnx"')
    runtime = pytest.importorskip("onnxruntime", reason='needs the extra "ecosystem"')
    so.export_onnx(fast, x, tmp_path / "fast.onnx", input_names=["x"])
    assert [file.name for file in tmp_path.iterdir()] == ["fast.onnx"]
    session = runtime.InferenceSession(tmp_path / "fast.onnx")
    (y,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), fast(x).detach(), rtol=1e-4, atol=1e-5)
    assert sparse_layers(fast)


def test_onnx_without_its_packages_says_what_is_missing(fast, x, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"sparse-ops\[onnx\]"):
        so.export_onnx(fast, x, tmp_path / "fast.onnx")
    assert not list(tmp_path.iterdir())
