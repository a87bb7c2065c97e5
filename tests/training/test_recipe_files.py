"""The published experiments as files: all can be read, and carried out where there are images."""

import inspect
import os
from pathlib import Path

import pytest
import torch

from sparse_ops.data import NAMES, Augment, Dataset, Normalize, Split
from sparse_ops.masks import check
from sparse_ops.models import MODELS
from sparse_ops.patterns import PSD1_P16
from sparse_ops.training import GSM, Dense, MultiStep, fit
from sparse_ops.training.predefined import Aperiodic, Predefined
from sparse_ops.training.recipes import names, pattern_named, read, run, shortened
from sparse_ops.training.recipes.inputs import build_model, load_data
from sparse_ops.training.recipes.phase import FIT, check_phases
from sparse_ops.training.recipes.recipe import FOLDER, value_of
from tests.data.test_cifar import CIFAR10, write_cifar

SMALL = """
title = "A small one"
source = "nobody"
published = { top1 = 50.0 }

[data]
name = "mnist"
batch_size = 16

[model]
name = "lenet300"
xavier = true

[[phases]]
name = "base"
method = "dense"
epochs = 2
lr = 0.05
bias_lr = 2
schedule = { name = "multi-step", boundaries = [1] }

[[phases]]
name = "gsm"
method = "gsm"
options = { sparsity = 0.9 }
epochs = 2
"""


# All that the charts of pre-defined sparsity show.
PATTERNS = (
    *("psc1", "psc2", "psc4", "ps1-p9", "ps2-p6", "ps4-p4"),
    *(f"psd{n}-p{p}" for n in (1, 2, 4) for p in (8, 16)),
)


@pytest.fixture
def small(tmp_path) -> Path:
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path / "small.toml"


def images(side: int = 28, channels: int = 1, count: int = 48) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 10
    pixels = torch.randn(count, channels, side, side, generator=generator)
    split = Split(pixels + labels[:, None, None, None] / 5, labels)
    return Dataset("some", split, split, tuple("0123456789"))


@pytest.mark.parametrize("name", names())
def test_every_recipe_can_be_read_and_says_where_it_comes_from(name):
    recipe = read(name)
    assert recipe.title and recipe.published
    assert "arXiv" in recipe.source or "there is no paper" in recipe.source
    assert recipe.data["name"] in NAMES and recipe.model["name"] in MODELS
    for phase in recipe.phases:
        schedule = phase.make_schedule()
        # All lower their rate to a tenth or less: by a schedule, or the method does it.
        if schedule is not None:
            assert phase.schedule["name"] == "plateau" or (
                schedule.factor(100 * phase.epochs - 1, 100, phase.epochs) < 0.1
            )
        else:
            assert phase.epochs == 0 or phase.options["drops"] == [80, 120]
    for factor in (0.001, 0.1, 0.5):
        short = shortened(recipe, factor)
        check_phases(short.phases)
        assert [p.epochs > 0 for p in short.phases] == [p.epochs > 0 for p in recipe.phases]


def test_there_is_a_recipe_for_each_published_experiment():
    assert {
        "gsm-lenet300-60x",
        "gsm-lenet5-125x",
        "gsm-lenet5-300x",
        "gsm-resnet56-6.6x",
        "gsm-resnet56-10x",
        "magnitude-lenet5-300x",
        *(
            f"hypersparse-{net}-{data}-{level}"
            for net in ("resnet32", "vgg19")
            for data in ("cifar10", "cifar100", "tiny-imagenet")
            for level in ("90", "98", "99.5")
        ),
        *(f"sabr-{net}-hg14" for net in ("vgg11", "mobilenet-v2")),
        *(f"spred-resnet18-cifar100-{used}" for used in ("sgd-20", "adam-40", "adagrad-60")),
        *(f"spred-resnet18-cifar100-{mode}-80" for mode in ("weight", "filter", "channel")),
        *(
            f"lottery-{kind}-{ticket}"
            for kind in ("gsm", "magnitude")
            for ticket in ("lenet300-60x", "lenet5-125x", "lenet5-300x")
        ),
        "predefined-mobilenet-v2-dense",
        "predefined-mobilenet-v2-tiny-imagenet-dense",
        *(
            f"predefined-{net}-{pattern}"
            for net in ("vgg16", "vgg16-tiny-imagenet", "resnet18", "resnet18-tiny-imagenet")
            for pattern in ("dense", *PATTERNS)
        ),
    } <= set(names())


def test_recipes_say_what_the_papers_say():
    base, gsm = read("gsm-lenet5-300x").phases
    assert (base.method, base.epochs, base.fit["lr"], base.fit["bias_lr"]) == (
        "dense",
        200,
        0.03,
        2,
    )
    assert base.make_schedule() == MultiStep((40, 80, 120, 160), warm_up=5)
    assert gsm.make_method() == GSM(sparsity=1 - 1 / 300)
    assert (gsm.epochs, gsm.fit["momentum"], gsm.fit["nesterov"]) == (280, 0.99, True)
    (train,) = read("predefined-resnet18-psd1-p16").phases
    assert train.make_method() == Predefined(PSD1_P16)
    assert read("predefined-resnet18-psd1-p16").published["parameters_saved"] == 81.93
    assert read("predefined-vgg16-psd4-p8").phases[0].epochs == 150
    assert read("predefined-vgg16-psc2").phases[0].make_method() == Predefined(Aperiodic(2))
    tiny = read("predefined-vgg16-tiny-imagenet-psd2-p8")
    assert tiny.published == {"top1": 55.9, "top5": 79.47, "dense_top5": 78.94}
    assert read("spred-resnet18-cifar100-adam-40").published["top1"] == 44.88
    assert read("lottery-gsm-lenet5-300x").published["top1"] == 98.88


def test_what_a_phase_may_hold_is_what_fit_takes():
    assert set(FIT) <= set(inspect.signature(fit).parameters)


def test_a_recipe_is_carried_out_phase_by_phase(small, tmp_path):
    recipe = read(str(small))
    model, (base, gsm) = run(recipe, images(), folder=tmp_path, progress=False)
    check(model, gsm.masks)
    assert (base.name, base.sparsity, base.masks) == ("base", 0, {})
    assert gsm.sparsity == pytest.approx(0.9, abs=1e-3)
    assert base.accuracy.top1 > 0.3  # chance is a tenth
    assert len((tmp_path / "gsm.csv").read_text().splitlines()) == 3


def test_a_recipe_goes_on_where_it_was_interrupted(small, tmp_path, monkeypatch):
    recipe, data = read(str(small)), images()
    whole, _ = run(recipe, data, progress=False)

    class Interrupted(Exception):
        pass

    def interrupt(self, *_):
        raise Interrupted

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(GSM, "end_epoch", interrupt)
        run(recipe, data, folder=tmp_path, progress=False)
    assert (tmp_path / "base.checkpoint.pt").is_file()
    written = os.stat(tmp_path / "base.checkpoint.pt").st_mtime_ns
    again, _ = run(recipe, data, folder=tmp_path, progress=False)
    assert os.stat(tmp_path / "base.checkpoint.pt").st_mtime_ns == written
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_a_periodic_recipe_runs_on_cifar_files(tmp_path):
    write_cifar(tmp_path, CIFAR10)
    recipe = read(
        "predefined-resnet18-psd2-p8",
        {"data.folder": str(tmp_path), "train.epochs": 1, "data.batch_size": 20},
    )
    data = load_data(recipe)
    assert data.train.augment == Augment(4, True)
    _, (train,) = run(recipe, data, progress=False)
    assert train.sparsity == pytest.approx(1 - 23 / 72, abs=1e-6)


def test_data_may_be_normalized_as_a_recipe_says(tmp_path):
    write_cifar(tmp_path, CIFAR10)
    data = load_data(read("gsm-resnet56-10x", {"data.folder": str(tmp_path)}))
    assert data.train.normalize == data.test.normalize == Normalize((0.5,) * 3, (0.5,) * 3)
    own = {"data.name": "fashion-mnist-subset", "data.mean": [0.5], "data.deviation": [0.5]}
    with pytest.raises(ValueError, match="comes normalized"):
        load_data(read("gsm-resnet56-10x", own))


def test_overrides_and_shortening_change_what_they_name():
    recipe = read(
        "gsm-lenet300-60x", {"gsm.epochs": 7, "gsm.options.sparsity": 0.5, "data.name": "digits"}
    )
    assert recipe.phases[1].epochs == 7 and recipe.phases[1].make_method() == GSM(sparsity=0.5)
    assert recipe.data["name"] == "digits" and recipe.phases[0].epochs == 200
    short = shortened(read("gsm-lenet300-60x"), 0.1)
    assert [phase.epochs for phase in short.phases] == [20, 28]
    assert short.phases[0].make_schedule() == MultiStep((4, 8, 12, 16), warm_up=0.5)
    assert [phase.epochs for phase in shortened(recipe, 0.0001).phases] == [1, 1]
    (hyper,) = shortened(read("hypersparse-vgg19-cifar10-99.5"), 0.05).phases
    method = hyper.make_method()
    assert (method.warm_up, method.max_epochs, method.fine_tune) == (3, 10, 8)
    assert (hyper.epochs, list(method.drops)) == (21, [4, 6])
    with pytest.raises(ValueError, match="must be above 0, got 0"):
        shortened(recipe, 0)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("true", True), ("[1, 2]", [1, 2]), ("digits", "digits"), ("", "")],
)
def test_values_are_toml_or_text(text, value):
    assert value_of(text) == value


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("title =", "titel =", "not titel"),
        ('"mnist"', '"emnist"', "no data set 'emnist'"),
        ('"lenet300"', '"lenet7"', "no model 'lenet7'"),
        ("xavier", "yavier", "not yavier"),
        ('method = "gsm"', 'method = "x"', "no method 'x'"),
        ("sparsity = 0.9", "density = 0.9", "gsm does not take"),
        ("sparsity = 0.9", "sparsity = 9", "sparsity must be in"),
        ("multi-step", "steps", "no schedule 'steps'"),
        ("boundaries", "bounds", "schedule multi-step does not take"),
        ("epochs = 2", "epochs = -1", "epochs must be a whole number"),
        ("epochs = 2", "epochs = 2.5", "epochs must be a whole number"),
        ("bias_lr", "bias_rate", "not bias_rate"),
        ("lr = 0.05", "lr = 'much'", "could not convert"),
        ('name = "gsm"', 'name = "base"', "of different names"),
        ('name = "gsm"', 'name = "gsm"\nrestart = 1', "restart must be true or false, got 1"),
        ('name = "gsm"', 'name = "gsm"\noptimizer = "x"', "no optimizer 'x'; there are sgd, adam"),
        ('method = "gsm"', 'method = "fixed"', "gsm is under the masks of the phase before it"),
        ("[model]", "[model", "no TOML file"),
        ("[[phases]]", "[[steps]]", "small: "),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(small, before, after, words):
    small.write_text(SMALL.replace(before, after))
    with pytest.raises(ValueError, match=words):
        read(str(small))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("epochs", "must begin with data, model or a phase"),
        ("nothing.epochs", r"a phase \(base, gsm\)"),
        ("gsm.epoch", "not epoch"),
        ("gsm.epochs.more", "recipe gsm-lenet300-60x"),
    ],
)
def test_an_override_for_nothing_is_refused(key, words):
    with pytest.raises(ValueError, match=words):
        read("gsm-lenet300-60x", {key: 1})


def test_what_is_not_there_is_answered_with_what_is():
    with pytest.raises(ValueError, match="no recipe 'x'; `sparse-ops recipes` lists them all"):
        read("x")
    with pytest.raises(ValueError, match=r"no recipe .*; there are .*gsm-lenet300-60x.*; `sparse"):
        read("gsm-lenet300-60")
    with pytest.raises(ValueError, match=r"no recipe '\.\./small'"):
        read("../small")
    with pytest.raises(FileNotFoundError):
        read("missing.toml")
    for name in ("x", "pSC0", "pSC10", "pSC"):
        with pytest.raises(ValueError, match=r"no pattern|taps must be"):
            pattern_named(name)


def test_a_network_for_grey_images_is_not_given_colour():
    with pytest.raises(ValueError, match="lenet300 takes images of 1×28×28, some has 3×32×32: set"):
        build_model(read("gsm-lenet300-60x"), images(32, 3), 0)


def test_the_files_come_with_the_package():
    root = FOLDER.parents[2]
    assert '"sparse_ops.training.recipes" = ["*.toml"]' in (root / "pyproject.toml").read_text()
    assert isinstance(read("gsm-lenet300-60x").phases[0].make_method(), Dense)
