"""Which network a command is about: as a run or a file says, or the command line."""

import json

import pytest
import torch
from safetensors import safe_open

import sparse_ops as so
from sparse_ops.cli.file_note import note, noted
from sparse_ops.models import lenet5, resnet32, small_vgg
from sparse_ops.training import cut_, hdf5
from tests.cli.running import run
from tests.models.test_names import hypersparse_resnet


def told(out) -> dict:
    return noted(out)


def test_convert_and_bench_take_the_network_from_the_run_and_the_file(few, tmp_path):
    options = ("--method", "magnitude", "--sparsity", 0.9, "--epochs", 0, "--out", tmp_path / "run")
    run("train", "--model", "small_vgg", "--set", "model.width=4", *options)
    out = tmp_path / "packed.safetensors"
    run("convert", tmp_path / "run" / "model.pt", "--out", out, "--budget", 0.2)
    assert told(out) == {
        "model": "small_vgg",
        "model_options": {"width": 4, "in_channels": 1, "num_classes": 10},
        "input": [1, 28, 28],
    }
    rows = tmp_path / "rows.json"
    short = ("--seconds", 0.05, "--no-compile", "--batch", 2, "--out", rows)
    assert "dense against packed" in run("bench", out, *short).output
    # The file is one that the library reads, with all that it had to say before.
    so.load(out, small_vgg(width=4).eval())
    other = run("bench", out, "--model", "lenet300", *short, ok=False).output
    assert "error:" in other


def test_a_note_changes_nothing_else_in_a_file(packed):
    with safe_open(packed, "pt") as file:
        before = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    network = {"model": "lenet300", "model_options": {}, "input": [1, 28, 28]}
    for _ in range(2):
        note(packed, network)
    with safe_open(packed, "pt") as file:
        assert file.metadata() == before[0] | {"network": json.dumps(network)}
        assert all(torch.equal(file.get_tensor(key), value) for key, value in before[1].items())
    assert noted(packed) == network


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 40, b"\x02" + b"\0" * 7 + b"[]"])
def test_a_file_that_is_none_has_no_note(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    assert noted(tmp_path / "x") == {} == noted(tmp_path / "missing")
    with pytest.raises(ValueError):
        note(tmp_path / "x", {})


def test_bench_of_a_file_that_does_not_tell_asks_for_the_model(packed):
    output = run("bench", packed, ok=False).output
    assert "--model is needed" in output and "does not say of what model" in " ".join(
        output.split()
    )


def test_bench_runs_no_code_that_only_a_file_names(packed):
    note(packed, {"model": "os:getcwd", "model_options": {}, "input": [1, 28, 28]})
    output = " ".join(run("bench", packed, ok=False).output.split())
    assert "is of os:getcwd: --model os:getcwd runs that" in output


def test_options_of_our_models_can_be_said(tmp_path):
    model = small_vgg(14, 3, width=4)
    cut_(model, 0.9)
    torch.save({"net": model.state_dict(), "acc": 99.0}, tmp_path / "ckpt.pth")
    out = tmp_path / "x.safetensors"
    shape = ("--input", "3,16,16", "--out", out, "--budget", 0.1)
    named = (tmp_path / "ckpt.pth", "--model", "small_vgg")
    run("convert", *named, "--set", "width=4", "--classes", 14, *shape)
    assert told(out)["model_options"] == {"width": 4, "num_classes": 14}
    assert told(out)["input"] == [3, 16, 16]
    refused = run("convert", *named, "--set", "x=1", *shape, ok=False).output
    assert "small_vgg has no option x; it has num_classes" in " ".join(refused.split())


def test_a_checkpoint_of_authors_is_converted_and_it_is_said_how(tmp_path):
    model = resnet32().eval()
    cut_(model, 0.9)
    state = {hypersparse_resnet(name): value for name, value in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "finetune.pth")
    out = tmp_path / "x.safetensors"
    options = ("--model", "resnet32", "--input", "3,32,32", "--out", out, "--budget", 0.1)
    output = " ".join(run("convert", tmp_path / "finetune.pth", *options).output.split())
    assert "finetune.pth: layers matched by order and shape: conv1 → conv1.conv" in output
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        actual, expected = so.load(out, resnet32().eval())(x), model(x)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_the_hdf5_files_of_gsm_are_written_by_their_names(few, tmp_path):
    pytest.importorskip("h5py")
    options = ("--recipe", "gsm-lenet5-300x", "--data", few.name, "--shorten", 0.01, "--hdf5")
    run("train", *options, "--batch-size", 16, "--out", tmp_path)
    files = {n: hdf5.load(tmp_path / f"{n}.hdf5") for n in ("init", "finish", "finish_pruned")}
    assert set(files["init"]) == {
        f"{layer}.{part}"
        for layer in ("stem.conv1", "stem.conv2", "linear1", "linear2")
        for part in ("weight", "bias")
    }
    model, masks = lenet5(), so.masks.load(tmp_path / "masks.safetensors")
    model.load_state_dict(torch.load(tmp_path / "model.pt"))
    for name, theirs in (("fc1", "linear1"), ("conv2", "stem.conv2")):
        weight = model.state_dict()[f"{name}.weight"]
        first, last, cut = (files[n][f"{theirs}.weight"] for n in files)
        assert torch.equal(cut, weight) and torch.equal(last * masks[f"{name}.weight"], weight)
        assert bool((last != first).any()) and int((last == 0).sum()) < int((cut == 0).sum())
    # They come back by their names.
    again = ("--model", "lenet5", "--method", "fixed", "--masks", tmp_path / "masks.safetensors")
    start = ("--start", tmp_path / "finish_pruned.hdf5", "--epochs", 0, "--out", tmp_path / "two")
    output = run("train", *again, *start).output
    assert "layers matched by GSM's names" in " ".join(output.split())
    state = torch.load(tmp_path / "two" / "model.pt")
    assert torch.equal(state["fc1.weight"], model.fc1.weight.detach())
