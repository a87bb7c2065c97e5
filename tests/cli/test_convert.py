"""`sparse-ops convert`, and `bench` of what comes of it."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import sparse_ops as so
from sparse_ops.models import lenet300
from sparse_ops.report import count_macs
from sparse_ops.training import cut_, hdf5
from tests.cli.running import run
from tests.convert.models import says
from tests.convert.small_networks import Upward
from tests.program.converted import PLANAR, in_order
from tests.sparsifier import sparsify


def test_a_checkpoint_is_converted_to_a_file_that_loads(checkpoint, tmp_path):
    out, plan = tmp_path / "packed.safetensors", tmp_path / "plan.json"
    options = ("--out", out, "--budget", 0.2, "--plan-json", plan)
    run("convert", checkpoint, "--model", "lenet300", *options)
    dense = lenet300().eval()
    dense.load_state_dict(torch.load(checkpoint))
    x = torch.randn(4, 1, 28, 28)
    loaded = so.load(out, lenet300().eval())
    torch.testing.assert_close(loaded(x), dense(x), rtol=1e-4, atol=1e-5)
    assert len(json.loads(plan.read_text())["layers"]) == 3


def test_a_safetensors_checkpoint_and_a_masks_file_are_read(tmp_path):
    from safetensors.torch import save_file

    save_file(lenet300().state_dict(), tmp_path / "model.safetensors")
    so.masks.save({"fc2.weight": torch.rand(100, 300) > 0.9}, tmp_path / "masks.safetensors")
    out = tmp_path / "x.safetensors"
    options = ("--out", out, "--budget", 0.2, "--masks", tmp_path / "masks.safetensors")
    output = run("convert", tmp_path / "model.safetensors", "--model", "lenet300", *options).output
    assert "no mask was given for it (fc1, fc3)" in output


def test_a_checkpoint_of_a_model_under_torch_prune_is_read(tmp_path):
    model = lenet300()
    prune.random_unstructured(model.fc1, "weight", 0.9)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pt")
    out = tmp_path / "x.safetensors"
    output = run(
        "convert", tmp_path / "model.pt", "--model", "lenet300", "--out", out, "--budget", 0.2
    ).output
    assert "10.0%" in output and "no mask was given for it (fc2, fc3)" in output
    x = torch.randn(2, 1, 28, 28)
    loaded = so.load(out, lenet300().eval())
    torch.testing.assert_close(loaded(x), model.eval()(x), rtol=1e-4, atol=1e-5)


def test_zeros_of_transposed_convolutions_are_read_beside_masks(tmp_path):
    model = Upward()
    prune.random_unstructured(model.last, "weight", 0.5)
    with torch.no_grad():
        model.up.weight.mul_(torch.rand_like(model.up.weight) > 0.9)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    out, plan = tmp_path / "x.safetensors", tmp_path / "plan.json"
    options = ("--model", "tests.convert.small_networks:Upward", "--input", "3,12,12")
    options += ("--out", out, "--budget", 0.2, "--plan-json", plan)
    run("convert", tmp_path / "model.pt", *options)
    nnz = {layer["name"]: layer["nnz"] for layer in json.loads(plan.read_text())["layers"]}
    assert nnz["up"] == int(model.up.weight.count_nonzero())
    assert nnz["last"] == int(model.last.weight_mask.sum())


@pytest.mark.parametrize("masks_in", ["state", "sparsifier"])
def test_a_checkpoint_of_a_model_under_torch_ao_pruning_is_read(tmp_path, masks_in):
    model = lenet300()
    tool = sparsify(model, ("fc1.weight", "fc2.weight"), 0.9)
    saved = {"epoch": 3, "model": model.state_dict()}
    if masks_in == "state":
        saved["model"] |= dict(model.named_buffers())
    else:
        saved["sparsifier"] = {**tool.state_dict(), "state": dict(tool.state)}
    path, out = tmp_path / "model.pt", tmp_path / "x.safetensors"
    torch.save(saved, path)
    options = ("--model", "lenet300", "--out", out, "--budget", 0.2)
    assert "10.0%" in run("convert", path, *options).output
    x = torch.randn(2, 1, 28, 28)
    loaded = so.load(out, lenet300().eval())
    torch.testing.assert_close(loaded(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    torch.save(model.state_dict(), path)
    said = run("convert", path, *options, ok=False).output
    assert "save the model after squash_mask" in said


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


def test_a_model_of_ones_own_is_named_by_package_and_function(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Linear(6, 4)\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    dense = nn.Linear(6, 4)
    torch.save(dense.state_dict(), "model.pt")
    options = ("--out", "x.safetensors", "--input", "6", "--budget", 0.2)
    run("convert", "model.pt", "--model", "mine:build", *options)
    for spec in ("mine:wrong", "mine:missing", "missing:build"):
        assert spec in run("convert", "model.pt", "--model", spec, *options, ok=False).output


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("it was run",)

    torch.save({"weight": Evil()}, tmp_path / "evil.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    for name in ("evil.pt", "module.pt"):
        options = ("--model", "lenet300", "--out", tmp_path / "x")
        output = run("convert", tmp_path / name, *options, ok=False).output
        assert "tensors only" in output and "it was run\n" not in output


def test_a_checkpoint_that_ends_too_soon_is_named(checkpoint, tmp_path):
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    options = ("--model", "lenet300", "--out", tmp_path / "x")
    output = run("convert", checkpoint, *options, ok=False).output
    assert "model.pt cannot be read as tensors only" in " ".join(output.split())


def test_a_packed_file_is_measured(packed, tmp_path):
    out = tmp_path / "bench.json"
    options = ("--seconds", 0.05, "--no-compile", "--batch", 2, "--out", out)
    output = run("bench", packed, "--model", "lenet300", *options).output
    assert "dense against packed" in output
    assert "dense is the same model with its packed layers unpacked" in output
    (row,) = json.loads(out.read_text())["rows"]
    assert row["batch"] == 2 and row["packed_layers"] == 1


def test_a_packed_file_without_channels_is_measured_against_the_model_with_them(tmp_path):
    model = lenet300().eval()
    with torch.no_grad():
        model.fc1.weight[::2] = 0
        model.fc2.weight.mul_(torch.rand_like(model.fc2.weight) > 0.9)
    example = torch.randn(2, 1, 28, 28)
    fast = so.plan(model, example, measure=says(2.0), progress=False).apply(model)
    so.save(fast, tmp_path / "x.safetensors")
    out = tmp_path / "bench.json"
    options = ("--seconds", 0.05, "--no-compile", "--batch", 2, "--out", out)
    output = run("bench", tmp_path / "x.safetensors", "--model", "lenet300", *options).output
    assert "dense is the model as it was before channels were removed" in output
    (row,) = json.loads(out.read_text())["rows"]
    kept = sum(layer.kept for layer in count_macs(fast, example[:1]))
    assert row["ideal"] == pytest.approx((784 * 300 + 300 * 100 + 100 * 10) / kept)


def test_a_packed_file_that_is_one_program_is_measured_without_its_model(tmp_path):
    model, example = lenet300().eval(), torch.randn(2, 1, 28, 28)
    model.fc1 = so.nn.CSRLinear.from_dense(model.fc1, torch.rand(300, 784) > 0.98)
    so.save(in_order(model, PLANAR, example), tmp_path / "x.safetensors")
    out = tmp_path / "bench.json"
    options = ("--seconds", 0.05, "--no-compile", "--batch", 2, "--out", out)
    output = run("bench", tmp_path / "x.safetensors", *options).output
    assert "dense is what the file has" in output
    (row,) = json.loads(out.read_text())["rows"]
    kept = model.fc1.nnz + 300 * 100 + 100 * 10
    assert row["packed_layers"] == 1
    assert row["ideal"] == pytest.approx((784 * 300 + 300 * 100 + 100 * 10) / kept)


def test_a_packed_file_that_is_no_program_is_measured_with_its_model_only(packed):
    output = run("bench", packed, ok=False).output
    assert "model= is needed" in " ".join(output.split())
