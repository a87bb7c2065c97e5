"""CUDA graphs of whole models, on stand-ins for torch.cuda: what is replayed, what is not, and why.

The stand-in's graph runs the call again on the tensors that it was recorded with, and writes to
those that it gave, as a replay does. Of CUDA itself nothing is shown here.
"""

import contextlib
import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import sparse_ops
from sparse_ops.ops._kernels import kernels
from sparse_ops.patterns import PSD2_P8
from sparse_ops.planning import recorded
from sparse_ops.planning.fastest import Compiled
from sparse_ops.planning.measure import Comparison

X = torch.randn(2, 8, 6, 6)


class Cuda:
    """What was recorded and replayed, in order."""

    def __init__(self, monkeypatch):
        self.said, self.capturing, self.fails = [], False, None
        own = self

        class Graph:
            def __init__(self, call, given):
                self.call, self.given = call, given

            def replay(self):
                own.said.append("replay")
                own.capturing = True
                with torch.inference_mode():
                    new = self.call()
                    for old, fresh in zip(tree_leaves(self.given), tree_leaves(new), strict=True):
                        if isinstance(old, torch.Tensor):
                            old.copy_(fresh)
                own.capturing = False

        class Event:
            def record(self, stream):
                own.said.append("done")

        class Stream:
            def wait_event(self, event):
                own.said.append("wait")

        def record(call):
            assert torch.is_inference_mode_enabled()
            own.said.append("record")
            if own.fails is not None:
                raise RuntimeError(own.fails)
            return (graph := Graph(call, call())), graph.given

        monkeypatch.setattr(recorded, "DEVICE", "cpu")
        monkeypatch.setattr(kernels("graphs"), "record", record)
        for name, stand_in in {
            "Event": Event,
            "current_stream": lambda device=None: Stream(),
            "device": lambda device: contextlib.nullcontext(),
            "is_current_stream_capturing": lambda: own.capturing,
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)


@pytest.fixture
def cuda(monkeypatch):
    return Cuda(monkeypatch)


def network():
    model = nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return model.append(nn.Linear(16, 4)).eval()


def replays(cuda, call):
    """What a call gives, and how often it replayed."""
    cuda.said.clear()
    given = call()
    return given, cuda.said.count("replay")


def test_calls_are_replayed_on_their_own_inputs_and_give_tensors_of_their_own(cuda):
    model = network()
    expected = [copy.deepcopy(model)(x).detach() for x in (X, 2 * X)]
    assert recorded.record_(model, X) is model
    with torch.no_grad():
        one, count = replays(cuda, lambda: model(X))
        assert count == 1 and cuda.said == ["wait", "replay", "done"]
        two, _ = replays(cuda, lambda: model(2 * X))
    for given, exact in zip((one, two), expected, strict=True):
        torch.testing.assert_close(given, exact)
        # Neither the recording's own, nor made under inference_mode.
        assert not given.is_inference()
        given.add_(1)
    with torch.inference_mode():
        torch.testing.assert_close(model(X), expected[0])


def test_each_shape_has_its_graph_up_to_a_limit(cuda, monkeypatch):
    monkeypatch.setattr(recorded, "MOST_GRAPHS", 2)
    model = recorded.record_(network(), X)
    exact = copy.deepcopy(model)
    with torch.no_grad():
        for x, expected in ((X[:1], ["record"]), (X[:1], []), (torch.randn(3, 8, 5, 7), None)):
            given, count = replays(cuda, lambda x=x: model(x))
            torch.testing.assert_close(given, exact(x))
            if expected is None:
                assert count == 0
            else:
                assert count >= 1 and cuda.said.count("record") == len(expected)


def test_weights_that_change_are_recorded_anew(cuda):
    model = recorded.record_(network(), X)
    with torch.no_grad():
        before = model(X)
        model[4].bias.add_(1)
        given, _ = replays(cuda, lambda: model(X))
        assert "record" in cuda.said
        torch.testing.assert_close(given, before + 1)
        model[4].bias = nn.Parameter(model[4].bias + 1)
        torch.testing.assert_close(model(X), before + 2)


class Flagged(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.scale = nn.Linear(4, 4), 1.0

    def forward(self, x):
        return self.linear(x) * self.scale


def test_what_a_replay_would_not_see_runs_as_it_did(cuda):
    x = torch.randn(3, 4)
    model = recorded.record_(Flagged().eval(), x)
    with torch.no_grad():
        once = model(x)
        model.scale = 3.0
        given, count = replays(cuda, lambda: model(x))
        assert count == 0
        torch.testing.assert_close(given, 3 * once)
        model.scale = 1.0
        handle = model.linear.register_forward_hook(lambda *_: torch.zeros(3, 4))
        assert not model(x).any()
        handle.remove()
        handle = model.register_forward_pre_hook(lambda _, args: (args[0] * 0,))
        torch.testing.assert_close(model(x), model.linear.bias.expand(3, 4))
        handle.remove()
        assert replays(cuda, lambda: model(x))[1] == 1
        for call in (lambda: model(x=x), lambda: model(x.double().float().requires_grad_())):
            torch.testing.assert_close(call(), once)
        cuda.capturing = True
        assert replays(cuda, lambda: model(x))[1] == 0
        cuda.capturing = False
    model.train()
    with torch.no_grad():
        assert replays(cuda, lambda: model(x))[1] == 0
    model.eval()
    assert model(x).requires_grad
    assert replays(cuda, lambda: torch.func.vmap(model)(x))[1] == 0


def test_copies_are_not_recorded(cuda):
    x = torch.randn(3, 4)
    model = recorded.record_(Flagged().eval(), x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            given, count = replays(cuda, lambda twin=twin: twin(x))
            assert count == 0
            torch.testing.assert_close(given, model(x))


def test_two_threads_get_their_own(cuda):
    model = recorded.record_(network(), X)
    exact = copy.deepcopy(model)
    inputs = [torch.randn_like(X) for _ in range(8)]
    given = [None] * 8

    def run(own):
        with torch.no_grad():
            given[own] = [model(inputs[own]) for _ in range(20)]

    threads = [threading.Thread(target=run, args=(own,)) for own in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        for x, found in zip(inputs, given, strict=True):
            for each in found:
                torch.testing.assert_close(each, exact(x))


class Writes(nn.Module):
    def forward(self, x):
        return x.add_(1)


class Keeps(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls = self.calls + 1
        return x * self.calls


class Draws(nn.Module):
    def forward(self, x):
        return x + torch.rand(x.shape)


class Scaled(nn.Module):
    def forward(self, x, factor):
        return x * factor


class Named(nn.Module):
    def forward(self, *, x):
        return x


class Result:
    def __init__(self, x):
        self.x = x


class Wraps(nn.Module):
    def forward(self, x):
        return Result(x + 1)


class Scales(nn.Module):
    """A number from outside of the model, another one in each call."""

    numbers = iter(range(1, 100))

    def forward(self, x):
        return x * next(Scales.numbers)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Writes, "it writes to its inputs"),
        (Keeps, "its forward keeps something in calls"),
        (Draws, "draws random numbers on the CPU"),
        (Wraps, "its output holds a Result"),
        (Scales, "replayed, it gives something else"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_words_and_runs_as_it_did(cuda, kind, words):
    model = kind().eval()
    with pytest.raises(RuntimeError, match=f"the model cannot be recorded: .*{words}"):
        recorded.record_(model, torch.ones(3))
    assert model._compiled_call_impl is None


def test_reasons_of_inputs_and_of_a_capture_that_fails(cuda):
    model = network()
    with pytest.raises(RuntimeError, match="its inputs are not all tensors"):
        recorded.record_(Scaled().eval(), (X, 3))
    with pytest.raises(RuntimeError, match="its inputs are given by keyword"):
        recorded.record_(Named().eval(), {"x": X})
    with pytest.raises(RuntimeError, match="its inputs are on meta, not on one cpu"):
        recorded.record_(model, X.to("meta"))
    with pytest.raises(RuntimeError, match="training mode"):
        recorded.record_(model.train(), X)
    model = recorded.record_(model.eval(), X)
    cuda.fails = "operation not permitted when stream is capturing"
    with torch.no_grad(), pytest.warns(UserWarning, match="runs unrecorded: .*not permitted"):
        given = model(X[:1])
    with torch.no_grad():
        # Said once; from then on it is as it was without.
        torch.testing.assert_close(model(X[:1]), given)
    with pytest.raises(RuntimeError, match="not permitted"):
        recorded.record_(network(), X)


def test_on_a_card_that_is_not_meant_nothing_is_recorded():
    with pytest.raises(RuntimeError, match="its inputs are on cpu, not on one cuda"):
        sparse_ops.convert.record_(network(), X)


def pruned():
    model = network()
    mask = PSD2_P8.mask(model[0].weight.shape)
    with torch.no_grad():
        model[0].weight.mul_(mask)
    return model


def measured(pairs):
    def measure(dense, packed, seconds):
        dense(), packed()
        pairs.append((dense, packed))
        return Comparison(2.0, 1.0, 2.0, 2.0, 2.0, 20)

    return measure


def test_a_plan_times_graph_against_graph_and_its_model_is_recorded(cuda, monkeypatch):
    pairs = []
    model = pruned()
    plan = sparse_ops.plan(model, X, measure=measured(pairs), progress=False)
    assert pairs and all(call.__name__ == "replay" for pair in pairs for call in pair)
    (note,) = [note for note in plan.notes if "timed as CUDA graphs" in note]
    assert "layers that stay dense do so in further kernels" in note
    monkeypatch.setattr("sparse_ops.planning.plans.check_layer", lambda *_: None)
    fast = plan.apply(model)
    with torch.no_grad():
        given, count = replays(cuda, lambda: fast(X))
        assert count == 1
        torch.testing.assert_close(given, model(X), rtol=1e-4, atol=1e-4)
    cuda.fails = "no graphs today"
    with pytest.warns(UserWarning, match="no graphs today; its layers are launched one by one"):
        fast = plan.apply(model)
    assert fast._compiled_call_impl is None


def test_dense_that_cannot_be_recorded_is_not_raced_by_what_can(cuda, monkeypatch):
    def record(call):
        if call is dense:
            raise RuntimeError("no")
        return type("Graph", (), {"replay": staticmethod(lambda: None)}), None

    monkeypatch.setattr(kernels("graphs"), "record", record)
    dense, packed = (lambda: None), (lambda: None)
    pairs = []
    race = recorded.by_graphs(measured(pairs))
    race(dense, packed, 1.0)
    race(packed, dense, 1.0)
    race(packed, packed, 1.0)
    assert pairs[0] == (dense, packed)
    assert pairs[1][0] is not packed and pairs[1][1] is dense
    assert packed not in pairs[2]


def test_a_compiled_model_is_a_graph_already_and_is_not_recorded_again(cuda, monkeypatch):
    compiled, calls = [], []

    def compiled_call(model, example):
        compiled.append(model)
        return lambda: calls.append("compiled")

    monkeypatch.setattr("sparse_ops.planning.fastest.compiled_call", compiled_call)
    dense, pairs = Compiled(network(), (X,), given=False), []
    recorded.by_graphs(measured(pairs))(dense, lambda: X, 1.0)
    ((theirs, ours),) = pairs
    # It is called as it is, against a graph of ours, and compiled once.
    assert theirs is dense and ours.__name__ == "replay"
    assert cuda.said == ["record", "replay"]
    dense()
    assert calls == ["compiled"] * 2 and len(compiled) == 1
