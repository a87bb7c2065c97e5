"""The cut by magnitude, at once and by and by."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from sparse_ops.masks import sparsity
from sparse_ops.training import Magnitude, fit
from sparse_ops.training.magnitude import largest
from tests.training.small import OPTIMIZERS, small_net, small_task


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.c = nn.Conv2d(1, 1, 2)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[0.5, -0.1, 0.3], [-0.7, 0.2, 0.05]]))
            self.a.bias.fill_(9)
            self.c.weight.copy_(torch.tensor([0.4, -0.6, 0.15, 0.01]).reshape(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("density", "kept"),
    [
        (0.1, {-0.7}),
        (0.3, {0.5, -0.7, -0.6}),
        (0.5, {0.5, 0.3, -0.7, 0.4, -0.6}),
    ],
)
def test_the_largest_weights_of_all_layers_together_are_kept(density, kept):
    model = TwoLayers()
    masks = largest(model, 1 - density)
    values = [model.get_parameter(name).detach()[mask] for name, mask in masks.items()]
    assert {round(v, 6) for v in torch.cat(values).tolist()} == kept


def test_ties_at_the_cut_are_all_kept():
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0, 1.0, 0.5]]))
    assert largest(model, 0.5)["weight"].tolist() == [[True, True, True, False]]


def test_sparsity_rises_by_the_cubic_schedule():
    method = Magnitude(sparsity=0.8, begin=2, end=6)
    values = [method.sparsity_after(epochs) for epochs in range(8)]
    # 0.8 · (1 - (3/4)³, 1 - (1/2)³, 1 - (1/4)³), worked by hand.
    assert values == pytest.approx([0, 0, 0, 0.4625, 0.7, 0.7875, 0.8, 0.8])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masks_only_grow_and_nothing_is_revived_while_fine_tuning(optimizer):
    model = small_net()
    zeros = []

    def look(epoch):
        zeros.append(torch.cat([model[i].weight.detach().flatten() == 0 for i in (0, 3, 8)]))

    masks = fit(
        model,
        small_task(),
        Magnitude(sparsity=0.75, begin=1, end=3),
        epochs=6,
        batch_size=16,
        optimizer=OPTIMIZERS[optimizer],
        progress=False,
        on_epoch=look,
    )
    shares = [float(z.float().mean()) for z in zeros]
    assert shares == pytest.approx([0, 0.75 * 0.875, 0.75, 0.75, 0.75, 0.75], abs=2e-3)
    assert all(bool(after[before].all()) for before, after in pairwise(zeros))
    assert sparsity(masks) == pytest.approx(0.75, abs=1e-3)


def test_weights_that_are_left_go_on_learning_after_the_cut():
    model = small_net()
    seen = []
    fit(
        model,
        small_task(),
        Magnitude(sparsity=0.5, begin=1, end=1),
        epochs=2,
        batch_size=16,
        progress=False,
        on_epoch=lambda epoch: seen.append(model[3].weight.detach().clone()),
    )
    left = seen[0] != 0
    assert 0 < int(left.sum()) < left.numel()
    assert bool((seen[0][left] != seen[1][left]).all())


def test_what_training_was_too_short_for_is_cut_at_its_end():
    model = small_net()
    method = Magnitude(sparsity=0.75, begin=0, end=10)
    masks = fit(model, small_task(), method, epochs=2, batch_size=16, progress=False)
    assert sparsity(masks) == pytest.approx(0.75, abs=1e-3)


def test_nothing_asked_for_is_nothing_removed():
    model = small_net()
    masks = fit(model, small_task(), Magnitude(sparsity=0.0), epochs=1, progress=False)
    assert all(bool(mask.all()) for mask in masks.values())


@pytest.mark.parametrize(("begin", "end"), [(3, 2), (-1, 2), (1, None), (None, 1)])
def test_epochs_out_of_order_are_refused(begin, end):
    with pytest.raises(ValueError, match="begin"):
        Magnitude(begin=begin, end=end)
