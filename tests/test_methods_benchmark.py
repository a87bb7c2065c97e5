"""The program that runs the published recipes, on a small part of the images that come with us."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import methods, methods_table
from benchmarks.experiments import EXPERIMENTS, Experiment
from sparse_ops.data import Dataset, load
from sparse_ops.training import GSM

SUBSET = {"data.name": "fashion-mnist-subset", "data.validation": 0.2, "data.batch_size": 50}
LENET = {"name": "lenet300"}
TINY = [
    Experiment("tiny-gsm", "GSM", "gsm-lenet300-60x", LENET, SUBSET, 0.01),
    Experiment("tiny-ticket", "ticket", "lottery-gsm-lenet300-60x", LENET, SUBSET, 0.01),
    Experiment(
        "tiny-magnitude", "cut", "magnitude-lenet300-60x", LENET, SUBSET, 0.01, "", "tiny-gsm"
    ),
]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Runs the program on three small experiments; what it wrote."""
    monkeypatch.setattr(methods, "EXPERIMENTS", {e.name: e for e in TINY})
    whole = load("fashion-mnist-subset")
    parts = [replace(s, images=s.images[:n], labels=s.labels[:n]) for s, n in splits(whole)]
    monkeypatch.setattr(methods, "load", lambda name, folder: Dataset(name, *parts, whole.classes))

    def run(*more: str) -> dict:
        out = tmp_path / "methods.json"
        methods.main(["--out", str(out), "--work", str(tmp_path / "work"), *more])
        return json.loads(out.read_text())

    return run


def splits(data):
    return (data.train, 400), (data.test, 100)


def test_every_experiment_is_a_recipe_that_can_be_made():
    for name, experiment in EXPERIMENTS.items():
        recipe = experiment.recipe()
        assert experiment.name == name and recipe.phases
        assert recipe.data["name"] in methods.FOLDERS and recipe.data["validation"] > 0
        assert not experiment.published or experiment.published in recipe.published
        dense = EXPERIMENTS[experiment.dense or name].recipe()
        assert experiment.dense == "" or dense.model == recipe.model
        # What comes back from the JSON file is compared with it.
        assert json.loads(json.dumps(experiment.changes)) == experiment.changes


def test_runs_are_written_with_all_that_a_figure_depends_on(tiny):
    found = tiny("--seeds", "0,1", "--only", "tiny-gsm", "tiny-mag")
    assert [(r["experiment"], r["seed"]) for r in found["runs"]] == [
        ("tiny-gsm", 0),
        ("tiny-magnitude", 0),
        ("tiny-gsm", 1),
        ("tiny-magnitude", 1),
    ]
    for run in found["runs"]:
        # GSM keeps a weight more than it lets learn: N - int(N · (1 - 1/60)).
        assert (run["weights"], run["kept"]) == (266_200, 4_437)
        assert (run["train"], run["test"], run["held_out"]) == (400, 100, 0.2)
        assert (run["phases"][0]["name"], run["phases"][0]["epochs"]) == ("base", 2)
        assert run["epochs"] == sum(phase["epochs"] for phase in run["phases"])
        assert 0 <= run["top1"] <= 1 and run["torch"] and run["cpu"]
        # Which folders it was is nobody's business.
        assert run["command"] == (
            "python -m benchmarks.methods --seeds 0,1 --only tiny-gsm tiny-mag"
        )
    gsm, magnitude = found["runs"][:2]
    # GSM's network is dense up to its cut; magnitude's is at once as sparse as at the end.
    assert gsm["top1_best"] is None and magnitude["top1_best"] is not None


def test_runs_that_begin_alike_share_what_they_begin_with(tiny, tmp_path):
    found = tiny("--seeds", "0")["runs"]
    base, again = (r["phases"][0] for r in found[:2])
    assert base == again
    for phase in ("base", "gsm"):
        first, second = (
            tmp_path / "work" / f"{n}-0" / f"{phase}.csv" for n in ("tiny-gsm", "tiny-ticket")
        )
        # The seconds of each epoch too: it was not learned again.
        assert first.read_text() == second.read_text()
    assert [r["kept"] for r in found] == [4_437] * 3


def test_what_is_finished_is_not_done_again(tiny, monkeypatch):
    before = tiny("--seeds", "0", "--only", "tiny-gsm")

    def never(*_):
        raise AssertionError("was run again")

    with monkeypatch.context() as patched:
        patched.setattr(methods, "carry_out", never)
        assert tiny("--seeds", "0", "--only", "tiny-gsm") == before
        with pytest.raises(AssertionError):
            tiny("--seeds", "1", "--only", "tiny-gsm")


def test_an_interrupted_run_goes_on_and_comes_to_the_same(tiny, tmp_path, monkeypatch):
    class Interrupted(Exception):
        pass

    end_epoch = GSM.end_epoch

    def interrupt(self, model, optimizer, epoch):
        if epoch.number == 2:
            raise Interrupted
        return end_epoch(self, model, optimizer, epoch)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(GSM, "end_epoch", interrupt)
        tiny("--seeds", "3", "--only", "tiny-ticket")
    (resumed,) = tiny("--seeds", "3", "--only", "tiny-ticket")["runs"]
    (tmp_path / "methods.json").unlink()
    (whole,) = tiny("--seeds", "3", "--only", "tiny-ticket", "--work", str(tmp_path / "b"))["runs"]
    for key in ("top1", "top1_best", "kept", "epochs"):
        assert resumed[key] == whole[key], key


def test_the_best_epoch_is_that_of_the_validation_images(tiny, tmp_path):
    (run,) = tiny("--seeds", "0", "--only", "tiny-ticket")["runs"]
    best = torch.load(tmp_path / "work" / "tiny-ticket-0" / "best.pt")
    rows = (tmp_path / "work" / "tiny-ticket-0" / "ticket.csv").read_text().splitlines()
    column = rows[0].split(",").index("top1")
    assert best["phase"] == "ticket"
    # The first epoch may have begun less sparse, for all that can be seen from outside.
    assert best["top1"] == max(float(row.split(",")[column]) for row in rows[2:])
    assert run["top1_best"] is not None


def test_an_epoch_that_ends_with_a_cut_is_not_the_best(tiny, tmp_path, monkeypatch):
    cut = {"retrain.epochs": 400, "retrain.options.begin": 0, "retrain.options.end": 300}
    gradual = Experiment("by-and-by", "", TINY[2].source, LENET, SUBSET | cut, 0.01, "")
    monkeypatch.setattr(methods, "EXPERIMENTS", {gradual.name: gradual})
    (run,) = tiny("--seeds", "0")["runs"]
    # Cut after each of three epochs, and evaluated before: only the fourth is of what is left.
    assert (run["kept"], run["top1_best"]) == (4_437, run["top1"])


def test_an_experiment_that_has_changed_since_is_refused(tiny, monkeypatch):
    tiny("--seeds", "0", "--only", "tiny-gsm")
    other = replace(TINY[0], changes=SUBSET | {"data.batch_size": 25})
    monkeypatch.setattr(methods, "EXPERIMENTS", {"tiny-gsm": other})
    with pytest.raises(ValueError, match="tiny-gsm has changed since"):
        tiny("--seeds", "1", "--only", "tiny-gsm")


def test_the_committed_runs_are_of_the_experiments_as_they_are():
    done = methods.finished(methods.RESULTS)
    assert len(done) > 50
    for run in json.loads(methods.RESULTS.read_text())["runs"]:
        assert run["network"] == EXPERIMENTS[run["experiment"]].network
        assert 0 < run["kept"] <= run["weights"] and run["commit"]


def test_names_that_are_nothing_are_refused(tiny, capsys):
    with pytest.raises(SystemExit):
        tiny("--only", "x")
    assert "there are tiny-gsm, tiny-ticket" in capsys.readouterr().err


def run_of(name: str, seed: int, top1: float, dense: float, **more) -> dict:
    return {
        "experiment": name,
        "seed": seed,
        "network": {"name": "small_vgg", "width": 16},
        "data": "fashion-mnist",
        "train": 60_000,
        "held_out": 1 / 12,
        "test": 10_000,
        "phases": [{"method": "dense", "top1": dense}],
        "weights": 1000,
        "kept": 100,
        "top1": top1,
        "top1_best": top1 - 0.1,
        **more,
    }


def test_the_table_has_ours_beside_the_published_figure():
    runs = [
        run_of("predefined-dense", 0, 0.91, 0.91, kept=1000),
        run_of("predefined-psd2-p8", 0, 0.90, 0.5) | {"phases": [{"method": "predefined"}]},
        run_of("predefined-dense", 1, 0.92, 0.92, kept=1000),
        run_of("predefined-psd2-p8", 1, 0.88, 0.5) | {"phases": [{"method": "predefined"}]},
        run_of("spred-filter", 0, 0.8, 0.5, top1_best=None) | {"phases": [{"method": "spred"}]},
    ]
    machine = {"cpu": "a CPU", "torch": "2"}
    text = methods_table.methods_table({"machine": machine, "command": "run", "runs": runs})
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if "|" in line}
    psd2 = lines["PSD2_P8"]
    # 0.9 and 0.88: mean 0.89, deviation 0.01·√2; dense of the same seeds.
    assert (
        "| 91.50 ± 0.71 | **89.00 ± 1.41** | 79.00 ± 1.41 | 2 | 91.89 (92.76) | VGG16, CIFAR-10 |"
        in psd2
    )
    assert "| 55,000 + 10,000 | 100 of 1,000 (10.00%) |" in psd2
    # One seed has no spread; no figure is published for this one; dense of the same seed only.
    assert "| 91.00 | **80.00** | – | 1 | – | – |" in lines["spred, whole filters"]
    assert "lenet5-300x-gsm" in text.splitlines()[-1] and "not run here" in text.splitlines()[-1]
