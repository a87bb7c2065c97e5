"""What `train --method` trains: a plan of each method, at any length, on any network."""

import pytest
import torch

from sparse_ops.data import Dataset, Split, load
from sparse_ops.masks import save
from sparse_ops.models import small_vgg
from sparse_ops.patterns import PSD2_P8
from sparse_ops.training import METHODS
from sparse_ops.training.recipes import planned, run
from tests.training.test_recipe_files import images

LENET, VGG = {"name": "lenet300"}, {"name": "small_vgg", "width": 8}
SUBSET = {"name": "fashion-mnist-subset", "batch_size": 32}


@pytest.fixture(scope="module")
def some() -> Dataset:
    """1,250 images to learn from, 250 to be tested on."""
    data = load("fashion-mnist-subset")
    train, test = (Split(s.images[::8], s.labels[::8]) for s in (data.train, data.test))
    return Dataset("some", train, test, data.classes)


def plan(method: str, epochs: int, options=None, *, model=LENET, norms=False, **more):
    settings = {"data": SUBSET, "images": 1250, "norms": norms, "model": model}
    return planned(method, options or {}, epochs=epochs, **(settings | more))


def options_of(method: str, tmp_path) -> dict:
    if method == "fixed":
        save({"conv3.weight": PSD2_P8.mask((8, 8, 3, 3))}, tmp_path / "masks.safetensors")
        return {"masks": str(tmp_path / "masks.safetensors")}
    return {"pattern": "PSD2_P8"} if method == "predefined" else {}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epochs", [0, 1, 2, 3, 4, 7, 30, 400])
def test_every_method_has_a_plan_of_any_length(method, epochs, tmp_path):
    recipe = plan(method, epochs, options_of(method, tmp_path), model=VGG, norms=True)
    assert recipe.phases[-1].method == method
    total = sum(phase.epochs for phase in recipe.phases)
    # Each part has one epoch at least, and ART has three parts.
    least = {"hypersparse": 3, "gsm": 2, "magnitude": 2, "sabr": 2}.get(method, 1)
    assert total == (0 if epochs == 0 else max(least, epochs))
    options = recipe.phases[-1].options
    if method == "hypersparse" and epochs:
        assert sum(options[part] for part in ("warm_up", "max_epochs", "fine_tune")) == total
    # One that lowers its rate by itself has no schedule; nor has what takes no step.
    assert all(p.schedule or p.method == "hypersparse" for p in recipe.phases if epochs)


@pytest.mark.parametrize("method", METHODS)
def test_every_plan_can_be_carried_out(method, tmp_path):
    recipe = plan(method, 3, options_of(method, tmp_path), model=VGG, norms=True)
    _, outcomes = run(recipe, images(count=100), progress=False)
    assert outcomes[-1].masks and outcomes[-1].sparsity > 0
    assert [o.epochs <= o.planned for o in outcomes] == [True] * len(outcomes)


def test_what_is_trained_before_is_what_a_method_is_for():
    def names(method: str, **more) -> list[str]:
        return [phase.name for phase in plan(method, 30, **more).phases]

    for method in ("gsm", "magnitude", "sabr"):
        assert names(method) == ["base", method]
        # With a trained network all epochs are the method's.
        assert names(method, started=True) == [method]
        (only,) = plan(method, 30, started=True).phases
        assert only.epochs == 30 and not only.from_best
    for method in ("hypersparse", "spred", "predefined"):
        assert names(method, started=True) == names(method) == [method]


def test_options_are_taken_as_they_are_said():
    lengths = {"warm_up": 0, "max_epochs": 1, "strength": 0.5}
    (phase,) = plan("hypersparse", 42, lengths).phases
    assert phase.options["strength"] == 0.5
    assert phase.epochs == 0 + 1 + phase.options["fine_tune"] == 17
    spred = plan("spred", 30, {"fine_tune": 3, "sparsity": 0.5}).phases[0]
    assert (spred.options["fine_tune"], spred.options["end"]) == (3, 20)
    gsm = plan("gsm", 30, {"sparsity": 0.5}, lr=0.5).phases[1]
    assert gsm.fit["lr"] == 0.5 and gsm.options == {"sparsity": 0.5}
    with pytest.raises(ValueError, match="sabr does not take"):
        plan("sabr", 3, {"sparsity": 0.5})


def test_gsm_begins_with_a_trained_network_and_cuts_what_is_gone(some):
    _, (base, gsm) = run(plan("gsm", 16, {"sparsity": 0.95}), some, progress=False)
    assert gsm.findings["inactive_weights_decay_to"] < 0.01
    assert gsm.uncut.top1 - gsm.accuracy.top1 < 0.02
    assert gsm.accuracy.top1 > base.accuracy.top1 - 0.1 > 0.55


def test_hypersparse_comes_to_its_end(some, caplog):
    _, (outcome,) = run(plan("hypersparse", 16, {"sparsity": 0.9}), some, progress=False)
    assert "training ended in" not in caplog.text
    phases = [row.figures["phase"] for row in outcome.history.rows]
    assert list(dict.fromkeys(phases)) == ["warm-up", "ART", "fine-tune"]
    assert outcome.findings["art_epochs"] == phases.count("ART")
    assert outcome.accuracy.top1 > 0.65


def test_sabr_gets_sparse_and_watches_what_is_held_out(some):
    recipe = plan("sabr", 16)
    assert recipe.data["validation"] == 0.1 and recipe.phases[1].from_best
    # Of 125 images, one more wrong is no sign.
    assert recipe.phases[1].options["tolerance"] == pytest.approx(0.6 / 125**0.5, rel=1e-3)
    _, (base, sabr) = run(recipe, some, progress=False)
    assert sabr.sparsity > 0.4
    assert sabr.accuracy.top1 > base.accuracy.top1 - 0.1 > 0.55


def test_spred_cuts_filters_by_the_norms_behind_them_while_there_is_time(some):
    recipe = plan("spred", 6, {"mode": "filter", "sparsity": 0.5}, model=VGG, norms=True)
    options = recipe.phases[0].options
    assert (options["gate"], options["begin"], options["end"], options["fine_tune"]) == (
        *("bn", 2, 4, 2),
    )
    assert plan("spred", 6, {"mode": "filter"}, model=VGG).phases[0].options.get("gate") is None
    _, (outcome,) = run(recipe, some, progress=False)
    assert outcome.accuracy.top1 > 0.5 and 0.4 < outcome.sparsity < 0.8


def test_networks_with_batch_norm_learn_faster():
    rates = [
        plan("magnitude", 4, model=VGG, norms=norms).phases[0].fit["lr"] for norms in (False, True)
    ]
    assert rates == [0.05, 0.1]


def test_somebody_elses_network_is_trained_as_well():
    recipe = plan("magnitude", 2, {"sparsity": 0.5}, model={"name": "mine:make"}, norms=True)
    model = small_vgg(width=4)
    first = model.conv2.weight.detach().clone()
    with pytest.raises(ValueError, match="mine:make is not one of"):
        run(recipe, images(), progress=False)
    found, outcomes = run(recipe, images(), model=model, progress=False)
    assert found is model and not torch.equal(model.conv2.weight, first)
    assert outcomes[-1].sparsity == pytest.approx(0.5, abs=1e-3)
