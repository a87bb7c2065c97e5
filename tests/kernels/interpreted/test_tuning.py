"""What is tuned is kept, believed by dispatch, and never needed; with a timer that lies as told."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks._gpu_sparse import CANDIDATES as gpu_run_candidates
from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.functional import tune
from sparse_ops.ops import _kernels, _triton, _tuned, csr_linear, periodic_conv2d, tuning
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
    assert sorted(p.name for p in file.parent.iterdir()) == ["tuned.json", "tuned.json.lock"]


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a": ' * 50_000, '{"a": NaN', "9" * 5000], ids=lambda c: c[:9]
)
def test_a_hostile_file_is_as_good_as_none(file, content, monkeypatch):
    file.parent.mkdir()
    file.write_text(content)
    assert _tuned.read(file) == {}
    file.write_text('{"a": {"b": {}}}')
    assert _tuned.read(file) == {"a": {"b": {}}}
    monkeypatch.setattr(_tuned, "MOST_BYTES", 10)
    assert _tuned.read(file) == {}


@pytest.mark.parametrize(
    "found",
    [
        *([1, 2], ["a"] * 5, [16, 16, 16, 4, -1], 7, None, [1e9] * 5, [True] * 5),
        # What would take a compiler minutes, or what it refuses.
        *([1024] * 5, [256, 256, 32, 8, 3], [128, 64, 32, 1024, 3], [128, 64, 32, 8, 1000]),
        *([96, 64, 32, 8, 3], [128, 64, 24, 8, 3], [128, 64, 32, 3, 3], [8, 64, 32, 8, 3]),
        [10**30, 64, 32, 8, 3],
    ],
    ids=str,
)
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


@pytest.mark.parametrize("candidates", [tuning.CANDIDATES, gpu_run_candidates])
def test_whatever_tuning_finds_is_allowed(candidates):
    for kind, numbers in candidates.items():
        assert all(_tuned.allowed(kind, own) for own in numbers), kind


def test_defaults_are_allowed():
    for dtype in _triton.DTYPES:
        for width in (1, 16, 50, 64, 1000):
            x = torch.empty(8, width, 1, 1, dtype=dtype)
            assert _tuned.allowed("set", configs.set_config(x, width))
            assert _tuned.allowed("row", configs.row_config(x))
            flat = torch.empty(width, 64, dtype=dtype)
            assert _tuned.allowed("linear", configs.linear_config(flat, 10, 10**6))


@pytest.mark.parametrize("times", [{"reference": "fast"}, {"reference": float("nan")}, [], 3])
@pytest.mark.parametrize("bad", [-1.0, 0])
def test_damaged_times_change_no_order(times, bad):
    weight = CSRWeight.pack(torch.randn(5, 9), torch.rand(5, 9) > 0.5)
    x = torch.randn(2, 9)
    arguments = (x, weight, None, None, None)
    with _tuned.asking() as asked:
        _tuned.preferred(csr_linear.BACKENDS, *arguments)
    ((kind, card, problem),) = asked
    for own in (times, {"reference": bad}):
        _tuned.keep(kind, card, problem, own)
        found = _tuned.preferred(csr_linear.BACKENDS, *arguments)
        assert [b.name for b in found] == [b.name for b in csr_linear.BACKENDS]
    _tuned.keep(kind, card, problem, {"reference": 0.5})
    assert _tuned.preferred(csr_linear.BACKENDS, *arguments)[0].name == "reference"


def test_processes_that_keep_at_the_same_time_lose_nothing(file):
    code = """
import sys
from sparse_ops.ops import _tuned
for n in range(20):
    _tuned.keep("row", "card", f"{sys.argv[1]} {n}", [16, 1, 1, 1])
"""
    running = [subprocess.Popen([sys.executable, "-c", code, str(own)]) for own in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert len(_tuned.read(file)["card"]) == 80


def test_a_user_without_a_home_has_a_file_all_the_same(monkeypatch, tmp_path):
    monkeypatch.delenv("SPARSE_OPS_TUNED")
    monkeypatch.setattr(_tuned.os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(_tuned.tempfile, "gettempdir", lambda: str(tmp_path))
    assert _tuned.path() == tmp_path / "sparse_ops" / "tuned.json"
