"""What `sparse-ops train` and `convert` take for training methods: held-out images, HDF5 files."""

import csv
import json

import pytest
import torch

import sparse_ops as so
from sparse_ops.data import Dataset, Split
from sparse_ops.models import lenet300
from sparse_ops.training import cut_, hdf5
from tests.test_cli import run


@pytest.fixture
def few(monkeypatch):
    """60 + 20 of the images instead of thousands."""
    whole = so.data.load("fashion-mnist-subset")
    parts = (Split(s.images[:n], s.labels[:n]) for s, n in ((whole.train, 60), (whole.test, 20)))
    some = Dataset(whole.name, *parts, whole.classes)
    monkeypatch.setattr(so.data, "load", lambda name, folder=None: some)
    return some


def test_held_out_images_are_watched_and_not_learned_from(few, tmp_path):
    out = tmp_path / "run"
    options = ("--model", "lenet300", "--method", "sabr", "--epochs", 2, "--validation", 0.25)
    run("train", *options, "--out", out)
    result = json.loads((out / "result.json").read_text())
    assert result["validation"] == 0.25
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    watched = len(so.data.hold_out(few.train, 0.25)[1])
    for row in rows:
        right = float(row["top1"]) * watched
        assert right == pytest.approx(round(right), abs=1e-6)
        assert 0 <= float(row["sparsity"]) <= 1
    message = run("train", *options[:-1], 1.5, "--out", out, ok=False).output
    assert "fraction must be in (0, 1), got 1.5" in " ".join(message.split())


def test_a_recipe_may_hold_images_out_too(few, tmp_path):
    recipe = ("--recipe", "lottery-magnitude-lenet300-60x", "--data", few.name)
    run("train", *recipe, "--shorten", 0.01, "--validation", 0.2, "--out", tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [phase["name"] for phase in result["phases"]] == ["base", "cut", "ticket"]
    assert result["overrides"]["data.validation"] == 0.2
    assert result["published"]["top1"] == 97.39
    assert result["parameters"] == 266_610 and result["weights"] == result["dense_macs"] == 266_200
    assert result["nnz"] == result["kept_macs"] == 4_437
    base, cut, ticket = result["phases"]
    assert base["best_epoch"] in (1, 2) and cut["best_epoch"] is None
    assert 0 <= ticket["best_validation"] <= 1
    with (tmp_path / "run" / "ticket.csv").open(newline="") as file:
        assert all(row["top1"] for row in csv.DictReader(file))


@pytest.mark.parametrize("ending", ["hdf5", "npz"])
def test_checkpoints_of_the_gsm_authors_are_converted(ending, tmp_path):
    if ending == "hdf5":
        pytest.importorskip("h5py")
    model = lenet300().eval()
    cut_(model, 0.98)
    file, out = tmp_path / f"finish_pruned.{ending}", tmp_path / "packed.safetensors"
    hdf5.save(model.state_dict(), file, deps=[300, 100])
    run("convert", file, "--model", "lenet300", "--out", out, "--budget", 0.2)
    x = torch.randn(2, 1, 28, 28)
    loaded = so.load(out, lenet300().eval())
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-5)
    file.write_bytes(file.read_bytes()[:100])
    run("convert", file, "--model", "lenet300", "--out", out, ok=False)


def test_options_that_are_none_by_default_can_be_set_by_name():
    from sparse_ops.cli.errors import UserError
    from sparse_ops.cli.methods import make_method
    from sparse_ops.training import SABR, Magnitude, Spred

    made = {
        "magnitude": (["begin=1", "end=4"], Magnitude(begin=1, end=4)),
        "spred": (["threshold=0.5", "mode=filter"], Spred(threshold=0.5, mode="filter")),
        "sabr": (["epsilon=1e-5", "faithful=true"], SABR(epsilon=1e-5, faithful=True)),
    }
    for name, (given, expected) in made.items():
        assert make_method(name, None, None, None, given)[0] == expected
    with pytest.raises(UserError, match="begin must be a int, got 'x'"):
        make_method("magnitude", None, None, None, ["begin=x"])
    with pytest.raises(UserError, match="spred has no 'exempt' to --set"):
        make_method("spred", None, None, None, ["exempt=fc"])


def test_published_experiments_are_listed_with_their_figures():
    output = run("recipes", "lottery-gsm").output
    assert output.count("published: dense_top1") == 3
    assert "lottery-gsm-lenet5-300x" in output and "top1 98.88" in output
    assert "magnitude-lenet" not in output
    refused = run("recipes", "zzz", ok=False).output
    assert "no recipe has 'zzz' in its name" in " ".join(refused.split())
