import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from typer.testing import CliRunner

import sparse_ops as so
from sparse_ops.cli.app import app
from sparse_ops.models import lenet300
from sparse_ops.report import count_macs
from tests.convert.models import says
from tests.sparsifier import sparsify


def run(*arguments, ok=True):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if ok:
        assert result.exit_code == 0, result.output
    else:
        assert result.exit_code in (1, 2), result.output
        assert "Traceback" not in result.output
        assert isinstance(result.exception, SystemExit)
    return result


@pytest.fixture
def checkpoint(tmp_path):
    """A pruned LeNet-300-100 as a state dict."""
    model = lenet300()
    scores = {name: w.abs() for name, w in so.masks.prunable(model).items()}
    so.masks.apply_(model, so.masks.keep_largest(scores, 8000))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture
def packed(tmp_path):
    """The same, packed."""
    model = lenet300().eval()
    model.fc1 = so.nn.CSRLinear.from_dense(model.fc1, torch.rand(300, 784) > 0.98)
    so.save(model, tmp_path / "packed.safetensors")
    return tmp_path / "packed.safetensors"


def test_info_names_torch_and_every_instruction_set():
    output = run("info").output
    for word in (torch.__version__, "avx512", "avx2", "scalar", "CPU"):
        assert word in output


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
    assert "it has no mask" in output


def test_a_checkpoint_of_a_model_under_torch_prune_is_read(tmp_path):
    model = lenet300()
    prune.random_unstructured(model.fc1, "weight", 0.9)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pt")
    out = tmp_path / "x.safetensors"
    output = run(
        "convert", tmp_path / "model.pt", "--model", "lenet300", "--out", out, "--budget", 0.2
    ).output
    assert "90.0%" in output
    x = torch.randn(2, 1, 28, 28)
    loaded = so.load(out, lenet300().eval())
    torch.testing.assert_close(loaded(x), model.eval()(x), rtol=1e-4, atol=1e-5)


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
    assert "90." in run("convert", path, *options).output
    x = torch.randn(2, 1, 28, 28)
    loaded = so.load(out, lenet300().eval())
    torch.testing.assert_close(loaded(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    torch.save(model.state_dict(), path)
    said = run("convert", path, *options, ok=False).output
    assert "save the model after squash_mask" in said


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


def test_a_network_is_trained_and_the_run_can_be_converted(tmp_path, monkeypatch):
    from sparse_ops import data

    whole = data.load("fashion-mnist-subset")
    few = data.Split(whole.train.images[:256], whole.train.labels[:256])
    monkeypatch.setattr(data, "load", lambda *_: data.Dataset("few", few, few, whole.classes))
    out = tmp_path / "run"
    options = ("--sparsity", 0.9, "--epochs", 1, "--out", out)
    run("train", "--model", "lenet300", "--method", "magnitude", *options)
    result = json.loads((out / "result.json").read_text())
    assert result["model"] == "lenet300" and abs(result["sparsity"] - 0.9) < 0.01
    assert set(so.masks.load(out / "masks.safetensors")) == set(result["masks"])
    run("convert", out / "model.pt", "--out", tmp_path / "x.safetensors", "--budget", 0.2)


RECIPE = (
    *("--recipe", "gsm-lenet300-60x", "--data", "fashion-mnist-subset", "--shorten", 0.001),
    *("--set", "gsm.options.sparsity=0.5", "--set", "base.lr=0.05", "--batch-size", 64),
)


@pytest.fixture
def few(monkeypatch):
    """The data set that comes with the package, but for most of it."""
    from sparse_ops import data

    whole = data.load("fashion-mnist-subset")
    few = data.Split(whole.train.images[:256], whole.train.labels[:256])
    monkeypatch.setattr(data, "load", lambda *_: data.Dataset("few", few, few, whole.classes))


def test_a_published_experiment_is_run_by_its_name(few, tmp_path):
    out = tmp_path / "run"
    output = run("train", *RECIPE, "--out", out).output
    assert "published: dense_top1 98.19, top1 98.18" in " ".join(output.split())
    result = json.loads((out / "result.json").read_text())
    assert result["overrides"]["gsm.options.sparsity"] == 0.5
    assert [phase["epochs"] for phase in result["phases"]] == [1, 1]
    assert result["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert {path.name for path in out.iterdir()} == {
        *("model.pt", "masks.safetensors", "result.json", "base.csv", "gsm.csv"),
    }
    run("convert", out / "model.pt", "--out", tmp_path / "x.safetensors", "--budget", 0.2)


def test_a_run_is_resumed_only_where_that_is_asked_for(few, tmp_path, monkeypatch):
    from sparse_ops import training

    out, asked = tmp_path / "run", []
    fit = training.fit

    def interrupted(*arguments, **options):
        asked.append(options["checkpoint"].is_file())

        def stop(epoch):
            if epoch.number == 2 and len(asked) == 1:
                raise RuntimeError("interrupted")

        return fit(*arguments, **options, on_epoch=stop, progress=False)

    monkeypatch.setattr(training, "fit", interrupted)
    options = ("--model", "lenet300", "--method", "gsm", "--epochs", 3, "--out", out)
    assert "interrupted" in run("train", *options, ok=False).output
    assert (out / "checkpoint.pt").is_file()
    run("train", *options, "--resume")
    assert asked == [False, True]
    assert not (out / "checkpoint.pt").exists()
    resumed = torch.load(out / "model.pt")
    run("train", *options)
    assert asked == [False, True, False]
    whole = torch.load(out / "model.pt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_torchrun_trains_in_several_processes(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "sparse_ops", "train", "--model", "lenet300"]
    command += ["--method", "gsm", "--epochs", "1", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("lenet300, gsm: accuracy") == 1
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["accuracy"] > 0.3


def test_every_method_is_trained_from_a_checkpoint_with_options_of_its_own(tmp_path, monkeypatch):
    from sparse_ops import data

    whole = data.load("fashion-mnist-subset")
    few = data.Split(whole.train.images[:128], whole.train.labels[:128])
    monkeypatch.setattr(data, "load", lambda *_: data.Dataset("few", few, few, whole.classes))
    dense = lenet300()
    torch.save(dense.state_dict(), tmp_path / "dense.pt")
    masks = {"fc1.weight": torch.rand(300, 784) > 0.9}
    so.masks.save(masks, tmp_path / "given.safetensors")
    options = {
        "magnitude": ("--sparsity", 0.9),
        "gsm": ("--sparsity", 0.9),
        "hypersparse": ("--sparsity", 0.9, "--set", "warm_up=0", "--set", "max_epochs=1"),
        "sabr": ("--set", "theta=0.5", "--set", "faithful=true"),
        "spred": ("--sparsity", 0.9, "--set", "linear=true", "--set", "mode=filter"),
        "fixed": ("--masks", tmp_path / "given.safetensors"),
    }
    assert {*options, "predefined"} == set(so.training.METHODS)
    for method, own in options.items():
        out = tmp_path / method
        common = ("--start", tmp_path / "dense.pt", "--epochs", 0, "--out", out)
        run("train", "--model", "lenet300", "--method", method, *own, *common)
        found = so.masks.load(out / "masks.safetensors")
        state = torch.load(out / "model.pt")
        for name, mask in found.items():
            assert torch.equal(state[name], dense.state_dict()[name] * mask), (method, name)
        words = json.loads((out / "result.json").read_text())["options"]
        assert words["start"] == str(tmp_path / "dense.pt")
    assert torch.equal(
        so.masks.load(tmp_path / "fixed" / "masks.safetensors")["fc1.weight"], masks["fc1.weight"]
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "sabr", "--sparsity", 0.5), "sabr takes no --sparsity"),
        (("--method", "gsm", "--set", "theta=1"), "gsm has no 'theta' to --set; it has sparsity"),
        (("--method", "sabr", "--set", "patience=x"), "patience must be a int, got 'x'"),
        (("--method", "sabr", "--set", "faithful=1"), "faithful must be true or false, got '1'"),
        (("--method", "spred", "--set", "exempt=x"), "has no 'exempt' to --set"),
        (("--method", "fixed"), "at least one mask"),
    ],
)
def test_options_that_a_method_does_not_have_are_refused(options, words, tmp_path):
    result = run("train", "--model", "lenet300", *options, "--out", tmp_path, ok=False)
    assert words in " ".join(result.output.split())


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


TRAIN = ["train", "--out", "{dir}/run", "--model"]
MISTAKES = {
    "no such command": (["fly"], "fly"),
    "no model": (["convert", "{pt}", "--out", "{out}"], "--model is needed"),
    "an unknown model": (["convert", "{pt}", "--model", "x", "--out", "{out}"], "no model"),
    "no such file": (["convert", "{dir}/no.pt", "--model", "lenet300", "--out", "{out}"], "no.pt"),
    "another model": (["convert", "{pt}", "--model", "lenet5", "--out", "{out}"], "not of this"),
    "an empty batch": (
        ["convert", "{pt}", "--model", "lenet300", "--out", "{out}", "--batch", "0"],
        "--batch",
    ),
    "a shape of words": (
        ["convert", "{pt}", "--model", "lenet300", "--out", "{out}", "--input", "a,b"],
        "--input",
    ),
    "three channels": (
        ["convert", "{pt}", "--model", "lenet300", "--out", "{out}", "--input", "3,28,28"],
        "channel",
    ),
    "no folder to write to": (
        ["convert", "{pt}", "--model", "lenet300", "--out", "{dir}/no/x"],
        "no folder",
    ),
    "masks that are none": (
        ["convert", "{pt}", "--model", "lenet300", "--out", "{out}", "--masks", "{pt}"],
        "safetensors",
    ),
    "a packed file as checkpoint": (
        ["convert", "{packed}", "--model", "lenet300", "--out", "{out}"],
        "sparse_ops.packed",
    ),
    "a checkpoint as packed file": (["bench", "{pt}", "--model", "lenet300"], "safetensors"),
    "no time": (["bench", "{packed}", "--model", "lenet300", "--seconds", "0"], "--seconds"),
    "an unknown method": (
        ["train", "--model", "lenet300", "--method", "x", "--out", "{dir}/run"],
        "no method",
    ),
    "an unknown pattern": (
        [*TRAIN, "lenet5", "--method", "predefined", "--pattern", "x"],
        "no pattern",
    ),
    "an option of another method": (
        [*TRAIN, "lenet5", "--method", "gsm", "--pattern", "PS4_P4"],
        "no --pattern",
    ),
    "a sparsity above one": (
        [*TRAIN, "lenet300", "--method", "gsm", "--sparsity", "2"],
        "sparsity",
    ),
    "an unknown data set": (
        [*TRAIN, "lenet300", "--method", "gsm", "--data", "x"],
        "no data set",
    ),
    "neither model nor recipe": (["train", "--out", "{dir}/run"], "--model and --method"),
    "an unknown recipe": (["train", "--recipe", "x", "--out", "{dir}/run"], "no recipe 'x'"),
    "a recipe and a method": (
        ["train", "--recipe", "gsm-lenet300-60x", "--method", "gsm", "--out", "{dir}/run"],
        "a recipe has its own method",
    ),
    "a recipe and a sparsity": (
        ["train", "--recipe", "gsm-lenet300-60x", "--sparsity", "0.9", "--out", "{dir}/run"],
        "--set PHASE.options.sparsity",
    ),
    "a change to no recipe": (
        [*TRAIN, "lenet300", "--method", "gsm", "--set", "gsm.epochs=1"],
        "gsm has no 'gsm.epochs' to --set",
    ),
    "fewer epochs of no recipe": (
        [*TRAIN, "lenet300", "--method", "gsm", "--shorten", "0.1"],
        "--shorten is for a --recipe",
    ),
    "a change without a value": (
        ["train", "--recipe", "gsm-lenet300-60x", "--set", "gsm.epochs", "--out", "{dir}/run"],
        "KEY=VALUE",
    ),
    "images that are not there": (
        ["train", "--recipe", "gsm-resnet56-10x", "--folder", "{dir}", "--out", "{dir}/run"],
        "data_batch_1",
    ),
    "an unknown device": (
        [*TRAIN, "lenet300", "--method", "gsm", "--device", "x"],
        "--device must be",
    ),
    "an unknown precision": (
        [*TRAIN, "lenet300", "--method", "gsm", "--amp", "x"],
        "amp must be one of",
    ),
    "a file as a folder": (["demo", "--quick", "--out", "{pt}"], "model.pt"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_an_exit_code(case, checkpoint, packed, tmp_path):
    arguments, words = MISTAKES[case]
    names = {"pt": checkpoint, "packed": packed, "dir": tmp_path, "out": tmp_path / "out"}
    output = run(*(a.format(**names) for a in arguments), ok=False).output
    assert words in " ".join(output.split())
    assert not (tmp_path / "out").exists()


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


def test_importing_the_library_leaves_the_heavy_parts_out():
    code = (
        "import sys, sparse_ops as so\n"
        "heavy = {'matplotlib', 'typer', 'sparse_ops.training', 'sparse_ops.cli'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert so.training.METHODS and so.models.MODELS and so.data.NAMES and so.report\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_demo_runs_from_end_to_end_without_a_terminal(tmp_path):
    output = run("demo", "--quick", "--out", tmp_path / "demo").output
    assert "LeNet-300-100" in output and "small VGG" in output
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert {"lenet300.safetensors", "vgg.safetensors", "results.json"} <= names
