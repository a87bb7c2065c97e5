"""The loop around the methods: what it refuses, what it leaves alone, what it reports."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sparse_ops.data import Dataset, Split, batches
from sparse_ops.training import (
    Cosine,
    Dense,
    Epoch,
    Magnitude,
    MultiStep,
    Settings,
    SparsityMethod,
    fit,
)
from tests.training.small import small_net, small_task


def test_dense_training_learns_and_masks_nothing():
    model, seen = small_net(), []
    masks = fit(
        model, small_task(), Dense(), epochs=20, batch_size=16, progress=False, on_epoch=seen.append
    )
    assert masks == {}
    assert [epoch.number for epoch in seen] == list(range(1, 21))
    assert seen[-1].loss < seen[0].loss
    assert seen[-1].accuracy > 0.6  # chance is a third


def test_hooks_are_called_in_their_order():
    calls = []

    class Recording(SparsityMethod):
        def prepare(self, model):
            calls.append("prepare")

        def penalty(self, model):
            calls.append("penalty")

        def after_backward(self, model):
            calls.append("after_backward")

        def after_step(self, model):
            calls.append("after_step")

        def end_epoch(self, model, optimizer, epoch):
            calls.append("end_epoch")
            return True

        def finalize(self, model):
            calls.append("finalize")
            return {}

    fit(small_net(), small_task(), Recording(), epochs=1, batch_size=30, progress=False)
    step = ["penalty", "after_backward", "after_step"]
    assert calls == ["prepare", *step, *step, "end_epoch", "finalize"]


def test_a_method_may_end_the_training():
    class Enough(Dense):
        def end_epoch(self, model, optimizer, epoch):
            return epoch.number < 2

    seen = []
    fit(
        small_net(),
        small_task(),
        Enough(),
        epochs=9,
        progress=False,
        on_epoch=seen.append,
    )
    assert len(seen) == 2


def test_a_penalty_is_part_of_the_loss():
    class Shrinking(Dense):
        def penalty(self, model):
            return 10 * model[3].weight.square().sum()

    plain, shrunk = small_net(), small_net()
    fit(plain, small_task(), Dense(), epochs=2, lr=0.01, progress=False)
    fit(shrunk, small_task(), Shrinking(), epochs=2, lr=0.01, progress=False)
    assert shrunk[3].weight.norm() < 0.9 * plain[3].weight.norm()


def test_a_method_is_told_of_the_validation():
    told = []

    class Listening(Dense):
        def end_epoch(self, model, optimizer, epoch):
            told.append(epoch.validation)
            return True

    held_out = Split(torch.zeros(5, 1, 6, 6), torch.arange(5) % 3)
    fit(small_net(), small_task(), Listening(), epochs=1, validation=held_out, progress=False)
    assert told[0].count == 5


def test_a_method_brings_its_settings_and_the_caller_overrides_them():
    found = []

    class Opinionated(Dense):
        settings = Settings(lr=0.03, momentum=0.5, weight_decay=0.1, nesterov=True)

        def end_epoch(self, model, optimizer, epoch):
            found.extend(copy.copy(group) for group in optimizer.param_groups)
            return True

    fit(small_net(), small_task(), Opinionated(), epochs=1, momentum=0.7, progress=False)
    decayed, other = found
    assert (decayed["lr"], decayed["momentum"], decayed["nesterov"]) == (0.03, 0.7, True)
    assert (decayed["weight_decay"], other["weight_decay"]) == (0.1, 0.0)
    assert all(p.dim() > 1 for p in decayed["params"])
    assert all(p.dim() == 1 for p in other["params"])


def test_parameters_without_gradient_are_left_alone():
    model = small_net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, small_task(), Dense(), epochs=1, progress=False)
    assert torch.equal(model[0].weight, before)


def test_global_random_state_and_threads_are_afterwards_what_they_were():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    fit(small_net(), small_task(), Magnitude(), epochs=1, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.tensor(1e-39) * 1 > 0  # denormals are not flushed


def test_a_data_loader_gives_the_same_result_each_time():
    task = small_task()
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        model = small_net()
        loader = DataLoader(TensorDataset(task.images, task.labels), batch_size=16, shuffle=True)
        fit(model, loader, Dense(), epochs=2, schedule=Cosine(), progress=False)
        states.append(model[3].weight.detach())
    assert torch.equal(*states)


def test_of_a_data_set_only_the_training_split_is_learned_from():
    task = small_task()
    poison = Split(torch.full((4, 1, 6, 6), float("nan")), torch.zeros(4, dtype=torch.long))
    models = [small_net(), small_net()]
    for model, data in zip(models, (task, Dataset("d", task, poison, ("a",))), strict=True):
        fit(model, data, Dense(), epochs=1, progress=False)
    assert torch.equal(models[0][3].weight, models[1][3].weight)


def test_a_schedule_sets_the_rate_of_each_step():
    rates = []

    class Looking(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    fit(
        small_net(),
        small_task(),
        Dense(),
        epochs=3,
        batch_size=30,
        optimizer=lambda groups: Looking(groups, lr=0.3),
        schedule=MultiStep((2,), warm_up=1),
        progress=False,
    )
    assert rates == pytest.approx([0, 0.15, 0.3, 0.3, 0.03, 0.03])


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0),
        (1, 2.5641e-5),
        (585, 0.015),
        (1169, 0.029974359),
        (1170, 0.03),
        (9359, 0.03),
        (9360, 0.003),
        (18720, 3e-4),
    ],
)
def test_multi_step_has_the_rates_of_the_authors_code(step, rate):
    schedule = MultiStep((40, 80, 120, 160), warm_up=5)
    assert 0.03 * schedule.factor(step, 234, 200) == pytest.approx(rate, abs=1e-9)


def test_cosine_rises_then_falls_to_almost_nothing():
    factors = [Cosine(warm_up=0.5).factor(step, 10, 3) for step in range(30)]
    assert factors[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert 0 < factors[-1] < 0.01


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MultiStep((3, 2)), "boundaries"),
        (lambda: MultiStep((-1,)), "boundaries"),
        (lambda: MultiStep((), gamma=0), "gamma"),
        (lambda: MultiStep((), warm_up=-1), "warm_up"),
        (lambda: Cosine(warm_up=-1), "warm_up"),
    ],
)
def test_schedules_out_of_range_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("data", "arguments", "words"),
    [
        ([], {}, "no batches to learn from in epoch 1"),
        (small_task(0), {}, "the split has no images"),
        (small_task(), {"epochs": -1}, "epochs must be 0 or more, got -1"),
        (small_task(), {"batch_size": 0}, "batch_size must be at least 1"),
        (iter(batches(small_task(), 16)), {}, "iterable more than once"),
        (iter(batches(small_task(), 16)), {"schedule": Cosine()}, "must have len"),
        (
            small_task(),
            {"lr": 0.1, "optimizer": lambda groups: torch.optim.SGD(groups, lr=1.0)},
            "lr cannot be given beside optimizer",
        ),
        ([(torch.zeros(2, 1, 6, 6), torch.zeros(2))], {}, r"labels \(N,\) of integers"),
        ([(torch.zeros(2, 1, 6, 6), torch.zeros(3).long())], {}, r"got \(2, 3\) for \(3,\)"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(data, arguments, words):
    with pytest.raises(ValueError, match=words):
        fit(small_net(), data, Dense(), **({"epochs": 2, "progress": False} | arguments))


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="the model has no parameters"):
        fit(nn.Flatten(), small_task(), Dense(), epochs=1, progress=False)


def test_a_model_that_is_all_frozen_is_refused():
    with pytest.raises(ValueError, match="requires a gradient"):
        model = small_net().requires_grad_(False)
        fit(model, small_task(), Dense(), epochs=1, progress=False)


def test_a_loss_that_is_no_number_ends_the_training():
    task = small_task()
    broken = Split(task.images.clone().fill_(float("inf")), task.labels)
    with pytest.raises(RuntimeError, match="the loss is nan in epoch 1"):
        fit(small_net(), broken, Dense(), epochs=2, progress=False)


def test_the_bar_is_on_the_error_stream_or_nowhere(capsys):
    fit(small_net(), small_task(), Dense(), epochs=1, progress=False)
    assert capsys.readouterr() == ("", "")
    fit(small_net(), small_task(), Dense(), epochs=1, progress=True)
    assert capsys.readouterr().out == ""


def test_an_epoch_reports_what_happened():
    seen: list[Epoch] = []
    fit(small_net(), small_task(), Dense(), epochs=2, lr=0.01, progress=False, on_epoch=seen.append)
    assert [(e.number, e.epochs, e.lr, e.validation) for e in seen] == [
        (1, 2, 0.01, None),
        (2, 2, 0.01, None),
    ]
    assert all(0 <= e.accuracy <= 1 and e.loss > 0 for e in seen)
