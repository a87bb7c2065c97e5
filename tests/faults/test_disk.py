"""No space, no permission, a cache of others: a sentence, nothing lost, nothing left over."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sparse_ops as so
from sparse_ops.planning.cache import VARIABLE, Cache
from sparse_ops.training import Dense, fit
from tests.convert.models import EXAMPLE, masks_of_net, net
from tests.training.small import small_net, small_task


@pytest.fixture
def full():
    """Files cannot grow over so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def packed():
    mask = torch.rand(300, 400) > 0.8
    return so.nn.CSRLinear.from_dense(torch.nn.Linear(400, 300), mask)


def train(path):
    model = small_net()
    fit(model, small_task(), Dense(), epochs=2, batch_size=16, progress=False, checkpoint=path)


WRITERS = {
    "save": lambda path: so.save(packed(), path),
    "masks": lambda path: so.masks.save({"weight": torch.rand(200, 200) > 0.5}, path),
    "training": train,
}


@pytest.mark.parametrize("size", [0, 4096])
@pytest.mark.parametrize("name", WRITERS)
def test_where_the_disk_is_full_the_file_stays_as_it_was(name, size, tmp_path, full):
    path = tmp_path / "file"
    if name != "training":
        # Training would go on with what is there.
        path.write_bytes(b"as it was")
    before = path.read_bytes() if path.exists() else None
    full(size)
    try:
        with pytest.raises(OSError) as raised:
            WRITERS[name](path)
    finally:
        full(resource.RLIM_INFINITY)
    assert len(str(raised.value)) > 10
    left = list(tmp_path.iterdir())
    assert [each.name for each in left] == (["file"] if before is not None else [])
    assert before is None or path.read_bytes() == before


def test_a_cache_that_cannot_grow_is_a_note(tmp_path, full):
    cache = Cache(tmp_path)
    cache.put({"a": 1}, 1)
    full(0)
    try:
        cache.write()
    finally:
        full(resource.RLIM_INFINITY)
    assert "measurements could not be kept" in cache.notes[0] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", WRITERS)
def test_where_nothing_may_be_written_the_error_names_it(name):
    # Not even root makes files there.
    with pytest.raises(OSError, match=r"/proc/x"):
        WRITERS[name](Path("/proc/x"))


DIRT = {
    "nothing": b"",
    "no JSON": b"\xff\x00{",
    "half of one": None,
    "a list": b"[]",
    "deep": b"[" * 10**5,
    "an older format": b'{"format": 0, "environment": {}, "results": {}}',
    "no results": b'{"format": 1, "environment": {}}',
}


@pytest.mark.parametrize("dirt", [*DIRT, "a folder"])
def test_a_cache_of_others_is_ignored_and_written_anew(dirt, tmp_path):
    (tmp_path / "somebody else's.json").write_text("mine")
    cache = Cache(tmp_path)
    cache.put({"a": 1}, 1)
    cache.write()
    if dirt == "a folder":
        cache.path.unlink()
        cache.path.mkdir()
    else:
        whole = cache.path.read_bytes()
        cache.path.write_bytes(DIRT[dirt] if DIRT[dirt] is not None else whole[: len(whole) // 2])
    again = Cache(tmp_path)
    assert "is no cache of measurements" in again.notes[0] and again.get({"a": 1}) is None
    again.put({"a": 1}, 2)
    again.write()
    assert Cache(tmp_path).get({"a": 1}) == (None if dirt == "a folder" else 2)
    assert any("could not be kept" in note for note in again.notes) == (dirt == "a folder")
    assert (tmp_path / "somebody else's.json").read_text() == "mine"


JUNK = (None, 1, "x", [], {"comparison": {}, "seconds": 1}, {"comparison": 3, "seconds": "x"}, True)


@pytest.mark.slow
def test_measurements_that_are_junk_are_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    options = {"budget_s": 0.5, "compile": False, "progress": False}
    model, masks = net(), masks_of_net()
    so.plan(model, torch.randn(EXAMPLE), masks, **options)
    (path,) = tmp_path.glob("*.json")
    data = json.loads(path.read_text())
    assert data["results"]
    for junk in JUNK:
        path.write_text(json.dumps(data | {"results": dict.fromkeys(data["results"], junk)}))
        assert so.plan(model, torch.randn(EXAMPLE), masks, **options).layers, junk


def test_where_there_is_too_little_memory_loading_says_so(tmp_path):
    so.save(packed(), tmp_path / "x.safetensors")
    code = f"""
import resource, torch, sparse_ops as so
model = torch.nn.Linear(400, 300)
so.load({str(tmp_path / "x.safetensors")!r}, model)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096,) * 2)
failed = 0
keep = []
for _ in range(20000):
    try:
        keep.append(so.load({str(tmp_path / "x.safetensors")!r}, model))
    except (MemoryError, OSError, RuntimeError, ValueError) as error:
        failed += 1
        keep.clear()
        if failed == 3:
            break
print(failed)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "3", done.stdout + done.stderr


def test_what_a_killed_writer_left_is_deleted_a_day_later(tmp_path):
    path = tmp_path / "masks.safetensors"
    names = (".masks.safetensors.ab_45678.tmp", ".masks.safetensors.x.tmp", ".other.ab_45678.tmp")
    old, short, other = (tmp_path / name for name in names)
    new = tmp_path / ".masks.safetensors.12345678.tmp"
    for each in (old, short, other, new):
        each.write_bytes(b"half")
    for each in (old, short, other):
        os.utime(each, (1e9, 1e9))
    so.masks.save({"weight": torch.ones(2, dtype=torch.bool)}, path)
    # Others' files stay, and that of a writer that may still be at work.
    assert set(tmp_path.iterdir()) == {path, short, other, new}
