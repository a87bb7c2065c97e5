"""What was measured is kept between processes, for this machine and this software only."""

import json

import pytest
import torch

import sparse_ops as so
from sparse_ops.planning import cache as caches
from sparse_ops.planning import floors as roofline
from sparse_ops.planning import planner
from sparse_ops.planning.cache import Cache
from sparse_ops.planning.measure import Comparison
from tests.convert.models import EXAMPLE, masks_of_net, net

RESULT = Comparison(2.0, 1.0, 2.0, 1.8, 2.2, 20, 1)


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """Plans whose measurements are counted instead of made, and kept in a folder of the test's."""
    calls = []

    def measure(dense, packed, seconds):
        calls.append(packed())
        return RESULT

    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(planner, "compare", measure)
    monkeypatch.setattr(
        roofline, "_floors_of_this_process", lambda _: roofline.Floors(1e9, {1: 1e9})
    )
    return calls


def planned(model, masks, **options):
    torch.manual_seed(1)
    return so.plan(
        model, torch.randn(EXAMPLE), masks, budget_s=1, compile=False, progress=False, **options
    )


def files(folder):
    return list((folder / "cache").glob("*.json"))


def test_a_second_plan_of_the_same_model_measures_nothing(counted, tmp_path):
    model, masks = net(), masks_of_net()
    first = planned(model, masks)
    assert counted and len(files(tmp_path)) == 1
    counted.clear()
    second = planned(model, masks)
    assert not counted
    assert any("known from before" in note for note in second.notes)
    assert [layer.becomes for layer in second.layers] == [layer.becomes for layer in first.layers]
    assert second.whole == first.whole == RESULT


def test_another_mask_or_batch_size_or_model_is_measured_anew(counted):
    model, masks = net(), masks_of_net()
    planned(model, masks)
    counted.clear()
    masks["anything.weight"] = masks["anything.weight"].flip(0)
    planned(model, masks)
    assert counted
    counted.clear()
    so.plan(model, torch.randn(3, *EXAMPLE[1:]), masks, compile=False, progress=False)
    assert counted
    counted.clear()
    model.relu2 = torch.nn.SiLU()
    planned(model, masks)
    assert counted


def test_another_number_of_threads_or_build_has_a_file_of_its_own(counted, tmp_path, monkeypatch):
    model, masks = net(), masks_of_net()
    planned(model, masks)
    for changed in ("threads", "torch", "cpu", "sparse_ops"):
        counted.clear()
        other = {**caches.environment(), changed: "another"}
        with monkeypatch.context() as patch:
            patch.setattr(caches, "environment", lambda other=other: other)
            planned(model, masks)
        assert counted
    assert len(files(tmp_path)) == 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x00\xff",
        b"[]",
        b'{"format": 99, "environment": {}, "results": {}}',
        b'{"format": 1, "results": 3}',
        b"[" * 100_000,
    ],
    ids=range(7),
)
def test_a_damaged_file_is_ignored_with_a_note_and_written_anew(counted, tmp_path, content):
    model, masks = net(), masks_of_net()
    planned(model, masks)
    (file,) = files(tmp_path)
    file.write_bytes(content)
    counted.clear()
    plan = planned(model, masks)
    assert counted and any("was ignored" in note for note in plan.notes)
    counted.clear()
    assert not any("was ignored" in note for note in planned(model, masks).notes)
    assert not counted


def test_damaged_entries_are_measured_again(counted, tmp_path):
    model, masks = net(), masks_of_net()
    planned(model, masks)
    (file,) = files(tmp_path)
    data = json.loads(file.read_text())
    for junk in (None, 3, "x", [], {"seconds": 1e9}, {"seconds": 1e9, "comparison": {"low": 1}}):
        data["results"] = dict.fromkeys(data["results"], junk)
        file.write_text(json.dumps(data))
        counted.clear()
        assert planned(model, masks).whole == RESULT
        assert counted


def test_what_was_measured_in_a_hurry_is_measured_again_when_there_is_time(tmp_path):
    cache = Cache(tmp_path)
    hurried = Comparison(2.0, 1.0, 2.0, 1.8, 2.2, 4)
    cache.put_comparison({"what": "x"}, 1.0, hurried)
    cache.put_comparison({"what": "sure"}, 1.0, RESULT)
    cache.write()
    again = Cache(tmp_path)
    assert again.comparison({"what": "x"}, 4.0) == hurried
    assert again.comparison({"what": "x"}, 4.1) is None
    assert again.comparison({"what": "sure"}, 1e9) == RESULT
    assert again.comparison({"what": "y"}, 0.1) is None


def test_two_writers_keep_what_both_have_measured(tmp_path):
    one, other = Cache(tmp_path), Cache(tmp_path)
    one.put_comparison({"what": "one"}, 1.0, RESULT)
    other.put_comparison({"what": "other"}, 1.0, RESULT)
    one.write()
    other.write()
    last = Cache(tmp_path)
    assert last.comparison({"what": "one"}, 1.0) == last.comparison({"what": "other"}, 1.0)
    assert last.hits == 2
    assert [file.name for file in tmp_path.iterdir()] == [last.path.name]


def test_the_cache_can_be_moved_and_switched_off(counted, tmp_path, monkeypatch):
    monkeypatch.setenv(caches.VARIABLE, "off")
    assert caches.folder() is None
    planned(net(), masks_of_net())
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "elsewhere"))
    assert caches.folder() == tmp_path / "elsewhere"
    monkeypatch.delenv(caches.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert caches.folder().name == "sparse_ops"


def test_a_folder_that_cannot_be_written_is_a_note_and_no_error(counted, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(caches.VARIABLE, str(tmp_path / "file" / "cache"))
    plan = planned(net(), masks_of_net())
    assert plan.whole and any("could not be kept" in note for note in plan.notes)


def test_a_measure_of_ones_own_is_never_kept(counted, tmp_path):
    planned(net(), masks_of_net(), measure=lambda dense, packed, seconds: RESULT)
    assert not (tmp_path / "cache").exists()


def test_the_machine_is_measured_once(counted, tmp_path, monkeypatch):
    seen = []

    def floors(threads):
        seen.append(threads)
        return roofline.Floors(2e9, {1: 1e9, 4096: 5e8})

    monkeypatch.setattr(roofline, "_floors_of_this_process", floors)
    for _ in range(2):
        plan = planned(net(), masks_of_net())
        layer = next(layer for layer in plan.layers if layer.name == "anything")
        size = 4 * (2 * 16 * 64 + 2 * 16 * 16 + layer.nnz)
        assert layer.floor_ms == pytest.approx(1e3 * size / 5e8) and layer.bytes == size
        # What a report draws the layers under.
        assert plan.as_data()["floors"] == {"peak": 2e9, "bandwidths": {"1": 1e9, "4096": 5e8}}
        taken = layer.packed_ms if layer.becomes else layer.dense_ms
        assert layer.floor_reached == pytest.approx(layer.floor_ms / taken)
    assert len(seen) == 1
