"""State dicts in HDF5 and .npz: names, dtypes, what is refused."""

import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from sparse_ops.training import hdf5
from tests.training.small import small_net


@pytest.fixture(params=["hdf5", "npz"])
def path(request, tmp_path):
    if request.param == "hdf5":
        pytest.importorskip("h5py")
    return tmp_path / f"state.{request.param}"


def test_a_state_comes_back_exactly_and_with_its_dtypes(path):
    model = small_net()
    hdf5.save(model.state_dict(), path)
    found = hdf5.load(path)
    assert set(found) == set(model.state_dict())
    for name, value in model.state_dict().items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)
    counter = found["1.num_batches_tracked"]
    assert counter.shape == () and counter.dtype == torch.int64
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_names_follow_the_rules_of_the_authors(path):
    state = {
        "module.stage1.0.conv1.weight": torch.ones(2, 3, dtype=torch.float64),
        "scope/kernel": torch.ones(2, dtype=torch.bfloat16),
        "17": torch.arange(3),
    }
    hdf5.save(state, path, deps=(16, 32, 64))
    found = hdf5.load(path)
    assert set(found) == {"stage1.0.conv1.weight", "scope/kernel", 17, "deps"}
    assert found["stage1.0.conv1.weight"].dtype == torch.float32
    assert found["scope/kernel"].dtype == torch.float32
    assert found[17].tolist() == [0, 1, 2] and found["deps"].tolist() == [16, 32, 64]


def test_in_the_file_there_is_one_dataset_for_each_entry_at_the_top(tmp_path):
    h5py = pytest.importorskip("h5py")
    hdf5.save({"a/b.weight": torch.ones(2)}, tmp_path / "x.hdf5", deps=[4])
    with h5py.File(tmp_path / "x.hdf5", "r") as file:
        assert set(file) == {"a+b.weight", "deps"}
        assert isinstance(file["a+b.weight"], h5py.Dataset)
        assert file["a+b.weight"].dtype == np.float32


def test_entries_are_assigned_by_name_and_what_is_left_over_is_told(path):
    model, other = small_net(), small_net()
    with torch.no_grad():
        for value in other.state_dict().values():
            value.add_(1)
    state = {f"module.{n}": v for n, v in other.state_dict().items() if n != "8.bias"}
    hdf5.save(state | {"extra": torch.zeros(1)}, path, deps=[8])
    before = model[8].bias.detach().clone()
    with pytest.warns(UserWarning) as caught:
        missing = hdf5.assign_(model, hdf5.load(path))
    assert missing == ["8.bias"]
    words = [str(w.message) for w in caught]
    assert words == [
        "the state has no entry for 8.bias (1 in all)",
        "the model has no place for extra (1 in all)",
    ]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before if name == "8.bias" else other.state_dict()[name])


def test_a_whole_state_is_assigned_without_a_word(path):
    model = small_net()
    hdf5.save(model.state_dict(), path)
    fresh = nn.Sequential(*small_net())
    nn.init.zeros_(fresh[3].weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hdf5.assign_(fresh, hdf5.load(path)) == []
    assert torch.equal(fresh[3].weight, model[3].weight)
    assert fresh[3].weight.requires_grad


def test_an_entry_of_another_shape_is_refused_before_anything_is_changed():
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    state = {"weight": torch.ones(2, 3), "bias": torch.ones(3)}
    with pytest.raises(ValueError, match=r"bias must be \(2,\), as in the model, got \(3,\)"):
        hdf5.assign_(model, state)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"a+b": torch.ones(1)}, "'a\\+b' cannot be the name"),
        ({"deps": torch.ones(1)}, "'deps' cannot be the name"),
        ({"module.": torch.ones(1)}, "cannot be the name"),
        ({"module.a": torch.ones(1), "a": torch.ones(1)}, "two entries would be named 'a'"),
    ],
)
def test_names_that_could_not_be_read_back_are_refused(state, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        hdf5.save(state, tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_refused(path):
    hdf5.save(small_net().state_dict(), path)
    whole = path.read_bytes()
    for damaged in (b"", b"nothing of the kind", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"state\.(hdf5|npz)"):
            hdf5.load(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        hdf5.load(path.with_name("other"))


def test_arrays_that_hold_no_numbers_are_refused(tmp_path):
    np.savez(tmp_path / "words.npz", a=np.array(["one", "two"]))
    with pytest.raises(ValueError, match="a is <U3, numbers were wanted"):
        hdf5.load(tmp_path / "words.npz")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="not a whole"):
        hdf5.load(tmp_path / "objects.npz")


def test_big_endian_numbers_are_read(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([1.5, -2], dtype=">f4"))
    assert hdf5.load(tmp_path / "x.npz")["a"].tolist() == [1.5, -2]


def test_a_file_that_leads_to_other_files_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    hdf5.save({"a": torch.ones(3)}, tmp_path / "secret.hdf5")
    (tmp_path / "raw").write_bytes(b"0" * 12)

    def link(file):
        file["a"] = h5py.ExternalLink("secret.hdf5", "/a")

    def raw(file):
        file.create_dataset("a", (3,), "f4", external=[(str(tmp_path / "raw"), 0, 12)])

    def virtual(file):
        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource(tmp_path / "secret.hdf5", "a", (3,))
        file.create_virtual_dataset("a", layout)

    def group(file):
        file.create_group("a")

    for number, make in enumerate((link, raw, virtual, group)):
        path = tmp_path / f"{number}.hdf5"
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(ValueError, match="a is no dataset of this file itself"):
            hdf5.load(path)


def test_without_h5py_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'sparse-ops\[hdf5\]'"):
        hdf5.save({"a": torch.ones(1)}, tmp_path / "x.hdf5")
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.hdf5").write_bytes(b"x")
    with pytest.raises(ImportError, match="h5py"):
        hdf5.load(tmp_path / "x.hdf5")
