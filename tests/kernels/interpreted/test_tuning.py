"""What is tuned is kept, believed by dispatch, and never needed; with a timer that lies as told."""

import json

import pytest
import torch

from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.functional import tune
from sparse_ops.ops import _kernels, _tuned, csr_linear, periodic_conv2d
from sparse_ops.patterns import PSD2_P8

configs = _kernels.kernels("configs")
CANDIDATES = {
    "merged": [(1,), (4,), (3,)],
    "set": [(16, 16, 16, 4, 1), (24, 16, 16, 4, 1), (32, 16, 32, 4, 1)],
    "linear": [(1, 32, 1, 4, 1), (1, 16, 3, 4, 1)],
}


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSE_OPS_TUNED", str(tmp_path / "new" / "tuned.json"))
    monkeypatch.setattr(_tuned, "_table", {})
    return tmp_path / "new" / "tuned.json"


def conv():
    shape = (16, 4, 3, 3)
    weight = PeriodicWeight.pack(torch.randn(shape), PSD2_P8.mask(shape), PSD2_P8)
    return torch.randn(1, 4, 4, 3), weight


def last_is_fastest(*calls):
    for call in calls:
        call()
    return [float(len(calls) - i) for i in range(len(calls))]


def used(monkeypatch, run):
    """The configuration of the one product that `run` launches."""
    kernel, seen = _kernels.kernels("set_conv2d"), []
    real = kernel.set_conv2d
    monkeypatch.setattr(
        kernel, "set_conv2d", lambda *a, **k: (seen.append(k["config"]), real(*a, **k))[1]
    )
    run()
    return seen[-1]


def test_the_fastest_configuration_and_backend_are_kept_and_used(file, monkeypatch):
    x, weight = conv()
    run = periodic_conv2d.periodic_conv2d
    times = tune(
        run,
        x,
        weight,
        milliseconds=last_is_fastest,
        candidates=CANDIDATES,
    )
    assert min(times, key=times.get) == "reference"
    (problems,) = json.loads(file.read_text()).values()
    assert sorted(kind for entry in problems.values() for kind in entry) == [
        "backends",
        "merged",
        "set",
    ]
    # 24 pixels are no power of two: Triton refuses them, and what is refused is left out.
    call = lambda: run(x, weight, backend="triton")  # noqa: E731
    assert used(monkeypatch, call) == configs.SetConfig(32, 16, 32, 4, 1)
    monkeypatch.setattr(_tuned, "_table", _tuned.read(file))
    assert used(monkeypatch, call) == configs.SetConfig(32, 16, 32, 4, 1)
    # 8 classes are not merged into 3.
    (entry,) = [e for e in problems.values() if "merged" in e]
    assert entry["merged"] == [3]
    # Another shape is another problem: the default.
    other = torch.randn(1, 4, 5, 3)
    assert used(monkeypatch, lambda: run(other, weight, backend="triton")) is None


def test_auto_takes_what_was_fastest():
    weight = CSRWeight.pack(torch.randn(5, 9), torch.rand(5, 9) > 0.5)
    x = torch.randn(2, 9)
    arguments = (x, weight, None, None, None)
    by_default = [b.name for b in csr_linear.BACKENDS]
    assert [b.name for b in _tuned.preferred(csr_linear.BACKENDS, *arguments)] == by_default
    tune(
        csr_linear.csr_linear,
        x,
        weight,
        milliseconds=last_is_fastest,
        candidates=CANDIDATES,
    )
    first = _tuned.preferred(csr_linear.BACKENDS, *arguments)[0]
    assert first.name == "reference"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"a": 1}', '{"a": {"b": 2}}', "\x00\xff", None]
)
def test_a_damaged_file_is_as_good_as_none(file, content, tmp_path):
    file.parent.mkdir()
    if content is not None:
        file.write_text(content)
    assert _tuned.read(file) == {}
    _tuned.keep("set", "card", "problem", [1, 2, 3, 4, 5])
    assert _tuned.read(file) == {"card": {"problem": {"set": [1, 2, 3, 4, 5]}}}
    assert [p.name for p in file.parent.iterdir()] == ["tuned.json"]


@pytest.mark.parametrize("found", [[1, 2], ["a"] * 5, [16, 16, 16, 4, -1], 7, None, [1e9] * 5])
def test_damaged_numbers_are_not_used(found):
    x, weight = conv()
    what = _tuned.problem(x, weight.shape, weight.nnz, "more")
    _tuned.keep("set", _tuned.card(x.device), what, found)
    assert _tuned.config("set", x, weight.shape, weight.nnz, "more") is None


def test_two_processes_lose_nothing_of_each_other(file):
    _tuned.keep("set", "card", "one", [1, 2, 3, 4, 5])
    theirs = _tuned.read(file)
    theirs["card"]["two"] = {"row": [1, 2, 3, 4]}
    file.write_text(json.dumps(theirs))
    _tuned.keep("set", "card", "three", [1, 2, 3, 4, 5])
    assert sorted(_tuned.read(file)["card"]) == ["one", "three", "two"]


def test_the_card_names_the_versions():
    assert f"torch {torch.__version__}" in _tuned.card(torch.device("cpu"))
