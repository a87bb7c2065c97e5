"""What a run of a recipe can be asked for beside its recipe."""

import pytest
import torch

from sparse_ops.training.recipes import read, run
from tests.training.test_recipe_files import images

SHORT = {"base.epochs": 1, "gsm.epochs": 2, "data.batch_size": 16, "data.validation": 0.5}


def test_each_epoch_is_told_of_with_its_phase_and_the_network():
    told = []

    def on_epoch(phase, model, epoch):
        told.append((phase.name, epoch.number, epoch.validation.count))
        networks.add(model)

    networks: set[torch.nn.Module] = set()
    model, _ = run(read("gsm-lenet5-300x", SHORT), images(), progress=False, on_epoch=on_epoch)
    # Half of the 5 or 4 images of each of ten classes; 2.5 is rounded to 2.
    assert told == [("base", 1, 20), ("gsm", 1, 20), ("gsm", 2, 20)]
    assert networks == {model}


def test_channels_last_is_another_layout_of_the_same_run():
    recipe = read("gsm-lenet5-300x", SHORT | {"gsm.options.sparsity": 0.5})
    (one, _), (other, _) = (
        run(recipe, images(), progress=False, channels_last=last) for last in (False, True)
    )
    weights = one.conv2.weight, other.conv2.weight
    layouts = [w.is_contiguous(memory_format=torch.channels_last) for w in weights]
    assert layouts == [False, True]
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_same_seed_gives_the_same_network(channels_last):
    recipe = read("gsm-lenet5-300x", SHORT)
    (one, _), (other, _) = (
        run(recipe, images(), seed=4, progress=False, channels_last=channels_last) for _ in range(2)
    )
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
