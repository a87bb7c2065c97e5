"""`sparse-ops train --recipe` and `recipes`: published experiments."""

import csv
import json

import pytest

from tests.cli.running import run

RECIPE = (
    *("--recipe", "gsm-lenet300-60x", "--data", "fashion-mnist-subset", "--shorten", 0.001),
    *("--set", "gsm.options.sparsity=0.5", "--set", "base.lr=0.05", "--batch-size", 64),
)


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
    assert cut["last_ten_validation"] is None
    validation = [row["top1"] for row in ticket["history"]]
    assert ticket["last_ten_validation"] == pytest.approx(sum(validation) / len(validation))
    with (tmp_path / "run" / "ticket.csv").open(newline="") as file:
        assert all(row["top1"] for row in csv.DictReader(file))


def test_published_experiments_are_listed_with_their_figures():
    output = run("recipes", "lottery-gsm").output
    assert output.count("published: dense_top1") == 3
    assert "lottery-gsm-lenet5-300x" in output and "top1 98.88" in output
    assert "magnitude-lenet" not in output
    refused = run("recipes", "zzz", ok=False).output
    assert "no recipe has 'zzz' in its name" in " ".join(refused.split())
