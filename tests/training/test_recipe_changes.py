"""Recipes with other data, networks, optimizers, schedules and weights than their authors'."""

import json
from dataclasses import replace

import pytest
import torch

from sparse_ops.data import Dataset, Normalize, Split
from sparse_ops.models import MODELS
from sparse_ops.training import History
from sparse_ops.training import fit as learn
from sparse_ops.training.recipes import (
    names,
    read,
    run,
    shortened,
    started,
    with_optimizer,
    with_schedule,
)
from sparse_ops.training.recipes.inputs import LEAST, framed, model_options
from sparse_ops.training.recipes.small import fresh
from tests.training.test_recipe_files import images

SUBSET = {"data.name": "fashion-mnist-subset"}


# One for each network.
NETWORKS = {str(read(name).model): name for name in names()}


@pytest.mark.parametrize("name", NETWORKS.values())
def test_every_recipe_goes_with_the_images_that_come_with_the_package(name):
    recipe = read(name, SUBSET)
    data = images(28)
    least = LEAST.get(recipe.model["name"], 1)
    data = Dataset("some", framed(data.train, least), framed(data.test, least), data.classes)
    model = MODELS[recipe.model["name"]](**model_options(recipe, data))
    with torch.no_grad():
        assert model.eval()(data.train.images[:2]).shape == (2, 10)


def test_small_images_get_a_black_frame():
    pixels = torch.rand(3, 2, 4, 5) + torch.tensor([1.0, 5.0]).view(2, 1, 1)
    split = framed(Split(pixels, torch.zeros(3, dtype=torch.int64)), 8)
    assert split.images.shape == (3, 2, 8, 8)
    assert torch.equal(split.images[:, :, 2:6, 1:6], pixels)
    dark = pixels.amin(dim=(0, 2, 3))
    assert torch.equal(split.images[1, :, 0, 7], dark) and torch.equal(
        split.images[2, :, 7, 0], dark
    )
    assert framed(split, 8) is split
    grey = Split(
        torch.full((1, 1, 2, 2), 9, dtype=torch.uint8),
        torch.zeros(1, dtype=torch.int64),
        Normalize((0.5,), (0.5,)),
    )
    assert framed(grey, 4).images.sum() == 36


def test_what_is_said_of_other_data_or_another_network_is_forgotten():
    recipe = read("gsm-resnet56-10x", SUBSET)
    assert recipe.data == {"name": "fashion-mnist-subset", "batch_size": 64}
    recipe = read("gsm-resnet56-10x", {**SUBSET, "data.mean": [0.0], "data.deviation": [1.0]})
    assert recipe.data["mean"] == [0.0]
    assert read("sabr-vgg11-hg14", {**SUBSET, "model.name": "lenet5"}).model == {"name": "lenet5"}
    recipe = read("sabr-vgg11-hg14", {"model.name": "mobilenet_v2"})
    assert recipe.model == {"name": "mobilenet_v2", "softmax": True}


def test_what_is_unset_is_as_if_it_had_not_been_said():
    recipe = read("gsm-lenet300-60x", None, ["gsm.schedule", "base.bias_lr", "data.batch_size"])
    base, gsm = recipe.phases
    assert gsm.schedule == {} and "bias_lr" not in base.fit and "batch_size" not in recipe.data
    assert read("gsm-lenet300-60x", {"gsm.schedule.name": "cosine"}, ["gsm.schedule"]).phases[
        1
    ].schedule == {"name": "cosine"}
    for key, words in (("gsm.clip", "no 'gsm.clip' to unset"), ("gsm", "must begin with data")):
        with pytest.raises(ValueError, match=words):
            read("gsm-lenet300-60x", None, [key])


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad"])
def test_another_optimizer_takes_the_place_of_sgd_in_all_phases(name):
    recipe = with_optimizer(read("magnitude-lenet300-60x"), name)
    assert {phase.optimizer for phase in recipe.phases} == {name}
    assert all(set(phase.fit) <= {"lr", "bias_lr"} for phase in recipe.phases)
    method, fit = recipe.phases[0].make_method(), recipe.phases[0].arguments()
    model, data = fresh(lambda: MODELS["lenet300"](), 0), images()
    history = History()
    learn(model, data, method, epochs=4, batch_size=8, history=history, progress=False, **fit)
    # At a rate that suits it.
    assert history.rows[-1].loss < 0.5 * history.rows[0].loss


def test_sgd_takes_the_place_of_another_and_gsm_is_for_sgd_only():
    recipe = read("spred-resnet18-cifar100-adam-40")
    fit = with_optimizer(recipe, "sgd").phases[0].fit
    assert fit == {"lr": 0.05, "momentum": 0.9, "nesterov": True}
    assert with_optimizer(recipe, "adam") == recipe
    with pytest.raises(ValueError, match="gsm is GSM, whose momentum is that of SGD, not of adam"):
        with_optimizer(read("gsm-lenet300-60x"), "adam")
    with pytest.raises(ValueError, match="no optimizer 'lion'; there are sgd, adam"):
        with_optimizer(recipe, "lion")


def test_what_was_given_for_a_phase_is_kept_under_another_optimizer():
    given = {"base.lr": 3e-4, "base.weight_decay": 1e-5}
    base, retrain = with_optimizer(read("magnitude-lenet5-125x", given), "adam", given).phases
    assert base.fit == {"lr": 3e-4, "weight_decay": 1e-5, "bias_lr": 2.0}
    assert retrain.fit == {"lr": 1e-3, "bias_lr": 2.0}
    given = {"spred.momentum": 0.0, "spred.lr": 0.2}
    recipe = read("spred-resnet18-cifar100-sgd-20", given)
    assert with_optimizer(recipe, "sgd", given) == recipe
    for momentum, nesterov in ((0.0, False), (0.5, True)):
        adam = replace(recipe.phases[0], optimizer="adam", fit={"momentum": momentum, "lr": 0.2})
        fit = with_optimizer(replace(recipe, phases=(adam,)), "sgd", given).phases[0].fit
        assert fit == {"lr": 0.2, "momentum": momentum, "nesterov": nesterov}
    with pytest.raises(ValueError, match="spred: adam takes lr, weight_decay, not momentum"):
        with_optimizer(recipe, "adam", given)
    # The optimizer itself, given for one phase.
    given = {"base.optimizer": "adagrad", "base.lr": 0.02}
    recipe = read("magnitude-lenet300-60x", given, ["base.momentum"])
    assert with_optimizer(recipe, "adamw", given).phases[0] == recipe.phases[0]


def test_another_schedule_rises_as_long_as_the_one_before():
    recipe = read("gsm-lenet300-60x")
    assert with_schedule(recipe, "cosine").phases[1].schedule == {"name": "cosine", "warm_up": 5}
    steps = with_schedule(recipe, "multi-step").phases[1].schedule
    assert steps == {"name": "multi-step", "boundaries": [140, 210], "warm_up": 5}
    assert with_schedule(recipe, "none").phases[1].make_schedule() is None
    with pytest.raises(ValueError, match=r"a plateau needs data\.validation to watch"):
        with_schedule(recipe, "plateau")
    watched = read("gsm-lenet300-60x", {"data.validation": 0.1})
    assert with_schedule(watched, "plateau").phases[0].schedule == {"name": "plateau"}
    with pytest.raises(ValueError, match="no schedule 'x'"):
        with_schedule(recipe, "x")


def test_what_was_given_for_a_phase_is_kept_under_another_schedule():
    given = {"gsm.schedule.warm_up": 3, "base.schedule.name": "cosine"}
    recipe = read("gsm-lenet300-60x", given, ["base.schedule"])
    base, gsm = with_schedule(recipe, "multi-step", given).phases
    assert base.schedule == {"name": "cosine"} and gsm.schedule["warm_up"] == 3
    for name, words in (("none", "to have no schedule, and warm_up"), ("plateau", "does not take")):
        watched = replace(recipe, data=recipe.data | {"validation": 0.1})
        with pytest.raises(ValueError, match=words):
            with_schedule(watched, name, given)


def test_a_trained_network_is_not_trained_dense_again():
    assert [p.name for p in started(read("gsm-lenet300-60x")).phases] == ["gsm"]
    (sabr,) = started(read("sabr-vgg11-hg14")).phases
    assert sabr.method == "sabr" and not sabr.from_best
    # The weights of a ticket are the first ones: they are what is given.
    ticket = read("lottery-gsm-lenet300-60x")
    assert started(ticket) == ticket
    with pytest.raises(ValueError, match="is dense training: there is nothing to do from there on"):
        started(read("predefined-vgg16-dense"))


def test_a_phase_begins_with_the_best_weights_of_the_one_before(tmp_path):
    changes = {"base.epochs": 4, "sabr.epochs": 0, "sabr.from_best": True, "data.batch_size": 8}
    recipe = read("sabr-vgg11-hg14", {**SUBSET, "model.name": "lenet300", **changes})
    seen = {}

    def watch(phase, model, epoch):
        seen[epoch.number] = epoch.validation.top1, model.state_dict()["fc1.weight"].clone()

    def begins(phase, model):
        seen[phase.name] = model.state_dict()["fc1.weight"].clone()

    run(recipe, images(), progress=False, folder=tmp_path, on_epoch=watch, before_cut=begins)
    best = max((1, 2, 3, 4), key=lambda epoch: seen[epoch][0])
    assert torch.equal(seen["sabr"], seen[best][1])
    assert (tmp_path / "base.best.pt").is_file()
    # Resumed when the phase is over, it is found in the file.
    (tmp_path / "sabr.checkpoint.pt").unlink(missing_ok=True)
    before, again = seen["sabr"], {}
    run(
        *(recipe, images()),
        progress=False,
        folder=tmp_path,
        before_cut=lambda phase, model: again.setdefault(
            phase.name, model.state_dict()["fc1.weight"].clone()
        ),
    )
    assert torch.equal(again["sabr"], before)
    # Without that file the last weights would take their place unseen.
    (tmp_path / "base.best.pt").unlink()
    with pytest.raises(ValueError, match=r"base\.best\.pt is not.*with which sabr begins"):
        run(recipe, images(), progress=False, folder=tmp_path)


def test_the_best_weights_need_something_to_be_best_on():
    changes = {"base.epochs": 1, "sabr.from_best": True}
    with pytest.raises(ValueError, match=r"from_best of sabr needs data\.validation to go by"):
        read(
            "sabr-vgg11-hg14",
            {**SUBSET, **changes, "base.schedule.name": "cosine", "sabr.schedule.name": "cosine"},
            ["data.validation", "base.schedule", "sabr.schedule"],
        )
    with pytest.raises(ValueError, match="base is the first phase: there is no best epoch before"):
        read("sabr-vgg11-hg14", {"base.from_best": True})


def test_findings_and_figures_are_plain_data():
    for name in ("sabr-vgg11-hg14", "hypersparse-vgg19-cifar10-90", "gsm-lenet300-60x"):
        recipe = shortened(read(name, {**SUBSET, "model.name": "lenet300"}), 0.02)
        _, outcomes = run(recipe, images(), progress=False)
        last = outcomes[-1]
        assert json.loads(json.dumps(last.findings)) == last.findings and last.findings
        assert all(row.figures for row in last.history.rows)
        assert last.epochs == len(last.history.rows) <= last.planned
