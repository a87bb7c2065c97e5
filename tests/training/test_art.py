"""ART: its masks and its best copy against the authors' code, and its phases in `fit`."""

import logging

import pytest
import torch
from torch import nn

from sparse_ops.masks import prunable
from sparse_ops.training import Dense, Epoch, HyperSparse, MultiStep, fit
from sparse_ops.training.art import better, forget_, larger
from sparse_ops.training.method import share
from tests.training.small import OPTIMIZERS, ConvAndLinear, small_net, small_task


@pytest.mark.parametrize(("sparsity", "kept"), [(0.8, [-1.0]), (0.5, [0.5, -0.4, 0.8, -1.0])])
def test_the_mask_keeps_what_is_above_the_threshold(sparsity, kept):
    model = ConvAndLinear()
    masks = larger(model, sparsity)
    values = [model.get_parameter(name).detach()[mask] for name, mask in masks.items()]
    assert torch.cat(values).tolist() == kept


def test_of_ten_weights_a_sparsity_of_nine_tenths_keeps_none_and_is_refused():
    model = ConvAndLinear()
    assert not any(bool(mask.any()) for mask in larger(model, 0.9).values())
    with pytest.raises(ValueError, match="leaves none"):
        HyperSparse(sparsity=0.9).prepare(model)


@pytest.mark.parametrize(("sparsity", "kept"), [(0, 899), (0.5, 449), (0.9, 89), (0.98, 17)])
def test_as_many_of_900_weights_are_kept_as_by_the_authors_code(sparsity, kept):
    model = nn.Linear(30, 30, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randperm(900).view(30, 30) + 1)
    (mask,) = larger(model, sparsity).values()
    assert int(mask.sum()) == kept
    # Cut again, it stays as it is: its zeros are not above zero.
    with torch.no_grad():
        model.weight.mul_(mask)
    assert torch.equal(larger(model, sparsity)["weight"], mask)


@pytest.mark.parametrize(
    ("total", "kept"),
    [
        (1_855_584, {0.9: 185558, 0.98: 37111, 0.995: 9277, 0.998: 3711}),
        (20_024_000, {0.9: 2002399, 0.98: 400479, 0.995: 100119, 0.998: 40047}),
    ],
)
def test_the_counts_of_the_published_networks(total, kept):
    assert {s: total - share(total, s) - 1 for s in kept} == kept


TRACE = (50, 60, 70, 65, 80, 90, 91)
DENSE = (95, 94, 93, 92, 88, 85, 80.5)


@pytest.mark.parametrize(
    ("faithful", "expected"),
    [
        (
            True,
            [
                (1, 50, 50),
                (2, 60, 55),
                (2, 60, 55),
                (3, 70, 65),
                (4, 65, 71.6667),
                (5, 80, 78.3333),
                (6, 90, 87),
            ],
        ),
        # Means with means, by hand: each is above the one before it here.
        (
            False,
            [
                (1, 50, 50),
                (2, 60, 55),
                (2, 60, 60),
                (3, 70, 65),
                (4, 65, 71.6667),
                (5, 80, 78.3333),
                (6, 90, 87),
            ],
        ),
    ],
)
def test_the_best_copy_after_each_epoch_of_art(faithful, expected):
    recent, best, ended = [], None, []
    for number, accuracy in enumerate(TRACE, start=1):
        recent.append(
            {"epoch": number, "accuracy": accuracy, "mean": accuracy, "state": {}, "masks": {}}
        )
        recent = recent[-3:]
        best = better(best, recent, 1, faithful)
        found = (best["epoch"], best["accuracy"], round(best["mean"], 4))
        assert found == expected[number - 1]
        ended.append(best["mean"] > DENSE[number - 1])
    assert ended == [False] * 6 + [True]


def test_a_worse_mean_replaces_the_best_only_in_the_authors_way():
    best = {"epoch": 2, "accuracy": 40.0, "mean": 60.0, "state": {}, "masks": {}}
    recent = [{**best, "epoch": n, "accuracy": 50.0, "mean": 50.0} for n in (3, 4, 5)]
    assert better(best, recent, 1, faithful=True)["epoch"] == 4
    assert better(best, recent, 1, faithful=False)["epoch"] == 2


@pytest.mark.parametrize(
    ("epochs", "strength"),
    [
        (0, 5e-6),
        (10, 8.1445e-6),
        (20, 1.32665e-5),
        (40, 3.51999e-5),
        (60, 9.33959e-5),
        (80, 2.47807e-4),
        (100, 6.57506e-4),
    ],
)
def test_the_penalty_grows_as_published(epochs, strength):
    method = HyperSparse(warm_up=0)
    method.prepare(small_net())
    method._done = epochs
    assert method.alpha == pytest.approx(strength, rel=1e-5)


class Judged(HyperSparse):
    """Is told that the uncut model has another accuracy than it has: 2 is never surpassed."""

    uncut = 2.0

    def end_epoch(self, model, optimizer, epoch):
        told = Epoch(epoch.number, epoch.epochs, epoch.loss, self.uncut, epoch.lr, None)
        return super().end_epoch(model, optimizer, told)


def run(method, epochs, **more):
    """Trains the small network; what was seen after each epoch: (phase, lr, zeros of weights)."""
    seen = []
    model = small_net()

    def look(epoch):
        flat = torch.cat([weight.detach().flatten() for weight in prunable(model).values()])
        seen.append((method.phase, epoch.lr, int((flat == 0).sum())))

    arguments = {"batch_size": 16, "progress": False, "lr": 0.05, "on_epoch": look}
    masks = fit(model, small_task(), method, epochs=epochs, **(arguments | more))
    return model, masks, seen


def test_the_phases_follow_each_other_and_training_ends_by_itself():
    method = Judged(sparsity=0.5, warm_up=2, fine_tune=4, drops=(1, 3), max_epochs=3, strength=0.0)
    _, masks, seen = run(method, 50)
    phases = [phase for phase, _, _ in seen]
    assert phases == ["warm-up", "ART", "ART", "ART", "fine-tune"] + ["fine-tune"] * 4
    rates = [lr for _, lr, _ in seen]
    assert rates == pytest.approx([0.05] * 6 + [0.005] * 2 + [0.0005])
    removed = sum(int((~mask).sum()) for mask in masks.values())
    assert [zeros for _, _, zeros in seen] == [0] * 4 + [removed] * 5
    assert removed == 636 + 1  # of 1272 weights, and the one at the threshold


def test_art_ends_when_the_cut_model_is_better_than_the_uncut():
    method = Judged(sparsity=0.5, warm_up=1, fine_tune=1, max_epochs=50)
    method.uncut = -1.0
    _, _, seen = run(method, 50)
    assert [phase for phase, _, _ in seen] == ["ART", "fine-tune", "fine-tune"]


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "adagrad"])
def test_fine_tuning_begins_with_the_best_copy_and_a_new_optimizer(optimizer):
    makers = OPTIMIZERS | {"adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.01)}
    checked = []

    class Checking(Judged):
        def _take_best(self, model, optimizer):
            best = self._best
            # The last one of three is not the middle one of any three.
            assert best["epoch"] < 3 and len(self._recent) == 3
            super()._take_best(model, optimizer)
            for name, value in model.state_dict().items():
                assert torch.equal(value, best["state"][name])
            for state in optimizer.state.values():
                tensors = [v for v in state.values() if isinstance(v, torch.Tensor)]
                assert not any(bool(tensor.any()) for tensor in tensors)
            assert self.masks is not best["masks"]
            assert all(torch.equal(self.masks[n], m) for n, m in best["masks"].items())
            checked.append(best["epoch"])

    method = Checking(sparsity=0.5, warm_up=1, fine_tune=1, max_epochs=3)
    run(method, 50, optimizer=makers[optimizer], lr=None)
    assert len(checked) == 1


def test_a_run_that_is_too_short_is_cut_at_its_end_and_says_so(caplog):
    with caplog.at_level(logging.WARNING, logger="sparse_ops"):
        _, masks, _ = run(HyperSparse(sparsity=0.5), 2)
    assert "ended in epoch 2 of warm-up" in caplog.text
    assert sum(int(mask.sum()) for mask in masks.values()) == 1272 - 636 - 1


def test_a_run_that_ends_within_art_takes_the_best_copy():
    method = Judged(sparsity=0.5, warm_up=1, strength=0.0, half_buffer=0)
    _, masks, seen = run(method, 3)
    assert seen[-1][0] == "ART"
    assert sum(int(mask.sum()) for mask in masks.values()) == 1272 - 636 - 1


@pytest.mark.parametrize("loss", ["hypersparse", "l1", "l2"])
def test_each_loss_makes_the_small_weights_smaller(loss):
    small = []
    for strength in (0.0, 0.05):
        method = HyperSparse(
            sparsity=0.5, warm_up=0, strength=strength, growth=1.0, loss=loss, max_epochs=99
        )
        model = small_net()
        method.see_data([])
        method.prepare(model)
        assert method.phase == "ART"
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        task = small_task()
        for _ in range(30):
            optimizer.zero_grad()
            result = nn.functional.cross_entropy(model(task.images), task.labels)
            if (penalty := method.penalty(model)) is not None:
                result = result + penalty
            result.backward()
            method.after_backward(model)
            optimizer.step()
        flat = torch.cat([weight.detach().flatten() for weight in prunable(model).values()])
        small.append(float(flat.abs().sort().values[:636].sum()))
    assert small[1] < 0.9 * small[0]


def test_only_the_authors_way_decays_biases_and_batch_norm():
    for faithful in (True, False):
        groups = []
        method = HyperSparse(sparsity=0.5, faithful=faithful)
        method.end_epoch = lambda model, optimizer, epoch, out=groups: out.extend(
            (len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups
        )
        run(method, 1)
        assert groups == ([(7, 1e-4)] if faithful else [(3, 1e-4), (4, 0.0)])


def test_a_schedule_of_the_caller_overrules_the_drops():
    method = HyperSparse(sparsity=0.5, warm_up=1, fine_tune=3, drops=(1,), max_epochs=1)
    _, _, seen = run(method, 9, schedule=MultiStep((99,)))
    assert {lr for _, lr, _ in seen} == {0.05}


def test_without_its_data_art_says_what_is_missing():
    method = HyperSparse(sparsity=0.5, warm_up=0)
    model = small_net()
    method.prepare(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="see_data"):
        method.end_epoch(model, optimizer, Epoch(1, 1, 1.0, 0.5, 0.1, None))


def test_an_optimizer_that_has_forgotten_takes_its_first_step_again():
    makers = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad)
    for make in makers:
        more = {"momentum": 0.9} if make is torch.optim.SGD else {}
        w = torch.ones(3, requires_grad=True)
        optimizer = make([w], lr=0.1, **more)
        ends = []
        for _ in range(2):
            with torch.no_grad():
                w.fill_(1.0)
            for _ in range(3):
                w.grad = torch.tensor([1.0, -2.0, 0.5])
                optimizer.step()
            ends.append(w.detach().clone())
            forget_(optimizer)
        assert torch.equal(*ends), make


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"warm_up": -1}, "warm_up must be 0 or more, got -1"),
        ({"fine_tune": -1}, "fine_tune must be 0"),
        ({"half_buffer": -1}, "half_buffer"),
        ({"max_epochs": 0}, "max_epochs must be 1 or more, got 0"),
        ({"growth": 0.0}, "growth above 0"),
        ({"strength": -1.0}, "strength must be 0"),
        ({"loss": "l3"}, "hypersparse, l1 or l2, got 'l3'"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        HyperSparse(**options)


def test_plain_training_and_the_warm_up_are_the_same():
    models = []
    for method in (Dense(), HyperSparse(sparsity=0.5)):
        model = small_net()
        states = []
        fit(
            model,
            small_task(),
            method,
            epochs=2,
            lr=0.05,
            weight_decay=1e-4,
            batch_size=16,
            progress=False,
            on_epoch=lambda epoch, m=model, s=states: s.append(m[3].weight.detach().clone()),
        )
        models.append(states)
    assert torch.equal(models[0][1], models[1][1])
