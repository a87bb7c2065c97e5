"""SABR: strengths, freezing and cut against the authors' code; MACs against the published tables.

The authors' code ran in float32: its numbers are good to 1e-6, here in both precisions.
"""

import logging
import math
import statistics

import pytest
import torch
from torch import nn

from sparse_ops.models import vgg11
from sparse_ops.report import count_macs
from sparse_ops.training import SABR, Epoch, Evaluation, double_softmax_cross_entropy, fit
from sparse_ops.training.sabr import nonzero, std_threshold
from tests.training.small import OPTIMIZERS, small_net, small_task

VALUES = {
    "a.weight": [[0.5, -0.4, 0.3, -0.2], [0.1, -0.05, 0.02, -0.01]],
    "bn.weight": [1, 0.5],
    "b.weight": [[0.8, -1], [0.6, 0], [1e-6, -0.3]],
}


class Three(nn.Module):
    def __init__(self, dtype=torch.float64) -> None:
        super().__init__()
        self.a = nn.Linear(4, 2)
        self.bn = nn.BatchNorm1d(2)
        self.drop = nn.Dropout(0.5)
        self.b = nn.Linear(2, 3)
        self.to(dtype)
        with torch.no_grad():
            for name, values in VALUES.items():
                self.get_parameter(name).copy_(torch.tensor(values, dtype=torch.float64))

    def forward(self, x):
        return self.b(self.drop(self.bn(self.a(x))))


def strengths(method):
    return list(method.strengths.values())


def prepared(dtype=torch.float64, **options):
    model, method = Three(dtype), SABR(**options)
    method.prepare(model)
    return model, method


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strengths_begin_in_proportion_to_the_spread_of_each_tensor(dtype):
    _, method = prepared(dtype)
    assert list(method.strengths) == list(VALUES)
    assert strengths(method) == pytest.approx([1.30449946e-4, 1.25e-4, 2.94981204e-4], rel=1e-6)
    spread = [s / 5e-4 for s in strengths(method)]
    assert spread == pytest.approx([0.26089987, 0.25, 0.58996236], rel=1e-6)


def test_the_spread_is_the_standard_deviation_of_a_population():
    _, method = prepared()
    for values, found in zip(VALUES.values(), strengths(method), strict=True):
        flat = torch.tensor(values, dtype=torch.float64).flatten().tolist()
        assert found == pytest.approx(5e-4 * statistics.pstdev(flat), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_spread_of_the_large_weights_is_that_of_the_authors_code(dtype):
    model = Three(dtype)
    found = [float(std_threshold(model.get_parameter(name), 5e-4, 0.1)) for name in VALUES]
    assert found == pytest.approx([1.50289081e-4, 1.25e-4, 3.61204584e-4], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_penalty_and_its_gradient_are_those_of_the_authors_code(dtype):
    model, method = prepared(dtype)
    penalty = method.penalty(model)
    assert penalty.item() == pytest.approx(0.001190060517, rel=1e-6)
    penalty.backward()
    for name, strength in method.strengths.items():
        weight = model.get_parameter(name)
        assert torch.equal(weight.grad, strength * weight.detach().sign())
    assert model.b.weight.grad[1, 1] == 0
    assert model.a.bias.grad is None and model.bn.bias.grad is None


SEQUENCE = [0.95, 0.96, 0.955, 0.953, 0.9529, 0.95, 0.94, 0.94, 0.961, 0.95]


def test_strengths_follow_accuracy_and_tensors_freeze_as_in_the_authors_code():
    model, method = prepared()
    first = dict(method.strengths)
    history, frozen = [], []
    for accuracy in SEQUENCE:
        method.adapt(model, accuracy)
        history.append([method.strengths[n] / first[n] for n in VALUES])
        frozen.append(list(method.frozen))
    common = [1.15, 1.3225, 1.520875, 1.26739583, 1.05616319]
    for epoch, factor in enumerate(common):
        assert history[epoch] == pytest.approx([factor] * 3, rel=5e-9)
    exact = 1.15**3 / 1.2
    assert history[3] == pytest.approx([exact] * 3, rel=1e-12)
    assert history[5] == pytest.approx([0.88013600, 1.05616319, 0.88013600], rel=7e-9)
    for epoch in range(6, 10):
        assert history[epoch] == pytest.approx([0.73344666, 1.05616319, 0.88013600], rel=7e-9)
    assert frozen[:5] == [[]] * 4 + [["bn.weight"]]
    assert frozen[5] == ["bn.weight", "b.weight"]
    assert frozen[6:] == [["bn.weight", "b.weight", "a.weight"]] * 4
    assert method.bad_epochs == {"a.weight": 4, "bn.weight": 2, "b.weight": 3}


def test_a_weight_counts_as_zero_below_a_hundred_thousandth():
    model = Three()
    assert [nonzero(model.get_parameter(name)) for name in VALUES] == [8, 2, 4]
    assert nonzero(torch.tensor([1e-5, -1e-5, 9.9e-6, 0.0], dtype=torch.float64)) == 2


@pytest.mark.parametrize(
    ("theta", "gamma", "cuts", "kept"),
    [
        (0.2, 0.1, (0.06011563, 0.05, 0.14448182), (5, 2, 4)),
        (0.5, 0.1, (0.15028907, 0.125, 0.36120456), (4, 2, 3)),
        (0.05, 0.025, (0.01304499, 0.0125, 0.03612046), (7, 2, 4)),
    ],
)
def test_the_cut_is_that_of_the_authors_code(theta, gamma, cuts, kept):
    model, method = prepared(theta=theta, gamma=gamma)
    found = [float(std_threshold(model.get_parameter(n), theta, gamma)) for n in VALUES]
    assert found == pytest.approx(cuts, rel=4e-7)
    masks = method.finalize(model)
    assert tuple(int(masks[name].sum()) for name in VALUES) == kept
    assert [nonzero(model.get_parameter(name)) for name in VALUES] == list(kept)
    assert set(masks) == set(VALUES)


def test_a_weight_at_the_threshold_is_kept_and_one_size_can_be_given_for_all():
    model, method = prepared(epsilon=0.3)
    masks = method.finalize(model)
    assert masks["a.weight"].int().tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]
    assert masks["b.weight"].int().tolist() == [[1, 1], [1, 0], [0, 1]]


def test_weights_that_are_all_alike_are_all_kept():
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, 0.5)
    method = SABR()
    method.prepare(model)
    assert bool(method.finalize(model)["weight"].all())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_frozen_tensor_is_not_moved_by_momentum_decay_or_gradient(optimizer):
    model, method = small_net(), SABR()
    method.prepare(model)
    task = small_task()
    groups = [{"params": list(model.parameters())}]
    steps = OPTIMIZERS[optimizer](groups)

    def step():
        steps.zero_grad()
        loss = nn.functional.cross_entropy(model(task.images), task.labels) + method.penalty(model)
        loss.backward()
        method.after_backward(model)
        steps.step()
        return loss.item()

    for _ in range(3):
        step()
    method.frozen.append("3.weight")
    frozen, other = model[3].weight.detach().clone(), model[8].weight.detach().clone()
    for _ in range(3):
        step()
    assert torch.equal(model[3].weight, frozen)
    assert not torch.equal(model[8].weight, other)
    # Its penalty is still part of the loss.
    with_it = method.penalty(model).item()
    strength = method.strengths.pop("3.weight")
    without = method.penalty(model).item()
    assert with_it - without == pytest.approx(strength * frozen.abs().sum().item(), rel=1e-4)


def evaluation(top1):
    return Evaluation(top1, 1.0, 0.0, 10)


def test_training_goes_by_validation_and_ends_when_all_is_frozen():
    model, method = prepared()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    more = [
        # The training accuracy would tell of the opposite.
        method.end_epoch(model, optimizer, Epoch(n, 99, 1.0, 1.0 - a, 0.1, evaluation(a)))
        for n, a in enumerate(SEQUENCE[:7], start=1)
    ]
    assert more == [True] * 6 + [False]


def test_without_validation_the_training_accuracy_stands_in_and_this_is_said(caplog):
    model, method = prepared()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level(logging.WARNING, logger="sparse_ops"):
        for number, accuracy in enumerate(SEQUENCE[:7], start=1):
            more = method.end_epoch(model, optimizer, Epoch(number, 9, 1.0, accuracy, 0.1, None))
    assert not more
    assert caplog.text.count("no validation was given") == 1


def test_fit_makes_weights_smaller_by_the_strength_and_hands_validation_on():
    sizes = []
    for strength in (0.0, 0.2):
        model, seen = small_net(), []
        method = SABR(strength=strength, tolerance=1.0)
        fit(
            model,
            small_task(),
            method,
            epochs=8,
            batch_size=16,
            validation=small_task(),
            progress=False,
            on_epoch=lambda e, m=model, s=seen: s.append(float(m[3].weight.detach().abs().sum())),
        )
        sizes.append(seen[-1])
        first = small_net()[3].weight.std(unbiased=False).item() * strength
        assert method.strengths["3.weight"] == pytest.approx(first * 1.15**8, rel=1e-5)
    assert sizes[1] < 0.8 * sizes[0]


def test_dropout_is_off_during_the_run_and_back_afterwards():
    model, method = prepared()
    assert model.drop.p == 0
    method.finalize(model)
    assert model.drop.p == 0.5


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.weights = nn.Parameter(torch.tensor([1.0, 2.0]))


def test_what_has_weight_in_its_name_takes_part_only_in_the_authors_way():
    found = []
    for faithful in (False, True):
        method = SABR(faithful=faithful)
        method.prepare(Named())
        found.append(sorted(method.strengths))
    assert found == [["fc.weight"], ["fc.weight", "norm.weight", "weights"]]


def test_the_double_softmax_has_the_floor_of_the_published_curves():
    logits = torch.zeros(1, 14, dtype=torch.float64)
    logits[0, 3] = 1e4
    loss = double_softmax_cross_entropy(logits, torch.tensor([3]))
    assert loss.item() == pytest.approx(math.log(math.e + 13) - 1, rel=1e-12)
    assert loss.item() == pytest.approx(1.754824, abs=5e-7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strength": -1.0}, "strength must be 0 or more"),
        ({"increase": 0.9}, "increase must be 1 or more, got 0.9"),
        ({"decrease": 0.0}, "decrease must be 1 or more"),
        ({"patience": 0}, "patience must be 1 or more, got 0"),
        ({"theta": float("nan")}, "theta must be 0 or more, got nan"),
        ({"epsilon": -1.0}, "epsilon must be 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        SABR(**options)


# Percent of zeros in each tensor after the published cut.
VGG11_SPARSITY = [47.22, 87.81, 91.40, 93.51, 95.49, 97.25, 97.23, 98.12, 98.36, 48.55]


def test_the_published_sparsities_of_vgg11_give_its_published_macs():
    model = vgg11(14).eval()
    weights = [p for n, p in model.named_parameters() if n.endswith("weight")]
    with torch.no_grad():
        for weight, percent in zip(weights, VGG11_SPARSITY, strict=True):
            weight.fill_(1.0)
            weight.view(-1)[: round(weight.numel() * percent / 100)] = 0
        counts = count_macs(model, torch.zeros(1, 3, 128, 128))
    dense, kept = sum(c.dense for c in counts), sum(c.kept for c in counts)
    assert dense == 2_457_082_880
    assert [c.dense for c in counts][-2:] == [12_845_056, 7_168]
    assert sum(c.weights for c in counts) == 22_069_952
    assert sum(p.numel() for p in model.parameters()) == 22_073_230
    # The percentages have two decimals: half of the last one in each layer is the most they hide.
    hidden = sum(c.dense for c in counts) * 0.5e-4
    assert abs(kept - 154_399_070) <= hidden
    assert round(100 * (1 - kept / dense), 2) == 93.72
    assert round(100 * (1 - 154_399_070 / dense), 2) == 93.72
    assert abs(sum(c.nnz for c in counts) - 515_534) <= 22_069_952 * 0.5e-4


def test_the_published_macs_of_mobilenet_v2_give_its_published_reduction():
    assert round(100 * (1 - 14_339_101 / 97_811_968), 2) == 85.34
