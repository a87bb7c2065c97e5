"""Global sparse momentum, against numbers of a run of the authors' code on a tiny network."""

import copy
import logging

import pytest
import torch
from torch import nn

from sparse_ops.models import lenet5, lenet300, resnet56
from sparse_ops.training import GSM, Cosine, Dense, History, MultiStep, Settings, fit
from sparse_ops.training.magnitude import largest
from sparse_ops.training.method import Epoch

X = torch.tensor([[1.0, 2.0, -1.0]])


def tiny() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.5, -0.3, 0.2], [0.1, 0.4, -0.6]]))
        model[0].bias.copy_(torch.tensor([0.05, -0.05]))
        model[1].weight.copy_(torch.tensor([[0.7, -0.2], [-0.5, 0.3]]))
        model[1].bias.zero_()
    return model


def run(model: nn.Sequential, steps: int, nesterov: bool) -> list[torch.Tensor]:
    """Trains with lr 0.1, momentum 0.9, decay 0.01 on weights, 4 of 10 weights; gives the masks."""
    method = GSM(sparsity=0.6)
    method.prepare(model)
    optimizer = torch.optim.SGD(
        [
            {"params": [model[0].weight, model[1].weight], "weight_decay": 0.01},
            {"params": [model[0].bias, model[1].bias]},
        ],
        lr=0.1,
        momentum=0.9,
        nesterov=nesterov,
    )
    active = []
    for _ in range(steps):
        optimizer.zero_grad()
        (model(X) * torch.tensor([0.3, -0.4])).sum().backward()
        method.after_backward(model)
        active.append(torch.cat([layer.weight.grad.flatten() != 0 for layer in model]).int())
        optimizer.step()
    return active


def assert_values(model: nn.Sequential, wf, bf, wo, bo) -> None:
    for parameter, expected in (
        (model[0].weight, wf),
        (model[0].bias, bf),
        (model[1].weight, wo),
        (model[1].bias, bo),
    ):
        if expected is not None:
            torch.testing.assert_close(
                parameter.detach().flatten(), torch.tensor(expected), rtol=0, atol=1e-6
            )


# After 1, 2 and 3 steps: first weight, first bias, second weight, second bias.
PLAIN = (
    (
        [0.4585, -0.3817, 0.1998, 0.0999, 0.4356, -0.5994],
        [0.009, -0.032],
        [0.6993, -0.1998, -0.4995, 0.3577],
        [-0.03, 0.04],
    ),
    (
        [0.37973249, -0.53676629, 0.19942020, 0.09971010, 0.50780845, -0.59826064],
        [-0.068859, 0.004502],
        [0.69797069, -0.19942020, -0.49855050, 0.47081232],
        [-0.087, 0.116],
    ),
    (
        [0.30846199, -0.75755149, 0.19887896, 0.09943948, 0.62191838, -0.59663689],
        [-0.17981324, 0.06216890],
        [0.72493875, -0.19887896, -0.49719739, 0.64086616],
        [-0.1683, 0.2244],
    ),
)
NESTEROV = (
    (
        [0.42115, -0.45523, 0.19962, 0.09981, 0.46764, -0.59886],
        [-0.0279, -0.0158],
        [0.69867, -0.19962, -0.49905, 0.40963],
        [-0.057, 0.076],
    ),
    (
        [0.30898282, -0.67604607, 0.19907872, 0.09953936, 0.58060795, -0.59723622],
        None,
        [0.69677550, -0.19907872, -0.49769679, 0.57856816],
        None,
    ),
)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_plain_momentum_takes_the_steps_of_the_authors_code(steps):
    model = tiny()
    active = run(model, steps, nesterov=False)
    assert_values(model, *PLAIN[steps - 1])
    expected = [[1, 1, 0, 0, 1, 0, 0, 0, 0, 1]] * 2 + [[0, 1, 0, 0, 1, 0, 1, 0, 0, 1]]
    assert [mask.tolist() for mask in active] == expected[:steps]


@pytest.mark.parametrize("steps", [1, 2])
def test_nesterov_momentum_takes_the_steps_of_the_authors_code(steps):
    model = tiny()
    run(model, steps, nesterov=True)
    assert_values(model, *NESTEROV[steps - 1])


@pytest.mark.parametrize(
    ("lr", "momentum", "decay", "nesterov", "steps", "left"),
    [
        (5e-3, 0.98, 1e-4, False, 100, 0.99856306),
        (5e-3, 0.98, 1e-4, False, 1000, 0.97647885),
        (5e-3, 0.98, 1e-4, False, 10000, 0.77951658),
        # Without momentum there is next to no decay.
        (5e-3, 0.0, 1e-4, False, 10000, 0.99501248),
        (1e-2, 0.99, 5e-4, True, 100, 0.98114577),
        (1e-2, 0.99, 5e-4, True, 1000, 0.62421332),
        (1e-2, 0.99, 5e-4, True, 10000, 0.00541812),
        (1e-2, 0.99, 5e-4, False, 100, 0.98145437),
        (1e-2, 0.99, 5e-4, False, 1000, 0.62439774),
        (1e-2, 0.99, 5e-4, False, 10000, 0.00540551),
    ],
)
def test_a_weight_that_never_learns_decays_as_fast_as_computed(
    lr, momentum, decay, nesterov, steps, left
):
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    weight.grad = torch.zeros_like(weight)
    optimizer = torch.optim.SGD(
        [weight], lr=lr, momentum=momentum, weight_decay=decay, nesterov=nesterov, foreach=False
    )
    for _ in range(steps):
        optimizer.step()
    assert weight.item() == pytest.approx(left, abs=1e-7)


@pytest.mark.parametrize(
    ("settings", "schedule", "per_epoch", "epochs", "left"),
    [
        (Settings(5e-3, 0.98, 1e-4), MultiStep((400, 500), warm_up=5), 781, 600, 3.40e-4),
        (GSM.settings, MultiStep((160, 200, 240), warm_up=5), 234, 280, 2.17e-9),
    ],
    ids=["resnet56", "lenet"],
)
def test_over_the_authors_whole_schedules_almost_nothing_is_left(
    settings, schedule, per_epoch, epochs, left
):
    w, z = 1.0, 0.0
    for step in range(per_epoch * epochs):
        decay = settings.weight_decay * w
        z = settings.momentum * z + decay
        moved = decay + settings.momentum * z if settings.nesterov else z
        w -= settings.lr * schedule.factor(step, per_epoch, epochs) * moved
    assert w == pytest.approx(left, rel=2e-3)


@pytest.mark.parametrize(
    ("nesterov", "steps", "edge"),
    [(False, 1, 0.144), (False, 2, 0.17687103), (False, 3, 0.20145096), (True, 2, 0.17234342)],
)
def test_the_threshold_of_a_step_is_that_of_the_authors_code(nesterov, steps, edge):
    model = tiny()
    before = run(model, steps - 1, nesterov) if steps > 1 else []
    assert len(before) == steps - 1
    model.zero_grad()
    loss = (model(X) * torch.tensor([0.3, -0.4])).sum()
    loss.backward()
    parts = [(layer.weight.grad * layer.weight.detach()).abs().flatten() for layer in model]
    scores = torch.cat(parts)
    active = scores >= scores.sort(descending=True).values[3]
    method = GSM(sparsity=0.6)
    method.prepare(model)
    method.after_backward(model)
    learning = torch.cat([layer.weight.grad.flatten() != 0 for layer in model])
    assert torch.equal(learning, active)
    assert float(scores[learning].min()) == pytest.approx(edge, abs=1e-6)
    if steps == 1:
        assert loss.item() == pytest.approx(-0.3635, abs=1e-6)
        expected = [0.205, 0.246, 0.082, 0.018, 0.144, 0.108, 0.0525, 0.087, 0.05, 0.174]
        assert scores.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_gradients_of_the_first_step_are_those_of_the_authors_code():
    model = tiny()
    (model(X) * torch.tensor([0.3, -0.4])).sum().backward()
    expected = {
        "0.weight": [0.41, 0.82, -0.41, -0.18, -0.36, 0.18],
        "0.bias": [0.41, -0.18],
        "1.weight": [-0.075, 0.435, 0.1, -0.58],
        "1.bias": [0.3, -0.4],
    }
    for name, values in expected.items():
        assert model.get_parameter(name).grad.flatten().tolist() == pytest.approx(values, abs=1e-6)
    method = GSM(sparsity=0.6)
    method.prepare(model)
    method.after_backward(model)
    # Biases learn always.
    for name in ("0.bias", "1.bias"):
        assert model.get_parameter(name).grad.tolist() == pytest.approx(expected[name], abs=1e-6)


def test_fit_decays_weights_in_the_momentum_and_biases_not_at_all():
    model, expected = tiny(), tiny()
    weight, bias = model[0].weight, model[0].bias
    before = bias.detach().clone()
    # Labels that give no gradient at all: what remains is decay.
    fit(
        model,
        [(X, torch.zeros(1, dtype=torch.long))] * 3,
        GSM(sparsity=0.6),
        epochs=1,
        lr=0.1,
        weight_decay=0.01,
        momentum=0.9,
        nesterov=False,
        criterion=lambda logits, labels: logits.sum() * 0,
        progress=False,
    )
    w, z = expected[0].weight.detach().clone(), 0.0
    for _ in range(3):
        z = 0.9 * z + 0.01 * w
        w = w - 0.1 * z
    kept = weight.detach() != 0
    torch.testing.assert_close(weight.detach()[kept], w[kept], rtol=0, atol=1e-7)
    assert torch.equal(bias.detach(), before)


@pytest.mark.parametrize(
    ("make", "sparsity", "active", "kept"),
    [
        (lenet300, 1 - 1 / 60, 4436, 4437),
        (lenet5, 1 - 1 / 125, 3444, 3444),
        (lenet5, 1 - 1 / 300, 1435, 1435),
        (resnet56, 0.9, 85_150, 85_151),
        (resnet56, 0.85, 127_725, 127_726),
    ],
)
def test_as_many_weights_learn_and_stay_as_in_the_paper(make, sparsity, active, kept):
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = make()
    method = GSM(sparsity=sparsity)
    method.prepare(model)
    assert method._active == active
    masks = largest(model, sparsity)
    # Float32 weights tie now and then, and ties are all kept.
    assert kept <= sum(int(mask.sum()) for mask in masks.values()) <= kept + 3


def test_one_of_ten_weights_is_one_in_spite_of_rounding():
    model = nn.Linear(10, 1)
    method = GSM(sparsity=0.9)
    method.prepare(model)
    assert method._active == 1


def test_a_sparsity_that_leaves_no_weight_to_learn_is_refused():
    with pytest.raises(ValueError, match="leaves none to learn"):
        GSM(sparsity=0.95).prepare(nn.Linear(10, 1))


def test_ties_at_the_threshold_all_learn():
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1.0, 1.0, 0.5]]))
    model.weight.grad = torch.ones(1, 4)
    method = GSM(sparsity=0.75)
    method.prepare(model)
    method.after_backward(model)
    assert model.weight.grad.tolist() == [[1, 1, 1, 0]]


def test_steps_in_which_every_weight_learned_are_logged(caplog):
    model = nn.Linear(4, 1, bias=False)
    method = GSM(sparsity=0.5)
    method.prepare(model)
    model.weight.grad = torch.tensor([[1.0, 0, 0, 0]])
    method.after_backward(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level(logging.INFO, logger="sparse_ops"):
        method.end_epoch(model, optimizer, Epoch(3, 4, 1.0, 0.5, 0.1, None))
    assert "epoch 3: every weight learned in 1 steps" in caplog.text


class OneAfterTheOther:
    """Batches that are others in each epoch."""

    def __init__(self, epochs, labels):
        self.epochs, self.labels = iter(epochs), labels

    def __iter__(self):
        return iter([(batch, self.labels) for batch in next(self.epochs)])


def test_the_active_share_is_the_mean_over_an_epoch_of_the_weights_that_learned():
    """Beside a training with masks from a sort, step by step."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(3)
        x = torch.randn(4, 8, 6)
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    labels = torch.arange(8) % 2
    # Without input the 30 weights of the first layer have no gradient: too few are above zero.
    blank = torch.zeros(8, 6)
    epochs = [[*x], [x[0], blank, x[1], blank], [blank] * 4]
    beside = copy.deepcopy(model)
    optimizer = torch.optim.SGD(beside.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    expected = []
    for batches in epochs:
        learned = 0
        for batch in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(beside(batch), labels).backward()
            weights = beside[0].weight, beside[2].weight
            scores = torch.cat([(w.detach() * w.grad).abs().flatten() for w in weights])
            cut = sorted(scores.tolist(), reverse=True)[15 - 1]
            for weight in weights:
                active = (weight.detach() * weight.grad).abs() >= cut
                weight.grad *= active
                learned += int(active.sum())
            optimizer.step()
        expected.append(learned / (4 * 40))
    assert expected == [15 / 40, (15 + 40) / 80, 1.0]
    history, source = History(), OneAfterTheOther(epochs, labels)
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "nesterov": False}
    method = GSM(sparsity=1 - 15 / 40)
    arguments = {"decay_all": True, "progress": False, "history": history}
    fit(model, source, method, epochs=3, **settings, **arguments)
    assert [row.figures["active"] for row in history.rows] == expected


def test_the_cut_takes_almost_nothing_away():
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 2))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 20, generator=generator)
    data = [(x, (x[:, 0] > 0).long())] * 100

    def removable(epoch: Epoch) -> None:
        """The share of the smallest 90 % of the weights in the sum of all squares."""
        squares = torch.cat([model[i].weight.detach().square().flatten() for i in (0, 2)])
        shares.append(float(squares.sort().values[: int(660 * 0.9)].sum() / squares.sum()))

    shares: list[float] = []
    fit(model, data, Dense(), epochs=3, progress=False, on_epoch=removable)
    fit(
        model,
        data,
        GSM(sparsity=0.9),
        epochs=15,
        weight_decay=5e-3,
        schedule=Cosine(),
        progress=False,
        on_epoch=removable,
    )
    assert shares[2] > 0.1
    assert shares[-1] < 0.01
