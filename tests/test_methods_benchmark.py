"""The program that runs the published recipes, on a small part of the images that come with us."""

import json
from dataclasses import replace

import pytest

from benchmarks import methods, methods_table
from benchmarks._experiment import Experiment
from benchmarks._vgg_experiments import PATTERNS
from benchmarks.experiments import EXPERIMENTS
from sparse_ops.data import Dataset, load
from sparse_ops.models import small_vgg
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
        assert recipe.data["name"] in methods.FOLDERS
        # Without images held out nothing was chosen: all is as in the recipe.
        if "validation" not in recipe.data:
            assert experiment.shorten == 1 and name.startswith("unshortened")
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
        assert all(0 <= phase["validation_top1"] <= 1 for phase in run["phases"])
        # Which folders it was is nobody's business.
        assert run["command"] == (
            "python -m benchmarks.methods --seeds 0,1 --only tiny-gsm tiny-mag"
        )
        # Which epoch was the best is no figure: it would have been chosen. Nor are seconds.
        assert not {"top1_best", "seconds"} & {*run, *run["phases"][0]}
    gsm, magnitude = (run["phases"][1] for run in found["runs"][:2])
    # GSM cuts after its last epoch; magnitude is at once as sparse as at the end.
    assert gsm["uncut_top1"] is not None and magnitude["uncut_top1"] is None
    assert gsm["findings"]["inactive_weights_decay_to"] > 0.1


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
    for key in ("top1", "kept", "epochs"):
        assert resumed[key] == whole[key], key


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
        assert not {"top1_best", "seconds"} & {*run, *run["phases"][0]}
        assert run["network"] == EXPERIMENTS[run["experiment"]].network
        assert 0 < run["kept"] <= run["weights"] and run["commit"]


def test_nothing_is_said_of_images_held_out_where_there_are_none(tiny, monkeypatch):
    every = {"data.name": "fashion-mnist-subset", "data.batch_size": 50}
    whole = replace(TINY[0], changes=every)
    monkeypatch.setattr(methods, "EXPERIMENTS", {whole.name: whole})
    (run,) = tiny("--seeds", "0")["runs"]
    assert run["held_out"] == 0 and {p["validation_top1"] for p in run["phases"]} == {None}
    assert run["phases"][0]["epochs"] == 2 and run["kept"] == 4_437


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
        "phases": [{"method": "dense", "top1": dense, "validation_top1": 0.99}],
        "weights": 1000,
        "kept": 100,
        "epochs": 3,
        "top1": top1,
        "cpu": "a CPU",
        "torch": "2",
        **more,
    }


def table_of(runs: list[dict]) -> str:
    return methods_table.methods_table({"command": "run", "runs": runs})


def test_the_table_has_means_and_spreads_of_the_test_images_only():
    spred = {"phases": [{"method": "spred"}]}
    text = table_of(
        [
            run_of("predefined-dense", 0, 0.91, 0.91, kept=1000),
            run_of("predefined-psd2-p8", 0, 0.90, 0.5, phases=[{"method": "predefined"}]),
            run_of("predefined-dense", 1, 0.92, 0.92, kept=1000),
            run_of("predefined-psd2-p8", 1, 0.88, 0.5, phases=[{"method": "predefined"}], kept=120),
            run_of("spred-filter", 0, 0.8, 0.5, **spred),
        ]
    )
    ours, published = text.split("### Published")
    lines = {line.split(" | ")[0].strip("| "): line for line in ours.splitlines() if "|" in line}
    psd2 = lines["PSD2_P8"]
    # 0.9 and 0.88: mean 0.89, deviation 0.01·√2; dense of the same seeds; kept 10 and 12 %.
    assert "| 11.00 ± 1.41 % of 1,000 | 91.50 ± 0.71 | **89.00 ± 1.41** | 2 |" in psd2
    assert "small VGG, 16 wide, Fashion-MNIST: 55,000 images to learn from, 5,000 held out" in ours
    # One seed has no spread; dense of the same seed only.
    assert "| 10.00 % of 1,000 | 91.00 | **80.00** | 1 |" in lines["spred, whole filters"]
    # Many are only counted.
    assert "In the list and not run here: spred-weight, spred-weight-gradual-long, " in ours
    assert "In the list and not run here: 13 experiments, sweep-…." in ours
    assert ours.startswith("a CPU, torch 2, float32")
    # Each in the table of its block.
    blocks = dict(part.split("\n", 1) for part in ours.split("### ")[1:])
    assert "| PSD2_P8 |" in blocks["Patterns on a small VGG, three epochs"]
    assert "| spred, whole filters |" in blocks["spred at 80 % on a small VGG, four epochs"]
    # What was published stands apart, with what it is of.
    assert "91.89" not in ours and "92.76" not in ours and "99.00" not in text
    assert "| PSD2_P8 | VGG16 | CIFAR-10 | 32.03 % | 92.76 | 91.89 |" in published
    assert "spred" not in published


def test_what_was_published_is_told_once_for_all_lengths_of_a_recipe():
    runs = [run_of(f"{length}-gsm", 0, 0.9, 0.9) for length in ("unshortened", "lenet300")]
    _, published = table_of(runs).split("### Published")
    assert published.count("| GSM, then one cut | LeNet-300-100 | MNIST |") == 1


def test_what_was_published_of_sabr_is_of_test_images():
    """99.96 % is of the base, on validation images."""
    text = table_of([run_of("sabr", 0, 0.9, 0.9)])
    assert "| SABR | VGG11 | HG14 gestures | 2.34 % | – | 99.14 |" in text
    assert "99.96" not in text


def test_it_is_told_where_art_was_stopped():
    silent = [{"name": "hypersparse", "method": "hypersparse", "epochs": 10}]
    by_itself = [silent[0] | {"findings": {"art_ended_by_itself": True}}]
    stopped = [silent[0] | {"findings": {"art_ended_by_itself": False}}]
    text = table_of(
        [
            run_of("hypersparse-98-l1", 0, 0.8, 0.9, phases=stopped),
            run_of("hypersparse-98-l1", 1, 0.8, 0.9, phases=by_itself),
            run_of("hypersparse-98-l2", 0, 0.8, 0.9, phases=silent),
            run_of("hypersparse-90-l1", 0, 0.8, 0.9, phases=by_itself),
            run_of("hypersparse-90-l2", 0, 0.8, 0.9, phases=[silent[0] | {"epochs": 9}]),
        ]
    )
    assert "at its limit of epochs: ART with the L1 loss at 98 %, 1 of 2.\n" in text
    assert "or done with the last one: ART with the L2 loss at 98 %, 1 of 1.\n" in text


def test_it_is_told_where_the_cut_itself_costs_accuracy():
    def cut(before: float) -> list[dict]:
        return [{"name": "gsm", "method": "gsm", "uncut_top1": before}]

    text = table_of(
        [
            run_of("lenet300-gsm", 0, 0.8, 0.9, phases=cut(0.84)),
            run_of("lenet300-gsm", 1, 0.9, 0.9, phases=cut(0.9)),
            run_of("lenet300-cut", 0, 0.8, 0.9, phases=cut(0.805)),
        ]
    )
    told = "The cut itself costs a point or more: GSM, then one cut, "
    assert f"{told}87.00 ± 4.24 before it and 85.00 ± 7.07 after it.\n" in text


def test_every_block_has_dense_and_gradual_magnitude_at_equal_epochs():
    def epochs(name: str) -> int:
        return sum(phase.epochs for phase in EXPERIMENTS[name].recipe().phases)

    for dense, beside in (
        ("unshortened-dense-long", ("unshortened-gsm",)),
        ("lenet300-dense-long", ("lenet300-gsm",)),
        ("lenet5-dense-long", ("lenet5-125x-gsm", "lenet5-300x-gsm")),
        ("sabr-dense-long", ("sabr", "sabr-tolerance-2")),
        ("hypersparse-dense-long", ("hypersparse-90-hypersparse", "hypersparse-99.5-l2")),
        ("hypersparse-rate-0.1-dense-long", ("hypersparse-98-rate-0.1-hypersparse",)),
        ("spred-dense-long", ("spred-weight", "spred-filter")),
        ("vgg-dense", ("vgg-psd1-p8", "vgg-spred-channel-20")),
        ("predefined-dense", ("predefined-psd2-p8",)),
    ):
        assert {epochs(one) for one in beside} == {epochs(dense)}
        assert all(p.method == "dense" for p in EXPERIMENTS[dense].recipe().phases)
    for gradual, beside in (
        ("unshortened-gradual-long", "unshortened-gsm"),
        ("lenet300-gradual-long", "lenet300-gsm"),
        ("lenet5-300x-gradual-long", "lenet5-300x-gsm"),
        ("sabr-gradual-long", "sabr"),
        ("hypersparse-98-gradual-long", "hypersparse-98-l1"),
        ("hypersparse-98-rate-0.1-gradual-long", "hypersparse-98-rate-0.1-hypersparse"),
        ("spred-filter-gradual-long", "spred-filter"),
        ("vgg-magnitude-filter-60", "vgg-spred-filter-60"),
        ("vgg-psd2-p8-gradual-long", "vgg-psd2-p8"),
        ("predefined-psd1-p8-gradual-long", "predefined-psd1-p8"),
    ):
        recipe, other = EXPERIMENTS[gradual].recipe(), EXPERIMENTS[beside].recipe()
        assert epochs(gradual) == epochs(beside)
        options, own = recipe.phases[-1].options, other.phases[-1].options
        assert options["end"] < recipe.phases[-1].epochs
        assert recipe.phases[-1].method == "magnitude" or options["gate"] == "none"
        assert "sparsity" not in own or options["sparsity"] == pytest.approx(own["sparsity"])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradual_magnitude_keeps_as_many_weights_as_the_pattern_beside_it(pattern):
    left = []
    for name in (f"vgg-{pattern}", f"vgg-{pattern}-gradual-long"):
        recipe = EXPERIMENTS[name].recipe()
        model = small_vgg(10, 1, recipe.model["width"])
        method = recipe.phases[-1].make_method({})
        method.prepare(model)
        method.finalize(model)
        left.append(methods.counts(model)[0])
    assert left == [PATTERNS[pattern]] * 2
