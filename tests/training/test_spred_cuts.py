"""spred: cuts by and by, cuts at a threshold, and products of BatchNorm's scales."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from sparse_ops.data import batches
from sparse_ops.training import Dense, Spred, fit
from sparse_ops.training.factors import factorized, factors, group_shape, norms
from tests.training.small import OPTIMIZERS, small_net, small_task
from tests.training.test_spred import block, train


def removed(weight):
    return int((weight.flatten(1) == 0).all(1).sum())


@pytest.mark.parametrize("gate", ["weight", "bn", "none"])
def test_filters_go_by_and_by_as_the_cubic_schedule_says_and_stay_gone(gate):
    model, seen = block(), []
    exempt = ["stem", "depthwise", "downsample"]
    method = Spred(sparsity=0.5, mode="filter", gate=gate, exempt=exempt, begin=1, end=5)

    def look(epoch):
        seen.append(model.conv1.weight.detach().clone())

    train(method, model, epochs=6, on_epoch=look)
    # int(10 · 0.5 · (1 - left³)) for left of 1, 3/4, 1/2, 1/4, 0.
    assert [removed(weight) for weight in seen] == [0, 2, 4, 4, 5, 5]
    for before, after in pairwise(seen):
        gone = (before.flatten(1) == 0).all(1)
        assert not bool(after[gone].any())
    assert removed(model.conv1.weight) == 5 and removed(model.conv2.weight) == 4
    dead = (model.conv1.weight.flatten(1) == 0).all(1)
    assert not bool(model.norm1.weight[dead].any()) and not bool(model.norm1.bias[dead].any())


@pytest.mark.parametrize("mode", ["weight", "filter", "channel"])
def test_without_products_a_network_learns_as_a_dense_one_until_its_smallest_groups_go(mode):
    method = Spred(sparsity=0.5, mode=mode, gate="none", strength=1.0)
    pruned, masks = train(method, epochs=2, weight_decay=1e-3)
    dense, _ = train(Dense(), epochs=2, weight_decay=1e-3)
    weight = dense.conv1.weight.detach()
    sizes = norms(weight, mode)
    kept = sizes > sizes.median()
    shape = group_shape(weight.shape, mode)
    assert torch.equal(masks["conv1.weight"], kept.view(shape).expand_as(weight))
    assert torch.equal(pruned.conv1.weight, weight * kept.view(shape))
    assert torch.equal(pruned.fc.weight, dense.fc.weight) and factorized(pruned) == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_single_weights_go_by_and_by_and_both_their_factors_stay_zero(optimizer):
    model, seen = block(), []
    method = Spred(sparsity=0.8, begin=0, end=3, fine_tune=1)

    def look(epoch):
        seen.append([factor.detach().clone() for factor in factors(model.conv1)])

    train(method, model, epochs=5, lr=None, optimizer=OPTIMIZERS[optimizer], on_epoch=look)
    counts = [[int((factor == 0).sum()) for factor in pair] for pair in seen]
    # 540 weights; 0.8 · (1 - (2/3)³), 0.8 · (1 - (1/3)³), 0.8.
    assert counts == [[n, n] for n in (int(540 * 0.8 * 19 / 27), 416, 432, 432, 432)]


def test_the_penalty_goes_on_while_cutting_and_ends_with_fine_tuning():
    model, seen = block(), []
    method = Spred(sparsity=0.5, begin=0, end=2, fine_tune=2)
    train(method, model, epochs=5, on_epoch=lambda e: seen.append(method.penalty(model) is None))
    assert seen == [False, False, True, True, True]


def test_a_threshold_cuts_what_is_below_it_and_keeps_what_is_at_it():
    layer = nn.Conv2d(1, 4, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(
            torch.tensor([0.5, 0.125, 0.05, 0.0]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
        )
    method = Spred(mode="filter", threshold=0.25, exempt=())
    method.prepare(layer)
    # The norms are twice the numbers: 1, 0.25, 0.1, 0, and 0.25 has exact factors.
    masks = method.finalize(layer)
    assert masks["weight"][:, 0, 0, 0].tolist() == [True, True, False, False]
    method = Spred(threshold=0.3, exempt=())
    method.prepare(layer)
    assert int(method.finalize(layer)["weight"].sum()) == 4


def test_a_scale_is_a_product_and_the_layer_before_it_is_not():
    model, x = block().double().eval(), torch.randn(2, 1, 6, 6).double()
    with torch.no_grad():
        model.norm1.weight.uniform_(-1, 1)
    before, names = model(x), [n for n, _ in model.named_parameters()]
    method = Spred(mode="filter", gate="bn", exempt=["stem", "depthwise", "downsample"])
    task = small_task(8)
    method.see_data([(task.images.double(), task.labels)])
    method.prepare(model)
    assert factorized(model) == ["norm2", "norm1"]
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-14)
    u, w = factors(model.norm1)
    penalty = method.penalty(model)
    # κ(u² + w²) of an even split is 2κ|scale|.
    scales = torch.cat([model.norm1.weight, model.norm2.weight]).detach()
    assert penalty.item() == pytest.approx(2e-4 * scales.abs().sum().item(), rel=1e-12)
    assert u.shape == w.shape == (10,)
    method.finalize(model)
    assert [n for n, _ in model.named_parameters()] == names
    assert not factorized(model)


@pytest.mark.parametrize("fine_tune", [0, 1])
def test_filters_go_by_the_scale_behind_them(fine_tune):
    model = block()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.norm1.weight.copy_(order + 1.0)
    exempt = ["stem", "conv2", "depthwise", "downsample"]
    method = Spred(sparsity=0.4, mode="filter", gate="bn", exempt=exempt, fine_tune=fine_tune)
    masks = fit(model, small_task(), method, epochs=2, lr=1e-4, progress=False)
    assert list(masks) == ["conv1.weight"]
    alive = order >= 4
    assert torch.equal(masks["conv1.weight"].flatten(1).all(1), alive)
    assert torch.equal(model.conv1.weight.flatten(1).any(1), alive)
    assert torch.equal(model.norm1.weight != 0, alive)
    assert torch.equal(model.norm1.bias != 0, alive)


def test_looking_for_the_scales_leaves_order_mode_and_statistics_alone():
    model, task = block(), small_task()
    generator = torch.Generator().manual_seed(3)
    source = batches(task, 16, generator)
    expected = [labels for _, labels in batches(task, 16, torch.Generator().manual_seed(3))]
    method = Spred(mode="filter", gate="bn", exempt=["stem", "depthwise", "downsample"])
    method.see_data(source)
    mean = model.norm1.running_mean.clone()
    method.prepare(model)
    assert model.training and torch.equal(model.norm1.running_mean, mean)
    found = [labels for _, labels in source]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_layer_without_batch_norm_behind_it_has_no_gate():
    method = Spred(mode="filter", gate="bn")
    with pytest.raises(ValueError, match=r"none behind depthwise: name them in exempt"):
        train(method)
    with pytest.raises(RuntimeError, match="see_data"):
        Spred(mode="filter", gate="bn").prepare(small_net())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gate": "bias"}, "gate must be weight, bn or none, got 'bias'"),
        ({"gate": "bn"}, "gate bn is for mode filter"),
        ({"gate": "bn", "mode": "filter", "linear": True}, "not for linear layers"),
        ({"begin": 1}, "begin and end go together"),
        ({"begin": 3, "end": 2}, "begin must be in"),
        ({"begin": 0, "end": 0}, "end must be 1 or more"),
        ({"threshold": -1.0}, "threshold must be 0 or more"),
        ({"threshold": 0.1, "begin": 0, "end": 2}, "threshold is a cut at once"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Spred(**options)
