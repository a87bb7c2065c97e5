"""What weight decay leaves of a weight, against the optimizer and the published schedules."""

import logging

import pytest
import torch

from sparse_ops.training import GSM, Cosine, MultiStep, fit
from sparse_ops.training.decay import least_decay, left_over
from sparse_ops.training.schedules import Course
from tests.training.small import small_net, small_task


def resting(rates, momentum: float, decay: float, nesterov: bool, begin: int) -> float:
    """|w| after torch's own steps from `begin` on, without a gradient."""
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.SGD(
        [weight], lr=1.0, momentum=momentum, weight_decay=decay, nesterov=nesterov
    )
    for rate in [rate for rate, count in rates for _ in range(count)][begin:]:
        weight.grad = torch.zeros_like(weight)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return abs(float(weight.detach()))


@pytest.mark.parametrize("nesterov", [False, True])
def test_what_is_left_is_what_the_optimizer_leaves_from_the_worst_early_step_on(nesterov):
    course = Course(10, 20, MultiStep((5, 8), warm_up=0.5))
    rates = course.rates(0.05)
    assert sum(count for _, count in rates) == 200
    for decay in (5e-3, 0.1, 1.0):
        found = left_over(rates, 0.9, decay, nesterov)
        starts = [resting(rates, 0.9, decay, nesterov, begin) for begin in range(0, 21, 2)]
        assert found == pytest.approx(max(starts), rel=0.02), decay
        assert found >= max(starts) * (1 - 1e-9)


@pytest.mark.parametrize(
    ("settings", "steps", "left"),
    [
        # A weight at rest, by the authors' code: ResNet-56 and LeNet settings at their first rate.
        ((0.98, 1e-4, False, 5e-3), 1000, 0.97647885),
        ((0.99, 5e-4, True, 1e-2), 1000, 0.62421332),
        ((0.99, 5e-4, True, 1e-2), 10000, 0.00541812),
    ],
)
def test_weights_at_rest_decay_as_the_authors_do(settings, steps, left):
    momentum, decay, nesterov, rate = settings
    # From the very first step: of a longer run that is the start that leaves least.
    found = left_over([(rate, steps)], momentum, decay, nesterov)
    assert found == pytest.approx(left, rel=1e-6)


def test_the_published_schedules_leave_next_to_nothing():
    lenet = Course(280, 234, MultiStep((160, 200, 240), warm_up=5)).rates(1e-2)
    resnet = Course(600, 781, MultiStep((400, 500), warm_up=5)).rates(5e-3)
    # 2.2e-9 and 3.4e-4 from the first step on; here from a tenth of them on, at the latest.
    assert 2e-9 < left_over(lenet, 0.99, 5e-4, True) < 1e-7
    assert 3e-4 < left_over(resnet, 0.98, 1e-4, False) < 2e-3


def test_the_least_decay_is_enough_and_a_tenth_less_is_not():
    rates = Course(28, 40, MultiStep((16, 20, 24))).rates(0.1)
    decay = least_decay(rates, 0.9, True, goal=1e-3, begin=5e-4)
    assert left_over(rates, 0.9, decay, True) <= 1e-3 < left_over(rates, 0.9, decay / 1.1, True)
    # In ten steps nothing is enough: what leaves least is taken.
    few = [(0.1, 10)]
    most = least_decay(few, 0.9, True, goal=1e-3, begin=5e-4)
    assert 1e-3 < left_over(few, 0.9, most, True) < left_over(few, 0.9, 5e-4, True)


@pytest.mark.parametrize("schedule", [None, Cosine(), MultiStep((1,), warm_up=0.5)])
@pytest.mark.parametrize(("epochs", "steps"), [(3, 7), (40, 300), (0, 7), (3, None)])
def test_a_course_has_all_the_steps_of_the_run(schedule, epochs, steps):
    rates = Course(epochs, steps, schedule).rates(0.1, parts=50)
    assert sum(count for _, count in rates) == epochs * (steps or 0)
    assert len(rates) <= 50 and all(0 <= rate <= 0.1 for rate, _ in rates)


def test_gsm_says_before_it_begins_what_an_inactive_weight_decays_to(caplog):
    def begin(**more) -> tuple[GSM, list[logging.LogRecord]]:
        caplog.clear()
        method = GSM(sparsity=0.9)
        settings = {"lr": 0.1, "momentum": 0.9, "epochs": 2, "batch_size": 10, "progress": False}
        with caplog.at_level(logging.INFO, "sparse_ops"):
            fit(small_net(), small_task(), method, **(settings | more))
        return method, [r for r in caplog.records if "inactive weight" in r.getMessage()]

    method, (record,) = begin(weight_decay=5e-4)
    assert record.levelno == logging.WARNING
    assert "in the 12 steps of this run, which is more than 0.01" in record.getMessage()
    assert method.findings()["inactive_weights_decay_to"] == method.left_over
    assert 0.99 < method.left_over == left_over([(0.1, 1)] * 12, 0.9, 5e-4, True)
    # Enough decay, and it is no warning any more.
    method, (record,) = begin(weight_decay=0.05, epochs=60)
    assert record.levelno == logging.INFO and method.left_over < 1e-2


def test_gsm_says_how_many_weights_took_turns(caplog):
    """Two of eight weights learn at a step: the first column's and the second's by turns."""
    model, method = torch.nn.Linear(4, 2, bias=False), GSM(sparsity=0.75)
    first, second = torch.eye(4)[0], torch.eye(4)[1]
    data = [(x[None], torch.tensor([label])) for label, x in enumerate((first, second))] * 100
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2, "progress": False}
    with caplog.at_level(logging.INFO, "sparse_ops"):
        masks = fit(model, data, method, epochs=2, **settings)
    assert method.findings()["weights_not_decayed"] == 4
    assert sum(int(mask.sum()) for mask in masks.values()) == 2
    assert "4 weights have not decayed, and the cut keeps 2" in caplog.text


def test_gsm_warns_of_an_optimizer_under_which_weights_may_not_decay(caplog):
    with caplog.at_level(logging.WARNING, "sparse_ops"):
        fit(
            *(small_net(), small_task(), GSM()),
            epochs=1,
            progress=False,
            optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3),
        )
    assert "GSM is for torch.optim.SGD, got AdamW" in caplog.text
