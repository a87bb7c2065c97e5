"""What `train` tells while it trains, and of what it has done."""

import csv
import json
import logging

import pytest

from tests.cli.running import run

SABR = ("--model", "lenet300", "--method", "sabr", "--epochs", 7, "--validation", 0.25)


def test_each_epoch_is_told_of_without_a_terminal(few, tmp_path):
    result = run("train", *SABR, "--out", tmp_path / "run")
    lines = result.stderr.splitlines()
    epochs = [line for line in lines if line.startswith(("base ", "sabr "))]
    assert [line.split(",")[0] for line in epochs] == [
        *("base 1/2", "base 2/2"),
        *(f"sabr {number}/5" for number in range(1, 6)),
    ]
    assert all("right on held-out data" in line and "loss " in line for line in epochs)
    assert "left" in epochs[0] and "frozen 0, least_strength " in epochs[2]
    # The log of the method, and what it will do, are there as well; results are on the other one.
    assert "sabr: sabr, 5 epochs" in lines
    assert any("weights kept, cut at" in line for line in lines)
    assert "sabr 1/5" not in result.stdout and "wrote" in result.stdout
    # Nothing of this stays with the package's logger.
    assert logging.getLogger("sparse_ops").handlers == []


def test_the_penalties_of_sabr_are_in_the_log_and_in_the_result(few, tmp_path):
    result = run("train", *SABR, "--out", tmp_path)
    phase = json.loads((tmp_path / "result.json").read_text())["phases"][1]
    with (tmp_path / "sabr.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(phase["history"]) == phase["epochs"] <= phase["planned"] == 5
    for row, told in zip(rows, phase["history"], strict=True):
        for name in ("fc1", "fc2", "fc3"):
            key = f"strength:{name}.weight"
            assert float(row[key]) == told["figures"][key] > 0
            assert 0 < float(row[f"kept:{name}.weight"]) <= 1
        assert int(row["frozen"]) == told["figures"]["frozen"]
    cuts = phase["findings"]["thresholds"]
    assert set(cuts) == {f"fc{n}.weight" for n in (1, 2, 3)}
    # The last epoch tells what the cut is; those before, what it would have been.
    assert cuts == {name: float(rows[-1][f"threshold:{name}"]) for name in cuts}
    # On the error stream they would be a screen an epoch.
    assert ":fc1.weight" not in result.stderr
    assert phase["uncut_top1"] is not None


def test_the_strength_of_art_and_how_it_ended_are_in_the_result(few, tmp_path):
    options = ("--model", "lenet300", "--method", "hypersparse", "--sparsity", 0.9)
    # An accuracy of the cut copy that is above that of the training ends it; here there is none.
    limit = ("--set", "max_epochs=2", "--set", "warm_up=1", "--set", "fine_tune=1")
    limit += ("--set", "strength=1e-9", "--epochs", 3)
    result = run("train", *options, *limit, "--out", tmp_path)
    assert "hypersparse: hypersparse, 4 epochs\n4 epochs in all, not 3: " in result.stderr
    phase = json.loads((tmp_path / "result.json").read_text())["phases"][0]
    told = [row["figures"] for row in phase["history"]]
    assert [figures["phase"] for figures in told][:2] == ["warm-up", "ART"]
    assert told[1]["strength"] == 1e-9 and 0 <= told[1]["best_cut"] <= 1
    found = phase["findings"]
    assert found["art_epochs"] == sum(figures["phase"] == "ART" for figures in told)
    if not found["art_ended_by_itself"]:
        assert "ART has not ended by itself in 2 epochs" in result.stderr


def test_a_run_says_what_it_was_and_what_it_is_unlike(few, tmp_path):
    changes = ("--model", "small_vgg", "--set", "model.width=4", "--data", few.name)
    recipe = ("--recipe", "predefined-vgg16-psd2-p8", "--shorten", 0.01)
    output = run("train", *recipe, *changes, "--out", tmp_path).stdout
    lines = output.splitlines()
    assert lines[0].startswith("predefined-vgg16-psd2-p8: VGG16 on CIFAR-10")
    assert lines[1] == (
        "here: small_vgg, fashion-mnist-subset, 128 images learned from, 32 tested on, 1 epochs"
    )
    assert lines[2] == (
        "not as published: small_vgg (width 4) for vgg16; fashion-mnist-subset for cifar10; "
        "1 epochs for 120"
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["model"], result["data"], result["epochs"]) == ("small_vgg", few.name, 1)
    assert result["model_options"] == {"width": 4, "in_channels": 1, "num_classes": 10}
    assert result["input"] == [1, 28, 28] and (result["learned"], result["tested"]) == (128, 32)


def test_epochs_are_those_that_there_were(few, tmp_path, monkeypatch):
    from sparse_ops.training import SABR as Method

    monkeypatch.setattr(Method, "end_epoch", lambda self, model, optimizer, epoch: False)
    output = run("train", *SABR, "--out", tmp_path).stdout
    result = json.loads((tmp_path / "result.json").read_text())
    assert [(p["epochs"], p["planned"]) for p in result["phases"]] == [(2, 2), (1, 5)]
    assert result["epochs"] == 3
    assert "sabr: 1 epochs of at most 5" in output and "tested on, 3 epochs" in output


def test_what_the_cut_cost_is_told_where_something_is_cut_at_the_end(few, tmp_path):
    common = ("--model", "lenet300", "--epochs", 2, "--sparsity", 0.9, "--out")
    output = run("train", "--method", "gsm", *common, tmp_path / "gsm").stdout
    assert "before the cut" in output
    # Cut before the last epochs, it is as it was before the end.
    output = run("train", "--method", "magnitude", *common, tmp_path / "magnitude").stdout
    assert "before the cut" not in output
    phases = json.loads((tmp_path / "magnitude" / "result.json").read_text())["phases"]
    assert [phase["uncut_top1"] for phase in phases] == [None, None]


def test_shortening_tells_what_it_has_made_stronger(few, tmp_path):
    recipe = ("--recipe", "gsm-lenet300-60x", "--data", few.name, "--shorten", 0.01)
    result = run("train", *recipe, "--set", "gsm.options.sparsity=0.5", "--out", tmp_path)
    assert "fewer steps than published, so: gsm.lr 0.01 → 0.1, gsm.momentum 0.99" in result.stderr
    assert "the cut will cost accuracy" in result.stderr
    changed = json.loads((tmp_path / "result.json").read_text())["changed"]
    assert changed["gsm.epochs"] == [280, 3] and changed["gsm.weight_decay"][0] == 5e-4


@pytest.mark.parametrize("method", ["gsm", "magnitude"])
def test_other_optimizers_and_schedules_are_for_methods_and_recipes(few, tmp_path, method):
    schedule = ("--schedule", "cosine", "--out", tmp_path / "run")
    if method == "gsm":
        run("train", "--recipe", "gsm-lenet300-60x", "--shorten", 0.004, *schedule)
    else:
        common = ("--model", "lenet300", "--method", method, "--epochs", 2, "--optimizer", "adam")
        run("train", *common, *schedule)
    assert (tmp_path / "run" / "result.json").is_file()


def test_a_recipe_may_begin_with_trained_weights(few, tmp_path):
    common = ("--recipe", "gsm-lenet300-60x", "--data", few.name, "--shorten", 0.004)
    run("train", *common, "--out", tmp_path / "one")
    start = ("--start", tmp_path / "one" / "model.pt")
    output = run("train", *common, *start, "--out", tmp_path / "two").stdout
    assert "begun with model.pt" in output
    phases = json.loads((tmp_path / "two" / "result.json").read_text())["phases"]
    assert [phase["name"] for phase in phases] == ["gsm"]


def test_between_evaluations_result_log_and_report_have_gaps(few, tmp_path):
    options = ("--model", "lenet300", "--method", "magnitude", "--epochs", 10, "--validation", 0.25)
    result = run("train", *options, "--evaluate-every", 2, "--out", tmp_path / "run")
    told = [line for line in result.stderr.splitlines() if line.startswith("base ")]
    assert ["held-out" in line for line in told] == [False, True, False, True, True]
    base = json.loads((tmp_path / "run" / "result.json").read_text())["phases"][0]
    top1 = [row["top1"] for row in base["history"]]
    assert [value is None for value in top1] == [True, False, True, False, False]
    assert base["last_ten_count"] == 3
    assert base["last_ten_validation"] == pytest.approx(sum(v for v in top1 if v is not None) / 3)
    output = " ".join(run("log", tmp_path / "run", "--every", 1).output.split())
    assert "mean of the last 3 evaluations" in output and "after epoch" in output
    run("report", tmp_path / "run", "--html", tmp_path / "page.html")
    assert "validation_loss" in (tmp_path / "page.html").read_text()
    refused = run("train", *SABR, "--evaluate-every", 2, "--out", tmp_path / "no", ok=False)
    assert "base: evaluate_every must be 1 with Plateau" in " ".join(refused.output.split())
    nothing = run("train", *options[:-2], "--evaluate-every", 2, "--out", tmp_path / "no", ok=False)
    assert "evaluate_every needs data.validation" in " ".join(nothing.output.split())
