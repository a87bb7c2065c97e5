"""`sparse-ops show`, `log` and `sweep`: what files hold, what runs did, and many of them."""

import json

import pytest
import torch

import sparse_ops as so
from sparse_ops.cli import train as train_
from tests.cli.running import run


def test_show_counts_zeros_of_every_kind_of_checkpoint(checkpoint, packed, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    so.training.hdf5.save(state, tmp_path / "model.npz")
    so.masks.save({"fc1.weight": torch.eye(300, 784) > 0}, tmp_path / "masks.safetensors")
    for file in (checkpoint, tmp_path / "model.npz"):
        output = run("show", file).output
        assert "fc1.weight" in output and "300×784" in output
        # 8,000 of 266,200 are kept.
        assert "258,200 of 266,200 numbers" in output and "3 of one dimension" in output
        assert "fc1.bias" not in output and "fc1.bias" in run("show", file, "--all").output
    output = run("show", tmp_path / "masks.safetensors").output
    assert "removed" in output and "99.87%" in output
    output = run("show", packed).output
    assert "fc1.values" in output and "what is removed is not in a packed file" in output


def test_show_reads_hdf5(tmp_path):
    pytest.importorskip("h5py")
    so.training.hdf5.save({"a/weight": torch.tensor([[0.0, 1.0]])}, tmp_path / "m.hdf5")
    output = run("show", tmp_path / "m.hdf5").output
    assert "HDF5" in output and "a/weight" in output and "50.00%" in output


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("no.pt", None, "there is no file"),
        ("x.txt", "text", "text that begins 'text'"),
        ("x.safetensors", "text", "not a whole safetensors file"),
        ("x.pt", "text", "cannot be read as tensors only"),
    ],
)
def test_show_says_what_it_cannot_read(name, content, words, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    output = run("show", tmp_path / name, ok=False).output
    assert words in " ".join(output.split())


SWEEP = ["--model", "lenet300", "--method", "magnitude", "--epochs", "1"]


def test_a_sweep_trains_each_level_and_seed_once_and_feeds_log_and_report(
    few, tmp_path, monkeypatch
):
    out = tmp_path / "sweep"
    levels = ["--sparsity", "0.5", "--sparsity", "0.9", "--seed", "0", "--seed", "1"]
    timed = ["--time", "4", "--budget", "0.1", "--seconds", "0.05"]
    # Of compiling nothing is to be learned here, and it takes a minute.
    monkeypatch.setattr("sparse_ops.report.baseline.no_compiler", lambda: "not in a test")
    first = run("sweep", "--out", out, *SWEEP, "--sparsity", "0.9", *timed).output
    assert "0.9: top-1" in first and "1 seeds" in first
    kept = (out / "0.9-seed0" / "result.json").read_text()
    trained = []
    real = train_.train
    monkeypatch.setattr(train_, "train", lambda **o: trained.append(o["seed"]) or real(**o))
    text = run("sweep", "--out", out, *SWEEP, *levels).output
    assert trained == [0, 1, 1] and " ± " in text
    assert (out / "0.9-seed0" / "result.json").read_text() == kept
    names = {path.name for path in out.iterdir() if path.is_dir()}
    assert names == {"0.5-seed0", "0.5-seed1", "0.9-seed0", "0.9-seed1"}
    (row,) = json.loads((out / "0.9-seed0" / "bench4.json").read_text())["rows"]
    assert row["kept"] == pytest.approx(0.1, abs=0.001) and row["batch"] == 4
    output = run("log", out, "--every", "1").output
    assert output.count("lenet300 on fashion-mnist-subset, magnitude") == 4
    assert "1 epoch in" in output and "0.6" not in output.split("seed 0")[0]
    run("report", out, "--html", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "Accuracy against sparsity: lenet300" in page and "lenet300, magnitude" in page
    other = run("sweep", "--out", out, *SWEEP[:-1], "2", "--sparsity", "0.5", ok=False).output
    assert "epochs was 1, is 2" in " ".join(other.split())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "--sparsity or --pattern is needed"),
        (["--sparsity", "0.5", "--pattern", "PSD2_P8"], "one of them"),
        (["--sparsity", "0.5", "--time", "0"], "--time must be at least 1"),
    ],
)
def test_a_sweep_says_what_is_missing(more, words, tmp_path):
    output = run("sweep", "--out", tmp_path / "s", *SWEEP, *more, ok=False).output
    assert words in " ".join(output.split())


def test_log_tells_how_a_run_ended(tmp_path):
    lines = ["epoch,loss,accuracy,lr,seconds,examples_per_second,top1"]
    lines += [f"{e},{1 / e},0.5,0.1,2.0,100,{0.9 - 0.01 * abs(e - 9)}" for e in range(1, 13)]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    output = " ".join(run("log", tmp_path).output.split())
    assert "12 epochs in 24.0 s, loss 0.083333" in output
    # Epochs 3 to 12: 84, 85, ..., 89, 90, 89, 88, 87 %.
    assert (
        "top-1 87.00%, mean of the last 10 evaluations 87.30%, best 90.00% after epoch 9" in output
    )
    assert "100 examples/s" in output
    columns = "kept:conv.weight", "kept:fc.weight", "removed"
    rows = [",".join([lines[0], *columns]), *(f"{line},0.9876,0.8765,0.5" for line in lines[1:])]
    (tmp_path / "log.csv").write_text("\n".join(rows))
    output = " ".join(run("log", tmp_path, "--every", 6).output.split())
    assert "removed" in output and "0.9876" not in output
    assert "tensor by tensor in the file, and in report: kept" in output
    assert "--every must be 0 or more" in run("log", tmp_path, "--every=-1", ok=False).output
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.json").write_text("{}")
    assert "holds nothing" in run("log", tmp_path / "other", ok=False).output
