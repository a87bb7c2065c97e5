"""Validation that is evaluated after each so many epochs, and after the last."""

import csv
from dataclasses import replace

import pytest
import torch

from sparse_ops.training import (
    SABR,
    Cosine,
    Dense,
    History,
    HyperSparse,
    Magnitude,
    Plateau,
    fit,
)
from sparse_ops.training.recipes import read, run, with_evaluation, with_schedule
from tests.training.small import small_net, small_task
from tests.training.test_recipe_files import images

SMALL = {"data.name": "fashion-mnist-subset", "data.batch_size": 16, "data.validation": 0.5}


class Interrupted(Exception):
    pass


class Enough(Dense):
    """Ends after the fourth epoch."""

    def end_epoch(self, model, optimizer, epoch):
        return epoch.number < 4


def learn(every, method=None, **more):
    """The network and what happened in six epochs, or as many as are said."""
    model, history = small_net(), History()
    arguments = {"epochs": 6, "batch_size": 20, "progress": False, "validation": small_task(9)}
    arguments |= {"evaluate_every": every, "history": history} | more
    fit(model, small_task(), method or Dense(), **arguments)
    return model, history


def evaluated(history):
    return [row.epoch for row in history.rows if row.top1 is not None]


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (4, [4, 6]), (9, [6])]
)
def test_each_nth_epoch_and_the_last_are_evaluated_and_nothing_else_changes(every, expected):
    method = Magnitude(sparsity=0.5, begin=1, end=4)
    (often, whole), (rarely, some) = (learn(n, replace(method)) for n in (1, every))
    assert evaluated(some) == expected and some.evaluations == len(expected)
    for name, value in often.state_dict().items():
        assert torch.equal(rarely.state_dict()[name], value), name
    for one, other in zip(whole.rows, some.rows, strict=True):
        assert one.loss == other.loss
        found = (other.top1, other.top5, other.validation_loss)
        known = (one.top1, one.top5, one.validation_loss)
        assert found == (known if other.epoch in expected else (None, None, None))


def test_between_evaluations_log_lines_and_what_is_told_have_none(tmp_path, capsys):
    seen = []
    learn(2, epochs=3, log=tmp_path / "log.csv", on_epoch=seen.append, progress=True)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("top1", "top5", "validation_loss"):
        assert [row[name] != "" for row in rows] == [False, True, True]
    assert [epoch.validation is not None for epoch in seen] == [False, True, True]
    lines = capsys.readouterr().err.splitlines()
    assert ["held-out" in line for line in lines] == [False, True, True]
    assert all("% right" in line for line in lines)


def test_the_last_epoch_is_evaluated_where_a_method_ends_the_run():
    seen = []
    _, history = learn(3, Enough(), epochs=9, on_epoch=seen.append)
    assert evaluated(history) == [3, 4]
    assert seen[-1].validation.top1 == history.last.top1
    # ART goes by the training data, and so is not kept from anything.
    method = HyperSparse(sparsity=0.5, warm_up=1, max_epochs=1, fine_tune=2, drops=())
    _, history = learn(3, method, epochs=9, lr=0.01)
    assert evaluated(history) == [3, 4]


def test_a_run_goes_on_between_two_evaluations(tmp_path):
    def stop(epoch):
        if epoch.number == 4:
            raise Interrupted

    file = tmp_path / "run.pt"
    with pytest.raises(Interrupted):
        learn(5, checkpoint=file, on_epoch=stop)
    (whole, rows), (parts, others) = learn(5), learn(5, checkpoint=file)
    assert torch.equal(whole[3].weight, parts[3].weight)
    assert evaluated(rows) == evaluated(others) == [5, 6]
    assert [row.top1 for row in rows.rows] == [row.top1 for row in others.rows]
    # How often is no part of what the run is.
    assert evaluated(learn(1, checkpoint=file)[1]) == [5, 6]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"method": SABR()}, "evaluate_every must be 1 with SABR, for which every epoch"),
        ({"schedule": Plateau()}, "evaluate_every must be 1 with Plateau, .* got 2"),
        ({"method": SABR(), "schedule": Plateau()}, "with SABR and Plateau"),
        ({"validation": None}, "evaluate_every is 2, and there is no validation"),
        ({"every": 0}, "evaluate_every must be 1 or more, got 0"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(more, words):
    with pytest.raises(ValueError, match=words):
        learn(**({"every": 2} | more))


def test_the_mean_is_of_the_last_evaluations_that_there_were():
    _, history = learn(2)
    top1 = [history.rows[i].top1 for i in (1, 3, 5)]
    assert history.mean_top1() == pytest.approx(sum(top1) / 3)
    assert history.mean_top1(2) == pytest.approx(sum(top1[1:]) / 2)
    history.rows[:] = [replace(row, top1=None) for row in history.rows]
    with pytest.raises(ValueError, match="no evaluation"):
        history.mean_top1()


def test_a_phase_begins_with_the_best_weights_that_were_evaluated(tmp_path):
    changes = {"base.epochs": 5, "gsm.epochs": 0, "gsm.from_best": True, "base.evaluate_every": 2}
    recipe, seen, begun = read("gsm-lenet300-60x", SMALL | changes), {}, {}

    def watch(phase, model, epoch):
        assert (epoch.validation is None) == (epoch.number in (1, 3))
        if epoch.validation is not None:
            seen[epoch.number] = epoch.validation.top1, model.fc1.weight.detach().clone()

    def begins(phase, model):
        begun[phase.name] = model.fc1.weight.detach().clone()

    # A file of another run, whose top-1 is out of reach.
    torch.save({"top1": 2.0, "epoch": 1, "state": {}}, tmp_path / "base.best.pt")
    arguments = {"folder": tmp_path, "on_epoch": watch, "before_cut": begins}
    _, (base, _) = run(recipe, images(), progress=False, **arguments)
    assert evaluated(base.history) == [2, 4, 5]
    best = max((2, 4, 5), key=lambda epoch: seen[epoch][0])
    assert torch.equal(begun["gsm"], seen[best][1])


def test_a_checkpoint_before_the_first_evaluation_needs_no_best_weights(tmp_path):
    changes = {"base.epochs": 3, "gsm.epochs": 0, "gsm.from_best": True, "base.evaluate_every": 3}
    recipe = read("gsm-lenet300-60x", SMALL | changes)

    def stop(phase, model, epoch):
        if epoch.number == ends.pop(0):
            raise Interrupted

    ends = [0, 2, 0, 3]
    for _ in range(2):
        with pytest.raises(Interrupted):
            run(recipe, images(), folder=tmp_path, progress=False, on_epoch=stop)
    # Killed between the best weights and the checkpoint, it learns that epoch again.
    assert (tmp_path / "base.best.pt").is_file()
    run(recipe, images(), folder=tmp_path, progress=False)
    (tmp_path / "base.best.pt").unlink()
    with pytest.raises(ValueError, match=r"base\.best\.pt is not"):
        run(recipe, images(), folder=tmp_path, progress=False)


def test_a_recipe_refuses_what_fit_would_refuse_later():
    every = {"base.evaluate_every": 5}
    assert read("magnitude-lenet300-60x", SMALL | every).phases[0].evaluate_every == 5
    watched = read("sabr-vgg11-hg14", {"data.validation": 0.1})
    for make, words in (
        (lambda: read("sabr-vgg11-hg14", {"sabr.evaluate_every": 5}), "sabr: evaluate_every must"),
        (lambda: read("gsm-lenet300-60x", every), "evaluate_every of base needs data.validation"),
        (lambda: read("gsm-lenet300-60x", {"base.evaluate_every": 2.5}), "a whole number of 1 or"),
        (lambda: with_evaluation(watched, 2), "base: evaluate_every must be 1 with Plateau"),
        (lambda: with_evaluation(watched, 0), "evaluate_every must be 1 or more, got 0"),
        (lambda: with_evaluation(read("gsm-lenet300-60x"), 2), "needs data.validation to evaluate"),
        (
            lambda: with_schedule(read("gsm-lenet300-60x", SMALL | every), "plateau"),
            "base: evaluate_every must be 1 with Plateau",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_what_was_given_for_a_phase_is_kept_under_another_interval():
    recipe = read("gsm-lenet300-60x", SMALL | {"base.evaluate_every": 5})
    phases = with_evaluation(recipe, 10, {"base.evaluate_every"}).phases
    assert [phase.evaluate_every for phase in phases] == [5, 10]
    assert all(phase.arguments()["evaluate_every"] in (5, 10) for phase in phases)
    assert phases[0].make_schedule() != Cosine()
