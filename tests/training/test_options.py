"""What `fit` offers beside a method: clipping, 16 bits, plateaus, faster biases, history, logs."""

import csv
import sys

import pytest
import torch
from torch import nn

from sparse_ops.data import Split
from sparse_ops.training import (
    GSM,
    SABR,
    Cosine,
    Dense,
    Evaluation,
    History,
    Magnitude,
    MultiStep,
    Plateau,
    Predefined,
    Spred,
    fit,
)
from sparse_ops.training.history import Row
from tests.training.small import small_net, small_task


def run(method=None, model=None, **more):
    model = small_net() if model is None else model
    arguments = {"epochs": 2, "batch_size": 20, "progress": False}
    return model, fit(model, small_task(), method or Dense(), **(arguments | more))


class Watching(Dense):
    """Keeps what the optimizer is given, and what the model's weights are of."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.groups: list[dict] = []

    def after_step(self, model):
        gradients = [p.grad.flatten() for p in model.parameters()]
        self.norms.append(float(torch.cat(gradients).norm()))

    def end_epoch(self, model, optimizer, epoch):
        self.groups = [dict(group) for group in optimizer.param_groups]
        return True


def test_gradients_are_never_longer_than_the_clip():
    free, clipped = Watching(), Watching()
    run(free)
    run(clipped, clip=0.05)
    assert max(free.norms) > 0.05
    assert all(norm <= 0.05 * (1 + 1e-5) for norm in clipped.norms)


def test_a_clip_that_nothing_reaches_changes_no_bit():
    assert torch.equal(run(clip=1e6)[0][3].weight, run()[0][3].weight)


@pytest.mark.parametrize("clip", [0, -1.0, float("nan")])
def test_a_clip_that_would_stop_everything_is_refused(clip):
    with pytest.raises(ValueError, match="clip must be above 0"):
        run(clip=clip)


@pytest.mark.parametrize("method", [Dense, Predefined, lambda: GSM(sparsity=0.5), Magnitude])
def test_half_precision_trains_weights_of_full_precision(method):
    seen = []

    class Looking(nn.ReLU):
        def forward(self, x):
            if self.training:
                seen.append(x.dtype)
            return super().forward(x)

    model = small_net()
    model[4] = Looking()
    found = []
    model, masks = run(method(), model, amp="bfloat16", epochs=15, on_epoch=found.append)
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert found[-1].loss < found[0].loss
    for name, mask in masks.items():
        assert not bool(model.get_parameter(name)[~mask].any())


@pytest.mark.parametrize(
    ("amp", "words"),
    [
        ("float8", "amp must be one of bfloat16, float16, or None, got 'float8'"),
        (torch.float64, "amp must be one of bfloat16, float16, or None, got torch.float64"),
        ("float16", "amp float16 is for CUDA devices; on cpu take bfloat16"),
    ],
)
def test_a_precision_that_cannot_be_had_is_refused(amp, words):
    with pytest.raises(ValueError, match=words):
        run(amp=amp)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("amp", ["float16", "bfloat16"])
def test_half_precision_trains_on_a_cuda_device(amp, tmp_path):
    model = small_net().cuda()
    found = []
    file = tmp_path / "run.pt"
    _, masks = run(
        GSM(sparsity=0.5), model, amp=amp, epochs=15, on_epoch=found.append, checkpoint=file
    )
    assert found[-1].loss < found[0].loss
    again = small_net().cuda()
    run(GSM(sparsity=0.5), again, amp=amp, epochs=15, checkpoint=file)
    for name, mask in masks.items():
        assert torch.equal(again.get_parameter(name), model.get_parameter(name))
        assert not bool(model.get_parameter(name)[~mask].any())


def test_biases_learn_faster_where_asked_and_decay_where_asked():
    watching = Watching()
    run(watching, lr=0.1, bias_lr=2, weight_decay=0.01)
    assert [group["lr"] for group in watching.groups] == [0.1, 0.1, 0.2]
    assert [group["weight_decay"] for group in watching.groups] == [0.01, 0, 0]
    assert [len(group["params"]) for group in watching.groups] == [3, 1, 3]
    run(watching, lr=0.1, bias_lr=2, weight_decay=0.01, decay_all=True)
    assert [group["weight_decay"] for group in watching.groups] == [0.01, 0.01, 0.01]
    run(watching, lr=0.1, weight_decay=0.01, decay_all=True)
    (everything,) = watching.groups
    assert (everything["weight_decay"], len(everything["params"])) == (0.01, 7)
    with pytest.raises(ValueError, match="bias_lr must be above 0, got 0"):
        run(bias_lr=0)


def test_faster_biases_keep_their_distance_under_a_schedule():
    watching = Watching()
    run(watching, lr=0.1, bias_lr=2, schedule=Cosine())
    rates = [group["lr"] for group in watching.groups]
    assert rates[2] == 2 * rates[0] > 0


def test_the_fourth_bad_epoch_triggers_a_plateau_of_patience_three():
    plateau = Plateau(gamma=0.5, patience=3, threshold=0.1)
    plateau.begin()
    factors = []
    # 0.95 is not ten percent below 1; 0.8 is.
    for loss in (1.0, 0.95, 0.99, 1.2, 1.0, 0.8, 0.8, 0.8, 0.8, 0.8):
        plateau.observe(loss)
        factors.append(plateau.factor(0, 1, 1))
    assert factors == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_a_plateau_falls_as_in_the_published_run_of_sabr():
    # Its losses are not published; these get no better where its rates say that they did not.
    losses = [1.9, 1.8, 1.77, *[1.77] * 4, 1.76, *[1.76] * 12]
    plateau, rates = Plateau(gamma=0.51, patience=3, least=0.1), {}
    for epoch, loss in enumerate(losses, start=1):
        plateau.observe(loss)
        rates[epoch] = 1e-4 * plateau.factor(0, 1, 1)
    falls = [epoch for epoch in rates if epoch > 1 and rates[epoch] < rates[epoch - 1]]
    assert falls == [7, 12, 16, 20]
    found = [rates[epoch] for epoch in falls]
    assert found == pytest.approx([5.1e-5, 2.601e-5, 1.32651e-5, 1e-5], rel=1e-12)


def test_a_plateau_does_as_torch_does():
    losses = torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.51, patience=3, min_lr=0.01
    )
    ours = Plateau(gamma=0.51, patience=3, least=0.01)
    for loss in losses:
        torchs.step(loss)
        ours.observe(loss)
        assert ours.factor(0, 1, 1) == optimizer.param_groups[0]["lr"]
    assert ours.factor(0, 1, 1) == 0.01


def test_a_plateau_lowers_the_rate_of_a_run_and_begins_each_run_anew():
    # Nothing is 90 % better from one epoch to the next.
    plateau = Plateau(gamma=0.1, patience=0, threshold=0.9)
    for _ in range(2):
        history = History()
        run(schedule=plateau, lr=0.1, epochs=4, validation=small_task(9), history=history)
        rates = [row.lr for row in history.rows]
        assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_a_plateau_without_validation_is_refused_before_the_first_step():
    model = small_net()
    with pytest.raises(ValueError, match="a Plateau needs validation data"):
        run(model=model, schedule=Plateau())
    assert torch.equal(model[3].weight, small_net()[3].weight)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"gamma": 1}, "gamma"),
        ({"gamma": 0}, "gamma"),
        ({"patience": -1}, "patience"),
        ({"threshold": 1}, "threshold"),
        ({"least": 2}, "least"),
    ],
)
def test_a_plateau_out_of_range_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Plateau(**arguments)


def test_cosine_by_epoch_has_one_rate_an_epoch():
    schedule = Cosine(warm_up=2, by_epoch=True)
    factors = [schedule.factor(step, 3, 4) for step in range(12)]
    assert factors == pytest.approx([0.5] * 3 + [1] * 3 + [1] * 3 + [0.5] * 3)
    with pytest.raises(ValueError, match="warm_up by epoch must be a whole number"):
        Cosine(warm_up=0.5, by_epoch=True)


def test_the_log_tells_how_many_weights_are_as_good_as_zero():
    model, history = small_net(), History()
    with torch.no_grad():
        model[3].weight.view(-1)[:900] = torch.tensor([0.0, 9e-6, -9e-6]).repeat(300)
    # 72 + 1,152 + 48 weights; those of 1e-5 count as not zero.
    model[8].weight.data.fill_(1e-5)
    run(Dense(), model, lr=1e-30, history=history, epochs=1)
    assert history.rows[0].sparsity == 900 / 1272
    # Weights that are products are seen as the products.
    run(Spred(sparsity=0.5, fine_tune=1), model, lr=1e-30, history=history, epochs=2)
    assert [row.sparsity for row in history.rows] == [900 / 1272] * 2


def test_a_warm_up_may_begin_above_zero_and_boundaries_may_be_moved():
    schedule = MultiStep((4,), warm_up=2, warm_up_from=0.2, offset=-1)
    factors = [schedule.factor(step, 2, 5) for step in range(10)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 0.1, 0.1, 0.1, 0.1])
    # The authors' milestones of pre-defined sparsity, as their code steps.
    early = MultiStep((40, 80, 100, 115, 130, 140), gamma=0.2, offset=-1)
    drops = [e for e in range(1, 150) if early.factor(e, 1, 150) < early.factor(e - 1, 1, 150)]
    assert drops == [39, 79, 99, 114, 129, 139]
    with pytest.raises(ValueError, match=r"warm_up_from must be in \[0, 1\]"):
        MultiStep((), warm_up_from=2)


def rows(*top1: float) -> History:
    history = History()
    history.load_state_dict(
        [
            {"epoch": n, "loss": 1.0, "accuracy": 0.5, "lr": 0.1, "seconds": 1.0}
            | {"examples_per_second": 9.0, "top1": value, "top5": 1.0, "validation_loss": 0.2}
            for n, value in enumerate(top1, start=1)
        ]
    )
    return history


def test_best_is_the_first_of_the_best_epochs_and_last_the_last():
    history = rows(0.1, 0.9, 0.5, 0.7, 0.7)
    assert history.best().epoch == 2
    assert history.best(after=2).epoch == 4
    assert history.best(after=5) is None
    assert history.last.epoch == 5
    assert history.mean_top1(2) == pytest.approx(0.7)
    assert history.mean_top1() == pytest.approx(0.58)
    with pytest.raises(ValueError, match="no evaluation"):
        History().mean_top1()
    history.load_state_dict([{**r, "loss": n} for n, r in enumerate(history.state_dict())])
    assert (history.mean_loss(2), history.mean_loss()) == (3.5, 2)
    with pytest.raises(ValueError, match="no epoch"):
        History().mean_loss()


def test_a_history_has_what_the_epochs_reported():
    history, seen = History(), []
    held_out = Split(torch.zeros(5, 1, 6, 6), torch.arange(5) % 3)
    run(history=history, validation=held_out, on_epoch=seen.append)
    for row, epoch in zip(history.rows, seen, strict=True):
        assert (row.epoch, row.loss, row.accuracy, row.lr) == (
            epoch.number,
            epoch.loss,
            epoch.accuracy,
            epoch.lr,
        )
        assert epoch.validation == Evaluation(row.top1, row.top5, row.validation_loss, 5)
        assert row.seconds > 0 and row.examples_per_second == pytest.approx(60 / row.seconds)
    # Of another run nothing is left.
    run(history=history, epochs=1)
    assert len(history.rows) == 1 and history.last.top1 is None and history.best() is None


def test_a_log_has_a_line_an_epoch(tmp_path):
    history, file = History(), tmp_path / "log.csv"
    run(history=history, log=file, epochs=3)
    with file.open(newline="") as opened:
        lines = list(csv.DictReader(opened))
    assert list(lines[0]) == [n for n in Row.__dataclass_fields__ if n != "figures"]
    assert [int(line["epoch"]) for line in lines] == [1, 2, 3]
    assert [float(line["loss"]) for line in lines] == [row.loss for row in history.rows]
    assert lines[0]["top1"] == ""


def test_a_log_that_cannot_be_written_is_found_before_the_first_step(tmp_path):
    model = small_net()
    with pytest.raises(OSError, match="there is no folder"):
        run(model=model, log=tmp_path / "no" / "log.csv")
    assert torch.equal(model[3].weight, small_net()[3].weight)


def test_tensorboard_that_is_not_there_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        run(tensorboard=tmp_path)


def test_tensorboard_is_told_every_number(tmp_path, monkeypatch):
    told, made = [], []

    class Writer:
        def __init__(self, folder, purge_step):
            made.append((folder, purge_step))

        def add_scalar(self, *what):
            told.append(what)

        def flush(self):
            pass

        def close(self):
            made.append("closed")

    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    history = History()
    run(tensorboard=tmp_path, history=history)
    assert made == [(str(tmp_path), 1), "closed"]
    assert ("loss", history.rows[1].loss, 2) in told
    assert {name for name, _, _ in told} == {
        "loss",
        "accuracy",
        "lr",
        "seconds",
        "examples_per_second",
        "sparsity",
    }


@pytest.mark.parametrize("method", [Spred(0.5, mode="filter"), SABR()], ids=["spred", "sabr"])
def test_an_error_leaves_the_model_with_the_parameters_it_came_with(method):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Dropout(0.3), nn.Flatten(), nn.Linear(16, 3)
    )
    names = [name for name, _ in model.named_parameters()]

    def stop(epoch):
        raise KeyboardInterrupt

    batches = [(torch.randn(8, 1, 4, 4), torch.randint(3, (8,)))]
    with pytest.raises(KeyboardInterrupt):
        fit(model, batches, method, epochs=3, on_epoch=stop)
    assert [name for name, _ in model.named_parameters()] == names
    assert model[2].p == 0.3
