"""Histories of single tensors: what each epoch's masks keep, and what they are cut at."""

import csv
from itertools import pairwise

import pytest
import torch

from sparse_ops.masks import prunable
from sparse_ops.training import GSM, SABR, History, HyperSparse, Magnitude, Spred, fit
from sparse_ops.training.history import Logs
from tests.training.small import small_net, small_task
from tests.training.test_contract import make

NAMES = ["0.weight", "3.weight", "8.weight"]


def train(method, **more):
    """The masks, and the figures of each epoch."""
    history = History()
    arguments = {"epochs": 5, "batch_size": 16, "progress": False, "history": history}
    masks = fit(small_net(), small_task(), method, **(arguments | more))
    return masks, [row.figures for row in history.rows]


def of(kind, figures):
    begin = f"{kind}:"
    return {n.removeprefix(begin): v for n, v in figures.items() if n.startswith(begin)}


def shares(masks):
    return {name: float(mask.double().mean()) for name, mask in masks.items()}


def test_a_gradual_cut_tells_what_it_keeps_of_each_tensor_and_its_threshold():
    left = []

    def look(epoch):
        sizes = torch.cat([w.detach().abs().flatten() for w in prunable(model).values()])
        left.append(float(sizes[sizes > 0].min()))

    model, history = small_net(), History()
    common = {"epochs": 5, "batch_size": 16, "progress": False, "history": history}
    method = Magnitude(sparsity=0.8, begin=1, end=3)
    masks = fit(model, small_task(), method, on_epoch=look, **common)
    kept = [of("kept", row.figures) for row in history.rows]
    # begin is where the curve begins: after one epoch nothing is gone.
    assert kept[0] == dict.fromkeys(NAMES, 1.0)
    assert list(kept[-1]) == NAMES and kept[-1] == pytest.approx(shares(masks))
    for before, after in pairwise(kept):
        assert all(after[name] <= before[name] for name in NAMES)
    assert [row.figures.get("threshold") for row in history.rows] == [
        *(None, left[1], left[2]),
        # Nothing is cut any more.
        *(None, None),
    ]


def test_sabr_tells_in_each_epoch_what_its_cut_would_be():
    method = SABR(strength=0.01)
    masks, figures = train(method)
    assert len(figures) == 5
    for row in figures:
        assert list(of("threshold", row)) == list(of("kept", row)) == list(method.strengths)
    assert of("threshold", figures[0]) != of("threshold", figures[-1])
    assert of("threshold", figures[-1]) == method.findings()["thresholds"]
    assert of("kept", figures[-1]) == pytest.approx(shares(masks))


def test_gsm_tells_in_each_epoch_what_its_cut_would_be():
    model, history = small_net(), History()
    common = {"epochs": 3, "batch_size": 16, "progress": False, "history": history}
    masks = fit(model, small_task(), GSM(sparsity=0.8), **common)
    last = history.rows[-1].figures
    assert of("kept", last) == pytest.approx(shares(masks))
    sizes = torch.cat([w.detach().abs().flatten() for w in prunable(model).values()])
    assert last["threshold"] == float(sizes[sizes > 0].min())


def test_art_tells_of_its_cut_copies_and_then_of_its_masks():
    method = HyperSparse(sparsity=0.5, warm_up=1, fine_tune=2, max_epochs=2, strength=1e-4)
    masks, figures = train(method)
    phases = [row["phase"] for row in figures]
    assert phases[0] == "warm-up" and phases[-2:] == ["fine-tune"] * 2
    for row in figures:
        kept = of("kept", row)
        assert list(kept) == ([] if row["phase"] == "warm-up" else NAMES)
        assert ("threshold" in row) == (row["phase"] == "ART")
        assert row.get("threshold", 1.0) > 0
    assert of("kept", figures[-1]) == pytest.approx(shares(masks))


@pytest.mark.parametrize(
    "options",
    [
        {"begin": 1, "end": 3},
        {"mode": "filter", "begin": 1, "end": 3},
        {"mode": "filter", "gate": "bn", "exempt": ["3"], "begin": 1, "end": 3},
        {"mode": "channel", "gate": "none", "begin": 1, "end": 3},
        {"fine_tune": 2},
    ],
)
def test_spred_tells_of_weights_and_not_of_their_factors(options):
    masks, figures = train(Spred(sparsity=0.6, **options))
    kept = [of("kept", row) for row in figures]
    assert kept[0] == dict.fromkeys(masks, 1.0)
    assert all(list(row) == list(masks) for row in kept)
    assert kept[-1] == pytest.approx(shares(masks)) and kept[-1] != kept[0]


@pytest.mark.parametrize(
    "method",
    [
        lambda: Magnitude(0.5),
        lambda: Spred(0.5),
        lambda: make("predefined"),
        lambda: make("fixed"),
    ],
)
def test_masks_that_do_not_change_while_training_have_no_history(method):
    _, figures = train(method(), epochs=2)
    assert not any(of("kept", row) for row in figures)


@pytest.mark.parametrize(
    "make_method",
    [
        lambda: Magnitude(0.8, begin=1, end=4),
        lambda: Spred(0.6, begin=1, end=4),
        lambda: HyperSparse(0.5, warm_up=1, fine_tune=2, max_epochs=2, drops=(1,)),
        lambda: SABR(strength=0.01),
        lambda: GSM(0.8),
    ],
)
def test_a_resumed_run_has_the_figures_of_one_that_was_not_interrupted(tmp_path, make_method):
    class Interrupted(Exception):
        pass

    def stop(epoch):
        if epoch.number == 3:
            raise Interrupted

    _, whole = train(make_method())
    resumed = {"checkpoint": tmp_path / "run.pt", "log": tmp_path / "log.csv"}
    with pytest.raises(Interrupted):
        train(make_method(), on_epoch=stop, **resumed)
    _, parts = train(make_method(), **resumed)
    assert parts == whole
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, figures in zip(rows, whole, strict=True):
        assert {n: float(row[n]) for n in figures if ":" in n} == {
            n: v for n, v in figures.items() if ":" in n
        }


def test_epochs_logged_before_there_were_such_columns_have_empty_ones(tmp_path):
    history = History()
    train(Magnitude(0.5, begin=0, end=2), epochs=2, history=history)
    state = history.state_dict()
    state[0]["figures"] = {"removed": 0.0}
    history.load_state_dict(state)
    Logs(history, tmp_path / "log.csv", None)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kept:3.weight"] != "" for row in rows] == [False, True]


def test_the_line_of_an_epoch_has_no_figures_of_single_tensors(capsys):
    train(Magnitude(0.5, begin=0, end=2), epochs=2, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("removed" in line and "kept" not in line for line in lines)
