"""Two processes that train together take the same masks, and those that one process takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from sparse_ops.data import Split, batches
from sparse_ops.training import (
    GSM,
    SABR,
    Cosine,
    HyperSparse,
    Magnitude,
    Predefined,
    SparsityMethod,
    Spred,
    fit,
)
from sparse_ops.training.distribution import World, begin_epoch, from_torchrun

pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()),
    reason="torch was built without gloo",
)
ROOT = Path(__file__).parents[2]


def net(norm: bool = False) -> nn.Module:
    """Without BatchNorm, whose means are those of a process, but for where they are tested."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )


def task() -> Split:
    # 61: the last batch of 12 has one image, and the second process none of it.
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(61) % 3
    images = torch.randn(61, 1, 6, 6, generator=generator) + labels[:, None, None, None] - 1
    return Split(images, labels)


class Penalized(GSM):
    """GSM with a penalty, which no process may count twice."""

    def penalty(self, model):
        return 1e-3 * sum(p.square().sum() for p in model.parameters())


METHODS: dict[str, SparsityMethod] = {
    "gsm": GSM(sparsity=0.6),
    "magnitude": Magnitude(sparsity=0.6, begin=1, end=2),
    "predefined": Predefined(),
    "hypersparse": HyperSparse(sparsity=0.6, warm_up=1, max_epochs=1, fine_tune=1),
    "sabr": SABR(strength=0.01),
    "spred": Spred(sparsity=0.5, mode="filter", exempt=(), fine_tune=1),
    "by and by": Spred(sparsity=0.5, exempt=(), begin=0, end=2),
    "penalized": Penalized(sparsity=0.6),
}


def train(name: str, norm: bool = False, **more) -> dict:
    """The trained weights, the masks, and what the epochs said."""
    model, said = net(norm), []
    masks = fit(
        model,
        task(),
        METHODS[name],
        epochs=3,
        lr=0.01,
        batch_size=12,
        schedule=Cosine(),
        clip=1.0,
        validation=task(),
        progress=False,
        on_epoch=said.append,
        **more,
    )
    epochs = [(e.loss, e.accuracy, e.validation.top1, e.validation.loss) for e in said]
    return {"state": model.state_dict(), "masks": masks, "epochs": epochs}


SCRIPT = """
import sys, torch
from torch import distributed
from tests.training.test_distribution import METHODS, train
folder, rank = sys.argv[1], int(sys.argv[2])
distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
)
torch.manual_seed(rank)
found = {name: train(name) for name in METHODS}
found["norm"] = train("gsm", norm=True)
file = f"{folder}/checkpoint.pt"
found["whole"] = train("gsm", checkpoint=file)
found["again"] = train("gsm", checkpoint=file)
torch.save(found, f"{folder}/{rank}.pt")
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[dict]:
    """What each of two processes has found."""
    folder = tmp_path_factory.mktemp("two")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder), str(rank)],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", [*METHODS, "norm", "whole"])
def test_both_processes_end_with_the_same_bits(both, name):
    first, second = (found[name] for found in both)
    assert first["epochs"] == second["epochs"]
    for part in ("state", "masks"):
        assert list(first[part]) == list(second[part])
        assert all(torch.equal(first[part][key], second[part][key]) for key in first[part])


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_do_as_one_with_the_joint_batch(both, name):
    alone, together = train(name), both[0][name]
    for key, mask in alone["masks"].items():
        assert torch.equal(mask, together["masks"][key]), key
    # Sums of another order: 18 steps, each of a few roundings of gradients of about 1.
    for key, value in alone["state"].items():
        torch.testing.assert_close(together["state"][key], value, rtol=1e-5, atol=1e-6)
    for one, two in zip(alone["epochs"], together["epochs"], strict=True):
        assert two == pytest.approx(one, rel=1e-4)


def test_two_processes_go_on_from_their_checkpoint(both):
    for found in both:
        whole, again = found["whole"], found["again"]
        assert again["epochs"] == []
        assert all(torch.equal(whole["state"][key], again["state"][key]) for key in whole["state"])
        assert torch.equal(found["gsm"]["state"]["3.weight"], whole["state"]["3.weight"])


def test_the_parts_of_a_batch_are_the_batch():
    split = task()
    whole = list(batches(split, 12, torch.Generator().manual_seed(2)))
    parts = [
        list(batches(split, 12, torch.Generator().manual_seed(2)).part(rank, 3))
        for rank in range(3)
    ]
    for index, (images, labels) in enumerate(whole):
        mine = [part[index] for part in parts]
        real = [(x, y, w) for x, y, w in mine if w]
        assert torch.equal(torch.cat([x for x, _, _ in real]), images)
        assert torch.equal(torch.cat([y for _, y, _ in real]), labels)
        weighted = sum(w * float(y.double().mean()) for _, y, w in mine) / 3
        assert weighted == pytest.approx(float(labels.double().mean()))


def test_alone_there_is_nothing_to_agree_on(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert World.now() == World(0, 1)
    assert World().gather("x") == ["x"]
    assert World().agree([0.1], torch.device("cpu")) == [0.1]
    with from_torchrun(torch.device("cpu")) as world:
        assert world == World(0, 1)
        assert not distributed.is_initialized()


def test_a_distributed_sampler_is_told_the_epoch():
    from torch.utils.data import DataLoader, DistributedSampler

    sampler = DistributedSampler(range(10), num_replicas=2, rank=0)
    begin_epoch(DataLoader(range(10), sampler=sampler), 4)
    assert sampler.epoch == 3
    begin_epoch([], 4)
