"""A run that was interrupted goes on as if it had not been, to the last bit."""

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sparse_ops.training import (
    GSM,
    METHODS,
    Cosine,
    Dense,
    History,
    Magnitude,
    Plateau,
    SparsityMethod,
    Spred,
    fit,
)
from tests.training.small import OPTIMIZERS, small_net, small_task
from tests.training.test_contract import make


class Interrupted(Exception):
    """Stands for whatever ends a run."""


# Those that cut by and by.
GRADUAL = {
    "gradual": lambda: Magnitude(sparsity=0.7, begin=1, end=3),
    "filters": lambda: Spred(sparsity=0.7, mode="filter", begin=1, end=3),
    "channels": lambda: Spred(sparsity=0.7, mode="channel", gate="none", begin=1, end=3),
    "scales": lambda: Spred(sparsity=0.7, mode="filter", gate="bn", exempt=["3"], begin=1, end=3),
}


def made(name: str) -> SparsityMethod:
    """Every method as the contract has it, or one that cuts by and by."""
    return GRADUAL[name]() if name in GRADUAL else make(name)


def run(model: nn.Module, method: SparsityMethod, **more):
    arguments = {"epochs": 4, "batch_size": 16, "schedule": Cosine(), "progress": False}
    return fit(model, small_task(), method, **(arguments | more))


def interrupt_after(steps: int):
    """An optimizer's factory whose optimizer ends the run after so many steps of this process."""
    left = [steps]

    def wrap(factory):
        def build(groups):
            optimizer = factory(groups)
            step = optimizer.step

            def counting(*arguments):
                if left[0] == 0:
                    raise Interrupted
                left[0] -= 1
                return step(*arguments)

            optimizer.step = counting
            return optimizer

        return build

    return wrap


def same(left: nn.Module, right: nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
@pytest.mark.parametrize("name", [*METHODS, *GRADUAL])
@pytest.mark.parametrize("steps", [0, 3, 4, 8, 10])
def test_a_run_interrupted_at_any_step_ends_with_the_same_bits(tmp_path, name, optimizer, steps):
    whole, parts = small_net(), small_net()
    expected = run(whole, made(name), optimizer=OPTIMIZERS[optimizer])
    file = tmp_path / "run.pt"
    stopping = interrupt_after(steps)(OPTIMIZERS[optimizer])
    with pytest.raises(Interrupted):
        run(parts, made(name), optimizer=stopping, checkpoint=file)
    assert file.is_file() == (steps >= 4)
    # Another process: only what the run began with is there, and the file.
    again = small_net()
    masks = run(again, made(name), optimizer=OPTIMIZERS[optimizer], checkpoint=file)
    assert same(whole, again)
    assert list(masks) == list(expected)
    assert all(torch.equal(masks[key], expected[key]) for key in masks)


SCRIPT = """
import sys, time
import torch
from sparse_ops.training import Cosine, Magnitude, fit
from tests.training.test_contract import make
from tests.training.small import small_net, small_task

class Slow(Magnitude):
    def after_step(self, model):
        print("step", flush=True)
        if "wait" in sys.argv:
            self.count = getattr(self, "count", 0) + 1
            if self.count == 10:
                time.sleep(60)

Slow.__name__ = "Magnitude"
# The same bits need the same number of threads: it decides in which order sums are taken.
torch.set_num_threads(int(sys.argv[2]))
fit(small_net(), small_task(), Slow(sparsity=0.7, begin=1, end=3), epochs=4, batch_size=16,
    schedule=Cosine(), progress=False, checkpoint=sys.argv[1])
"""


def test_a_process_that_is_killed_goes_on_with_the_same_bits(tmp_path):
    root = Path(__file__).parents[2]
    file = tmp_path / "run.pt"
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", SCRIPT, str(file), str(torch.get_num_threads()), "wait"]
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    ) as child:
        # In the middle of the third epoch.
        for _ in range(10):
            assert child.stdout.readline() == "step\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    whole, again = small_net(), small_net()
    expected = run(whole, Magnitude(sparsity=0.7, begin=1, end=3))
    before = file.stat().st_mtime_ns
    masks = run(again, Magnitude(sparsity=0.7, begin=1, end=3), checkpoint=file)
    assert file.stat().st_mtime_ns > before
    assert same(whole, again)
    assert all(torch.equal(masks[key], expected[key]) for key in expected)
    # What was being written when a process is killed is never under the name of the file.
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_a_finished_run_is_not_run_again(tmp_path):
    file, first, second = tmp_path / "run.pt", small_net(), small_net()
    masks = run(first, GSM(sparsity=0.7), checkpoint=file)
    seen = []
    again = run(second, GSM(sparsity=0.7), checkpoint=file, on_epoch=seen.append)
    assert seen == []
    assert same(first, second)
    assert all(torch.equal(masks[key], again[key]) for key in masks)


def test_a_method_that_has_ended_the_run_has_ended_it_for_good(tmp_path):
    class Enough(Dense):
        def end_epoch(self, model, optimizer, epoch):
            return epoch.number < 2

    seen = []
    for _ in range(2):
        run(small_net(), Enough(), checkpoint=tmp_path / "run.pt", on_epoch=seen.append)
    assert [epoch.number for epoch in seen] == [1, 2]


def test_history_plateau_and_log_go_on_where_they_were(tmp_path):
    def schedule():
        return Plateau(gamma=0.5, patience=0, threshold=0.9)

    def go(model, history, log, **more):
        return run(
            model,
            Dense(),
            schedule=schedule(),
            validation=small_task(9),
            history=history,
            log=tmp_path / log,
            **more,
        )

    whole, parts = History(), History()
    go(small_net(), whole, "whole.csv")

    def stop(epoch):
        if epoch.number == 3:
            raise Interrupted

    file = tmp_path / "run.pt"
    with pytest.raises(Interrupted):
        go(small_net(), History(), "parts.csv", checkpoint=file, on_epoch=stop)
    go(small_net(), parts, "parts.csv", checkpoint=file)
    assert [row.epoch for row in parts.rows] == [1, 2, 3, 4]
    assert [(r.lr, r.loss, r.top1) for r in parts.rows] == [
        (r.lr, r.loss, r.top1) for r in whole.rows
    ]
    assert whole.rows[-1].lr < whole.rows[0].lr
    assert len((tmp_path / "parts.csv").read_text().splitlines()) == 5


def test_what_no_longer_learns_stays_so(tmp_path):
    class Freezing(Dense):
        def end_epoch(self, model, optimizer, epoch):
            model[0].weight.requires_grad_(False)
            if epoch.number == 2 and self.interrupts:
                raise Interrupted
            return True

        interrupts = False

    whole, again, file = small_net(), small_net(), tmp_path / "run.pt"
    run(whole, Freezing())
    stopped = Freezing()
    Freezing.interrupts = True
    with pytest.raises(Interrupted):
        run(small_net(), stopped, checkpoint=file)
    Freezing.interrupts = False
    run(again, Freezing(), checkpoint=file)
    assert same(whole, again)


def test_a_data_loader_with_its_own_generator_goes_on_in_its_order(tmp_path):
    task = small_task()

    def loader():
        data = TensorDataset(task.images, task.labels)
        generator = torch.Generator().manual_seed(3)
        return DataLoader(data, batch_size=16, shuffle=True, generator=generator)

    whole, again, file = small_net(), small_net(), tmp_path / "run.pt"
    fit(whole, loader(), Dense(), epochs=3, progress=False)
    with pytest.raises(Interrupted):
        fit(
            small_net(),
            loader(),
            Dense(),
            epochs=3,
            progress=False,
            checkpoint=file,
            optimizer=interrupt_after(6)(lambda groups: torch.optim.SGD(groups, **SGD)),
        )
    sgd = lambda groups: torch.optim.SGD(groups, **SGD)  # noqa: E731
    fit(again, loader(), Dense(), epochs=3, progress=False, checkpoint=file, optimizer=sgd)
    assert same(whole, again)


SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed is 1, there it is 0"),
        ({"epochs": 5}, "epochs is 5, there it is 4"),
        ({"batch_size": 8}, "batch size is 8, there it is 16"),
        ({"lr": 0.5}, "optimizer is"),
        ({"schedule": None}, "schedule is None, there it is Cosine"),
        ({"clip": 2.0}, "clip is 2.0, there it is None"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, words):
    file = tmp_path / "run.pt"
    run(small_net(), Dense(), checkpoint=file)
    content = file.read_bytes()
    with pytest.raises(ValueError, match=f"another run: .*{words}"):
        run(small_net(), Dense(), checkpoint=file, **change)
    assert file.read_bytes() == content


def test_a_checkpoint_of_another_method_or_model_is_refused(tmp_path):
    file = tmp_path / "run.pt"
    run(small_net(), GSM(sparsity=0.5), checkpoint=file)
    with pytest.raises(ValueError, match=r"method is GSM\(sparsity=0.6\), there it is GSM"):
        run(small_net(), GSM(sparsity=0.6), checkpoint=file)
    other = small_net()
    other[8] = nn.Linear(16, 4)
    with pytest.raises(ValueError, match="does not fit this run"):
        run(other, GSM(sparsity=0.5), checkpoint=file)


def test_a_checkpoint_of_another_version_is_refused_in_words(tmp_path):
    file = tmp_path / "run.pt"
    run(small_net(), GSM(sparsity=0.5), checkpoint=file)
    content = torch.load(file)
    # As it was once.
    content["method"] = {key: content["method"][key] for key in ("_active", "_undecided")}
    torch.save(content, file)
    with pytest.raises(
        ValueError, match=r"run\.pt does not fit.* GSM is of another version.*_steps"
    ):
        run(small_net(), GSM(sparsity=0.5), checkpoint=file)
    # What is put into the history has become more since then: it goes on.
    run(small_net(), Dense(), checkpoint=file.with_name("dense.pt"))
    content = torch.load(file.with_name("dense.pt"))
    for row in content["history"]:
        del row["figures"], row["sparsity"]
    torch.save(content, file.with_name("dense.pt"))
    run(small_net(), Dense(), checkpoint=file.with_name("dense.pt"))


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "weights", "code"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, damage, capfd):
    class Evil:
        def __reduce__(self):
            return print, ("it was run",)

    file = tmp_path / "run.pt"
    run(small_net(), Dense(), checkpoint=file)
    whole = file.read_bytes()
    if damage == "weights":
        torch.save(small_net().state_dict(), file)
    elif damage == "code":
        torch.save({"format": "sparse_ops.training", "version": 1, "x": Evil()}, file)
    else:
        file.write_bytes(
            {"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"x" * 99}[damage]
        )
    with pytest.raises(ValueError, match=r"run\.pt (cannot be read|must be) a"):
        run(small_net(), Dense(), checkpoint=file)
    assert "it was run" not in capfd.readouterr().out


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(OSError, match="there is no folder"):
        run(small_net(), Dense(), checkpoint=tmp_path / "no" / "run.pt")


def test_a_state_that_is_no_data_is_an_error_that_says_what_to_do(tmp_path):
    class Keeping(Dense):
        def prepare(self, model):
            self.copy = copy.deepcopy(model)

    with pytest.raises(ValueError, match=r"Keeping\.copy is a Sequential.*needs state_dict"):
        run(small_net(), Keeping(), checkpoint=tmp_path / "run.pt")


def test_a_method_may_say_itself_what_to_keep(tmp_path):
    class Counting(Dense):
        def prepare(self, model):
            self.epochs, self.model = 0, model

        def end_epoch(self, model, optimizer, epoch):
            self.epochs += 1
            if self.epochs == 2 and not self.resumed:
                raise Interrupted
            return True

        resumed = False

        def state_dict(self):
            return {"epochs": self.epochs}

        def load_state_dict(self, state):
            self.epochs = state["epochs"]
            self.resumed = True

    file = tmp_path / "run.pt"
    with pytest.raises(Interrupted):
        run(small_net(), Counting(), checkpoint=file)
    method = Counting()
    run(small_net(), method, checkpoint=file)
    assert method.epochs == 4
