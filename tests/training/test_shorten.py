"""Recipes in fewer steps: what acts in each of them is made the stronger, and is enough again."""

import pytest

from sparse_ops.data import Dataset, Split, load
from sparse_ops.training.decay import left_over
from sparse_ops.training.recipes import Pace, differences, names, read, run, shortened
from sparse_ops.training.recipes.shorten import apportioned
from sparse_ops.training.schedules import Course


@pytest.fixture(scope="module")
def some() -> Dataset:
    """1,250 images to learn from, 250 to be tested on."""
    data = load("fashion-mnist-subset")
    train, test = (Split(s.images[::8], s.labels[::8]) for s in (data.train, data.test))
    return Dataset("some", train, test, data.classes)


def left(phase, steps: int) -> float:
    rates = Course(phase.epochs, steps, phase.make_schedule()).rates(phase.fit["lr"])
    fit = phase.fit
    return left_over(rates, fit["momentum"], fit["weight_decay"], fit["nesterov"])


@pytest.mark.parametrize("name", [n for n in names() if n.startswith("gsm-")])
@pytest.mark.parametrize("factor", [0.5, 0.1])
def test_in_fewer_steps_gsm_lets_go_of_inactive_weights_as_far(name, factor):
    recipe = read(name)
    steps = 782 if "resnet" in name else 235
    short, same = shortened(recipe, factor), shortened(recipe, factor, counts_only=True)
    gsm, plain, own = (
        next(p for p in r.phases if p.method == "gsm") for r in (short, same, recipe)
    )
    enough = max(1e-3, left(own, steps)) * 1.01
    assert left(gsm, steps) <= enough
    assert plain.fit == own.fit
    # Left as it was, it would be no cut, but for half of the LeNets' 65,000 steps.
    if factor == 0.5 and "lenet" in name:
        assert gsm == plain
    else:
        assert left(plain, steps) > 10 * enough
    # A weight that learns moves as fast as it did.
    before, after = (p.fit["lr"] / (1 - p.fit["momentum"]) for p in (own, gsm))
    assert after == pytest.approx(before, rel=0.01)


def test_fewer_images_are_fewer_steps():
    published = read("gsm-lenet300-60x")
    other = read("gsm-lenet300-60x", {"data.name": "fashion-mnist-subset"})
    pace = Pace.of(published, other, 10_000)
    assert pace == Pace(235, 40)
    assert Pace.of(published, published, 60_000) == Pace(235, 235)
    # A whole run, but on a sixth of the images: as far from the authors' as a shortened one.
    gsm = shortened(other, 1, pace).phases[1]
    assert gsm.epochs == 280 and gsm.fit["weight_decay"] > 5e-4 and left(gsm, 40) <= 1e-3
    # Where there are more, nothing is made weaker.
    assert shortened(published, 2, Pace(235, 235)).phases[1].fit == published.phases[1].fit
    # How many images one's own files hold, the recipe says.
    sabr = read("sabr-vgg11-hg14")
    assert Pace.of(sabr, sabr, 12_600) == Pace(158, 158)


def test_parts_of_a_run_are_rounded_to_its_length():
    assert apportioned([60, 200, 160], 4) == [1, 2, 1]
    assert apportioned([100, 100], 3) == [2, 1]
    assert apportioned([200, 0, 280], 48) == [20, 0, 28]
    assert apportioned([1, 1, 98], 2) == [1, 1, 1] and apportioned([0], 3) == [0]
    # What is asked of a phase as a whole holds for the parts of its method.
    name, changes = "hypersparse-vgg19-cifar10-90", {"hypersparse.epochs": 10}
    (phase,) = shortened(read(name, changes), 1, given=changes).phases
    parts = [phase.options[key] for key in ("warm_up", "max_epochs", "fine_tune")]
    assert phase.epochs == sum(parts) == 10 and min(parts) > 0
    changes["hypersparse.options.max_epochs"] = 4
    (phase,) = shortened(read(name, changes), 1, given=changes).phases
    assert phase.options["max_epochs"] == 4


def test_what_was_given_stays_as_strong_as_it_is():
    recipe = read("gsm-lenet300-60x", {"gsm.weight_decay": 2e-3, "gsm.epochs": 100})
    gsm = shortened(recipe, 0.1, given={"gsm.weight_decay", "gsm.epochs"}).phases[1]
    assert (gsm.epochs, gsm.fit) == (10, recipe.phases[1].fit)
    # At a rate of one's own there is still a decay to be found.
    recipe = read("gsm-lenet300-60x", {"gsm.lr": 2e-2})
    fit = shortened(recipe, 0.1, given={"gsm.lr"}).phases[1].fit
    assert (fit["lr"], fit["momentum"]) == (2e-2, 0.99) and fit["weight_decay"] > 5e-4


def test_penalties_grow_as_far_in_fewer_epochs():
    (phase,) = read("hypersparse-vgg19-cifar10-90").phases
    (short,) = shortened(read("hypersparse-vgg19-cifar10-90"), 0.1).phases
    before, after = phase.options, short.options
    assert after["growth"] ** 20 == pytest.approx(before["growth"] ** 200, rel=0.01)
    # What a weight is pressed by in all, in ten times fewer steps.
    assert after["strength"] == pytest.approx(10 * before["strength"])
    assert (after["warm_up"], after["max_epochs"], after["fine_tune"]) == (6, 20, 16)

    sabr, short = (r.phases[1] for r in (read("sabr-vgg11-hg14"), _short("sabr-vgg11-hg14", 0.2)))
    for key in ("increase", "decrease"):
        assert short.options[key] ** 10 == pytest.approx(sabr.options[key] ** 50, rel=0.01)
    assert short.options["patience"] == 2 and short.options["tolerance"] == 0.007
    # Adam takes steps of one size: five times fewer of them have to be five times as long.
    assert short.fit["lr"] == pytest.approx(5e-4)
    assert short.options["strength"] == sabr.options["strength"]
    assert short.schedule == sabr.schedule | {"patience": 1}
    # But none that Adam does not bear; the penalty makes up for the rest.
    short = _short("sabr-vgg11-hg14", 0.04).phases[1]
    assert short.fit["lr"] == 1e-3
    assert short.options["strength"] == pytest.approx(5e-4 * 25 / 10)


def _short(name: str, factor: float):
    return shortened(read(name), factor)


def test_dense_training_keeps_its_weight_decay():
    """It is no cut, but a part of what is to be learned."""
    for name in ("gsm-lenet5-300x", "predefined-vgg16-psd2-p8", "magnitude-resnet56-10x"):
        recipe = read(name)
        for before, after in zip(recipe.phases, shortened(recipe, 0.05).phases, strict=True):
            if before.method != "gsm":
                assert after.fit == before.fit


def test_warm_ups_and_boundaries_are_parts_of_epochs_where_they_have_to_be():
    base, gsm = shortened(read("gsm-lenet5-300x"), 0.06).phases
    assert base.schedule["warm_up"] == gsm.schedule["warm_up"] == pytest.approx(0.3)
    assert gsm.schedule["boundaries"] == pytest.approx([9.6, 12, 14.4])
    by_epoch = read("spred-resnet18-cifar100-sgd-20", {"spred.schedule.warm_up": 5})
    assert shortened(by_epoch, 0.1).phases[-1].schedule["warm_up"] == pytest.approx(0.5)


def test_the_differences_are_told_by_key():
    recipe = read("gsm-lenet300-60x")
    found = differences(recipe, shortened(recipe, 0.1))
    assert found["gsm.epochs"] == (280, 28) and found["base.epochs"] == (200, 20)
    assert found["gsm.weight_decay"][0] == 5e-4 < found["gsm.weight_decay"][1]
    assert "gsm.options.sparsity" not in found and "base.lr" not in found
    assert differences(recipe, shortened(recipe, 1)) == {}


def test_a_shortened_gsm_cuts_as_well_as_the_whole_one(some):
    """In 440 steps for 65,000 the cut at 60x leaves the network what it was."""
    changes = {"data.name": "fashion-mnist-subset", "data.batch_size": 32}
    published, recipe = read("gsm-lenet300-60x"), read("gsm-lenet300-60x", changes)
    pace = Pace.of(published, recipe, len(some.train))
    _, (base, gsm) = run(shortened(recipe, 0.04, pace), some, progress=False)
    assert gsm.sparsity == pytest.approx(1 - 1 / 60, abs=1e-4)
    assert gsm.uncut.top1 - gsm.accuracy.top1 < 0.02
    assert gsm.accuracy.top1 > base.accuracy.top1 - 0.1 > 0.55
    # With the authors' strengths, which are for so many more steps, it is destroyed by its cut.
    _, (_, plain) = run(shortened(recipe, 0.04, counts_only=True), some, progress=False)
    assert plain.accuracy.top1 < gsm.accuracy.top1 - 0.2
