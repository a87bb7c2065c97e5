"""A model that is fastest under torch.compile is given so, and runs in every other way too."""

import copy
import json
import pickle
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch._dynamo.testing import CompileCounter

import sparse_ops as so
from sparse_ops.convert import compile_, to_dense
from sparse_ops.planning import compiled, fastest, network, planner
from sparse_ops.planning.compiled import route_of
from sparse_ops.planning.forms import own_function
from tests.convert.models import EXAMPLE, masks_of_net, net, says
from tests.convert.test_fuse import Block, block


@pytest.fixture(autouse=True)
def _layer_by_layer(monkeypatch):
    """As on a GPU, or without compiled code: networks do not run as programs."""
    monkeypatch.setattr(network, "refuses", lambda context, graph: "not in this test")


@pytest.fixture
def calls(monkeypatch):
    """Stands for torch.compile; holds which calls took it."""
    taken = []

    def frozen(model, example):
        def call(*args):
            taken.append(args)
            return model(*args)

        return call

    monkeypatch.setattr(compiled, "frozen", frozen)
    monkeypatch.setattr(compiled, "no_compiler", lambda: None)
    return taken


def converted(build=net):
    model = build()
    x = torch.randn(EXAMPLE if build is net else (2, 8, 6, 6))
    masks = {n: torch.rand_like(w) > 0.5 for n, w in so.masks.weights(model).items()}
    fast = so.plan(model, x, masks, measure=says(2.0), progress=False).apply(model)
    return compile_(fast, x), x


def planned(monkeypatch, compiled_ratio):
    """A plan by a clock to which a compiled dense model is fastest of all uncompiled ones."""
    monkeypatch.setattr(fastest, "COMPILE_S", 0.0)
    monkeypatch.setattr(fastest, "no_compiler", lambda: None)
    monkeypatch.setattr(fastest, "compiled_call", lambda model, example: lambda: model(*example))

    def measure(dense, packed, seconds):
        dense(), packed()
        ratio = 2.0
        if isinstance(dense, fastest.Compiled):
            ratio = compiled_ratio if isinstance(packed, fastest.Compiled) else 0.5
        return so.convert.Comparison(ratio, 1, ratio, 0.9 * ratio, ratio, 20)

    monkeypatch.setattr(planner, "compare", measure)
    return so.plan(net(), torch.randn(EXAMPLE), masks_of_net(), progress=False)


def test_what_only_wins_compiled_is_given_compiled(calls, monkeypatch):
    plan = planned(monkeypatch, 2.0)
    assert plan.packed_forms.fastest == "torch.compile" and plan.whole is not None
    assert "apply() gives it compiled" in str(plan)
    model = net()
    fast = plan.apply(model)
    assert route_of(fast) is not None
    calls.clear()
    with torch.inference_mode():
        y = fast(*plan.example)
    assert len(calls) == 1
    so.masks.apply_(model, plan.masks)
    torch.testing.assert_close(y, model(*plan.example), rtol=1e-4, atol=1e-5)


def test_where_compiled_packed_loses_the_answer_is_the_dense_model(calls, monkeypatch):
    plan = planned(monkeypatch, 0.9)
    assert plan.whole is None and not plan.packed
    fast = plan.apply(net())
    assert route_of(fast) is None and type(fast.periodic) is nn.Conv2d


def test_what_cannot_be_compiled_for_the_user_does_not_count_as_compiled(calls, monkeypatch):
    monkeypatch.setattr(fastest, "cannot_compile", lambda example: "not today")
    plan = planned(monkeypatch, 2.0)
    assert plan.whole is None and plan.packed_forms.skipped["torch.compile"] == "not today"


def test_a_plan_whose_compilation_fails_later_says_so_and_gives_the_model(calls, monkeypatch):
    plan = planned(monkeypatch, 2.0)
    monkeypatch.setattr(compiled, "no_compiler", lambda: "the compiler went away")
    with pytest.warns(UserWarning, match=r"the compiler went away: it is given uncompiled"):
        assert route_of(plan.apply(net())) is None


@pytest.mark.parametrize("build", [net, block], ids=["modules", "graph"])
def test_only_calls_that_it_was_compiled_for_are_compiled(calls, build):
    fast, x = converted(build)
    with torch.no_grad():
        expected = copy.deepcopy(fast)(x)
        assert not calls
        assert torch.equal(fast(x), expected) and len(calls) == 1
        with torch.inference_mode():
            inside = x.clone()
            assert torch.equal(fast(inside), expected) and len(calls) == 2
        assert torch.equal(fast(inside), expected) and len(calls) == 3
        fast(torch.cat([x, x]))
        fast(x.contiguous(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            fast(x)
        assert len(calls) == 3
        fast.train()(x)
        fast.eval()
    fast(x).sum().backward()
    assert len(calls) == 3


def test_hooks_run(calls):
    fast, x = converted()
    seen = []
    handle = fast.fc.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        fast(x)
        assert seen and not calls
        handle.remove()
        fast(x)
        assert len(seen) == 1 and len(calls) == 1


def load_state(fast):
    state = fast.state_dict()
    fast.load_state_dict({k: 2 * v if v.is_floating_point() else v for k, v in state.items()})


def learn(fast):
    with torch.no_grad():
        fast.fc.values.add_(1)


def replace(fast):
    fast.fc.bias = nn.Parameter(torch.zeros_like(fast.fc.bias))


@pytest.mark.parametrize("change", [load_state, learn, replace])
def test_with_other_weights_it_runs_uncompiled_and_says_so(calls, change):
    fast, x = converted()
    change(fast)
    expected = copy.deepcopy(fast)(x)
    with torch.no_grad():
        with pytest.warns(UserWarning, match=r"with other weights.*compile_\(model, example\)"):
            assert torch.equal(fast(x), expected)
        assert not calls and route_of(fast) is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fast(x)
        assert torch.equal(compile_(fast, x)(x), expected) and len(calls) == 1


@pytest.mark.parametrize("build", [net, block], ids=["modules", "graph"])
def test_copies_are_plain_and_files_are_compiled_again(calls, build, tmp_path):
    fast, x = converted(build)
    keys = fast.state_dict().keys()
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), to_dense(fast)):
        assert route_of(other) is None
    path = tmp_path / "x.safetensors"
    so.save(fast, path)
    fresh = net() if build is net else Block().eval()
    assert route_of(so.load(path, fresh, compile=False)) is None
    loaded = so.load(path, fresh)
    assert loaded.state_dict().keys() == keys
    with torch.no_grad():
        expected = copy.deepcopy(fast)(x)
        assert not calls
        assert torch.equal(loaded(x), expected) and len(calls) == 1
    so.save(loaded, tmp_path / "again.safetensors")
    assert route_of(so.load(tmp_path / "again.safetensors", fresh)) is not None


def test_a_loaded_model_that_cannot_be_compiled_here_runs_all_the_same(
    calls, tmp_path, monkeypatch
):
    def fails(model, example):
        raise OSError("no compiler here")

    fast, x = converted()
    so.save(fast, tmp_path / "x.safetensors")
    loaded = so.load(tmp_path / "x.safetensors", net())
    monkeypatch.setattr(compiled, "frozen", fails)
    with torch.no_grad(), pytest.warns(UserWarning, match="no compiler here"):
        assert torch.equal(loaded(x), copy.deepcopy(fast)(x))


LIES = (
    3,
    {},
    [3],
    [{}],
    [{"shape": [2], "stride": [1]}],
    [{"shape": [2], "stride": [1], "dtype": "nn"}],
    [{"shape": ["2"], "stride": [1], "dtype": "float32"}],
)


@pytest.mark.parametrize("about", LIES, ids=str)
def test_a_file_that_lies_about_it_is_refused(calls, about, tmp_path):
    fast, _ = converted()
    path = tmp_path / "x.safetensors"
    so.save(fast, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    model = json.loads(metadata["model"]) | {"compiled": about}
    save_file(load_file(path), path, {**metadata, "model": json.dumps(model)})
    with pytest.raises(ValueError, match=r"x\.safetensors: compiled must be a list"):
        so.load(path, net())


@pytest.mark.filterwarnings("ignore")
def test_torch_compile_and_export_of_it_see_the_model_itself(calls):
    fast, x = converted()
    with torch.no_grad():
        expected = copy.deepcopy(fast)(x)
        program = torch.export.export(fast, (x,)).module()
        torch.testing.assert_close(program(x), expected)
        torch.testing.assert_close(
            torch.compile(fast, fullgraph=True, backend="aot_eager")(x), expected
        )
        torch.testing.assert_close(torch.jit.trace(fast, (x,), check_trace=False)(x), expected)
    assert not calls


def test_what_cannot_be_compiled_is_an_error_with_the_reason(monkeypatch):
    with pytest.raises(ValueError, match="example must not be empty"):
        compile_(nn.Linear(2, 2), torch.randn(0, 2))
    with pytest.raises(RuntimeError, match="not all tensors on the CPU"):
        compile_(nn.Linear(2, 2), (torch.randn(1, 2), 3))
    monkeypatch.setattr(compiled, "no_compiler", lambda: "there is none")
    with pytest.raises(RuntimeError, match="cannot be compiled: there is none"):
        compile_(nn.Linear(2, 2), torch.randn(1, 2))


@pytest.mark.slow
def test_it_is_really_compiled():
    fast, x = converted(block)
    with torch.no_grad():
        expected = copy.deepcopy(fast)(x)
        torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-5)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
        with torch.inference_mode():
            torch.testing.assert_close(fast(x.clone()), expected, rtol=1e-4, atol=1e-5)


def test_models_of_one_class_are_each_compiled():
    """What torch.compile keeps belongs to code, which nn.Sequential's calls share: some at most."""
    counter = CompileCounter()
    with torch._dynamo.config.patch(recompile_limit=1):
        for width in (3, 4, 5):
            call = own_function(nn.Sequential(nn.Linear(2, width)))
            torch.compile(call, backend=counter, dynamic=False)(torch.randn(1, 2))
    assert counter.frame_count == 3
