"""`sparse-ops train`: methods and their options, held-out images, runs that go on."""

import csv
import json
import subprocess
import sys

import pytest
import torch

import sparse_ops as so
from sparse_ops.models import lenet300
from tests.cli.running import run


def test_a_network_is_trained_and_the_run_can_be_converted(few, tmp_path):
    out = tmp_path / "run"
    options = ("--sparsity", 0.9, "--epochs", 1, "--out", out)
    run("train", "--model", "lenet300", "--method", "magnitude", *options)
    result = json.loads((out / "result.json").read_text())
    assert result["model"] == "lenet300" and abs(result["sparsity"] - 0.9) < 0.01
    assert set(so.masks.load(out / "masks.safetensors")) == set(result["masks"])
    run("convert", out / "model.pt", "--out", tmp_path / "x.safetensors", "--budget", 0.2)


def test_a_run_is_resumed_only_where_that_is_asked_for(few, tmp_path, monkeypatch):
    from sparse_ops.training.recipes import runs

    out, asked = tmp_path / "run", []
    fit = runs.fit

    def interrupted(*arguments, **options):
        asked.append((options["title"], options["checkpoint"].is_file()))

        def stop(epoch):
            if options["title"] == "gsm" and epoch.number == 2 and len(asked) == 2:
                raise RuntimeError("interrupted")

        return fit(*arguments, **(options | {"on_epoch": stop}))

    monkeypatch.setattr(runs, "fit", interrupted)
    options = ("--model", "lenet300", "--method", "gsm", "--epochs", 6, "--out", out)
    assert "interrupted" in run("train", *options, ok=False).output
    assert (out / "gsm.checkpoint.pt").is_file() and not (out / "result.json").exists()
    run("train", *options, "--resume")
    assert asked == [("base", False), ("gsm", False), ("base", True), ("gsm", True)]
    assert not (out / "gsm.checkpoint.pt").exists()
    resumed = torch.load(out / "model.pt")
    run("train", *options, "--force")
    assert asked[4:] == [("base", False), ("gsm", False)]
    whole = torch.load(out / "model.pt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_finished_run_is_not_written_over(few, tmp_path):
    options = ("--model", "lenet300", "--method", "magnitude", "--epochs", 0, "--out", tmp_path)
    run("train", *options)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for more in ((), ("--resume",)):
        output = run("train", *options, "--seed", 1, *more, ok=False).output
        assert "holds a finished run: --force" in " ".join(output.split())
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run("train", *options, "--seed", 1, "--force")
    assert before["model.pt"] != (tmp_path / "model.pt").read_bytes()


@pytest.mark.slow
def test_torchrun_trains_in_several_processes(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "sparse_ops", "train", "--model", "lenet300"]
    command += ["--method", "gsm", "--epochs", "1", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("lenet300, gsm: accuracy") == 1
    assert "deprecated" not in done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["accuracy"] > 0.3


def test_every_method_is_trained_from_a_checkpoint_with_options_of_its_own(few, tmp_path):
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


def test_held_out_images_are_watched_and_not_learned_from(few, tmp_path):
    out = tmp_path / "run"
    options = ("--model", "lenet300", "--method", "sabr", "--epochs", 7, "--validation", 0.25)
    run("train", *options, "--out", out)
    result = json.loads((out / "result.json").read_text())
    watched = len(so.data.hold_out(few.train, 0.25)[1])
    assert (result["validation"], result["held_out"]) == (0.25, watched)
    assert result["learned"] == len(few.train) - watched
    with (out / "sabr.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        right = float(row["top1"]) * watched
        assert right == pytest.approx(round(right), abs=1e-6)
        assert 0 <= float(row["sparsity"]) <= 1
    message = run("train", *options[:-1], 1.5, "--out", tmp_path / "no", ok=False).output
    assert "fraction must be in (0, 1), got 1.5" in " ".join(message.split())


def test_options_that_are_none_by_default_can_be_set_by_name():
    from sparse_ops.cli.errors import UserError
    from sparse_ops.cli.methods import method_options

    made = {
        "magnitude": (["begin=1", "end=4"], {"begin": 1, "end": 4}),
        "spred": (["threshold=0.5", "mode=filter"], {"threshold": 0.5, "mode": "filter"}),
        "sabr": (["epsilon=1e-5", "faithful=true"], {"epsilon": 1e-5, "faithful": True}),
    }
    for name, (given, expected) in made.items():
        assert method_options(name, None, None, None, given) == expected
    with pytest.raises(UserError, match="begin must be a int, got 'x'"):
        method_options("magnitude", None, None, None, ["begin=x"])
    with pytest.raises(UserError, match="spred has no 'exempt' to --set"):
        method_options("spred", None, None, None, ["exempt=fc"])


@pytest.mark.parametrize(
    ("options", "base", "last"),
    [
        (("--lr", 3e-4), 1e-3, 3e-4),
        (("--set", "magnitude.lr=3e-4"), 1e-3, 3e-4),
        (("--set", "base.lr=2e-4", "--lr", 3e-4), 2e-4, 3e-4),
        ((), 1e-3, 1e-3),
    ],
)
def test_the_rate_that_was_given_wins_over_that_of_an_optimizer(options, base, last, few, tmp_path):
    """Of a method; `--optimizer` before and after it."""
    task = ("--model", "lenet300", "--method", "magnitude", "--epochs", 2, "--schedule", "none")
    adam = ("--optimizer", "adam")
    for number, order in enumerate(((*options, *adam), (*adam, *options))):
        out = tmp_path / str(number)
        run("train", *task, *order, "--out", out)
        phases = json.loads((out / "result.json").read_text())["phases"]
        assert [phase["history"][-1]["lr"] for phase in phases] == [base, last]


def test_the_rate_that_was_given_wins_in_a_recipe(few, tmp_path):
    recipe = ("--recipe", "magnitude-lenet300-60x", "--data", few.name, "--shorten", 0.01)
    options = ("--optimizer", "adagrad", "--schedule", "none", "--set", "base.lr=3e-3")
    run("train", *recipe, *options, "--out", tmp_path / "run")
    base = json.loads((tmp_path / "run" / "result.json").read_text())["phases"][0]
    assert base["history"][-1]["lr"] == 3e-3
    refused = run(
        "train", *recipe, *options, "--set", "base.momentum=0.5", "--out", tmp_path / "no", ok=False
    )
    assert "base: adagrad takes lr, weight_decay, not momentum" in " ".join(refused.output.split())
