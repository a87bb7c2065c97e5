"""spred's recipes: whole filters and channels are cut while there is time to learn without them."""

import pytest

from sparse_ops.data import Dataset, Split, load
from sparse_ops.training.recipes import Pace, names, read, run, shortened

RECIPES = [name for name in names() if name.startswith("spred-")]
SMALL = {
    "data.name": "fashion-mnist-subset",
    "data.batch_size": 32,
    "model.name": "small_vgg",
    "model.width": 8,
}


@pytest.fixture(scope="module")
def some() -> Dataset:
    """1,250 images to learn from, 250 to be tested on."""
    data = load("fashion-mnist-subset")
    train, test = (Split(s.images[::8], s.labels[::8]) for s in (data.train, data.test))
    return Dataset("some", train, test, data.classes)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("factor", [1, 0.2, 0.1])
def test_the_cut_is_complete_a_third_before_the_end(name, factor):
    (phase,) = shortened(read(name), factor).phases
    method = phase.make_method()
    assert 0 < method.begin < method.end <= phase.epochs - method.fine_tune
    assert method.fine_tune == phase.epochs // 3
    assert method.gate == ("bn" if method.mode == "filter" else "weight")


def test_the_penalty_is_the_stronger_the_more_is_to_go():
    strengths: dict[float, set[float]] = {}
    for name in RECIPES:
        options = read(name).phases[0].options
        strengths.setdefault(options["sparsity"], set()).add(options["strength"])
    assert [sorted(strengths[level]) for level in (0.2, 0.4, 0.6, 0.8)] == [
        [1e-4],
        [2e-4],
        [3e-4],
        [5e-4],
    ]


@pytest.mark.parametrize("mode", ["filter", "channel"])
def test_whole_groups_that_are_cut_by_and_by_leave_a_network_that_still_sees(mode, some):
    name = f"spred-resnet18-cifar10-{mode}-80"
    recipe = read(name, SMALL)
    pace = Pace.of(read(name), recipe, len(some.train))
    model, (spred,) = run(shortened(recipe, 0.2, pace), some, progress=False)
    last = model.conv3.weight.detach()
    groups = last.abs().sum((1, 2, 3) if mode == "filter" else (0, 2, 3))
    assert int((groups == 0).sum()) == 6  # int(0.8 · 8)
    # All at once after the last epoch, as it was: chance is a tenth.
    gone = ("begin", "end", "fine_tune")
    at_once = read(name, SMALL, [f"spred.options.{key}" for key in gone])
    _, (cut,) = run(shortened(at_once, 0.2, pace), some, progress=False)
    assert spred.accuracy.top1 > max(0.4, cut.accuracy.top1 + 0.1)
