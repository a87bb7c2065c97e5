"""Writers that are killed at random moments. Run as a process of its own, for it forks.

    python -m tests.faults.killed COUNT SEED FOLDER [name ...]

Each writer of `WRITERS` runs in a child that is killed by SIGKILL COUNT times. What it leaves has
to be the old file or the new one, and never half of one: `check` raises otherwise. Prints how often
the child was killed before it had ended.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

import sparse_ops as so
from sparse_ops.data import fetch
from sparse_ops.data.sets import SUBSET
from sparse_ops.nn import CSRLinear
from sparse_ops.planning.cache import Cache
from sparse_ops.training import Dense, fit
from tests.training.small import small_net, small_task


class Saving:
    """Two models, written by turns to one path; whole is the one or the other."""

    def __init__(self, folder):
        self.path = folder / "model.safetensors"
        layer = torch.nn.Linear(400, 300)
        mask = torch.rand(300, 400) > 0.8
        self.models = [CSRLinear.from_dense(layer, mask) for _ in range(2)]
        self.models[1].values.data.neg_()
        so.save(self.models[0], self.path)

    def write(self):
        while True:
            for model in self.models:
                so.save(model, self.path)

    def check(self):
        found = so.load(self.path, torch.nn.Linear(400, 300))
        assert any(torch.equal(found.values, model.values) for model in self.models)


class Masks:
    def __init__(self, folder):
        self.path = folder / "masks.safetensors"
        mask = torch.rand(500, 500) > 0.5
        self.masks = [{"weight": mask}, {"weight": ~mask}]
        so.masks.save(self.masks[0], self.path)

    def write(self):
        while True:
            for masks in self.masks:
                so.masks.save(masks, self.path)

    def check(self):
        found = so.masks.load(self.path)["weight"]
        assert any(torch.equal(found, masks["weight"]) for masks in self.masks)


class Measurements:
    """The planner's cache: each write adds an entry, and none is lost again."""

    def __init__(self, folder):
        self.folder, self.most = folder, 0

    def write(self):
        for number in range(self.most, 10**6):
            cache = Cache(self.folder)
            cache.put({"number": number}, number)
            cache.write()

    def check(self):
        cache = Cache(self.folder)
        assert not cache.notes, cache.notes
        known = 0
        while cache.get({"number": known}) is not None:
            known += 1
        assert known >= self.most
        self.most = known


class Training:
    """A run that goes on after each kill, and ends with the bits of one that was not disturbed."""

    def __init__(self, folder):
        self.path = folder / "run.pt"
        self.whole = self.run()

    def run(self, **more):
        torch.manual_seed(0)
        model = small_net()
        options = {"epochs": 12, "batch_size": 16, "progress": False}
        fit(model, small_task(), Dense(), **options, **more)
        return model.state_dict()

    def write(self):
        self.run(checkpoint=self.path)

    def check(self):
        # What the last one left is gone on with; now and then to the end, and then anew.
        if self.path.exists() and random.random() < 0.2:
            state = self.run(checkpoint=self.path)
            assert all(torch.equal(state[name], each) for name, each in self.whole.items())
            self.path.unlink()


class Fetching:
    """Files are put into place; each that is there is whole."""

    def __init__(self, folder):
        self.folder = folder / "data"
        self.files = [SUBSET / name for name in fetch.FASHION_FILES]

    def write(self):
        while True:
            fetch._place(self.files, self.folder)
            shutil.rmtree(self.folder)

    def check(self):
        for file in self.files:
            placed = self.folder / file.name
            assert not placed.exists() or placed.read_bytes() == file.read_bytes(), placed


WRITERS = {each.__name__: each for each in (Saving, Masks, Measurements, Training, Fetching)}
# A write takes some milliseconds, and a run of training less than the longest of these.
LONGEST_S = 0.3


def killed(writer):
    """Whether a child that writes was killed before its end."""
    child = os.fork()
    if child == 0:
        try:
            writer.write()
        finally:
            os._exit(0)
    time.sleep(random.random() ** 2 * LONGEST_S)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main(count, seed, folder, *names):
    torch.set_num_threads(1)
    torch.manual_seed(int(seed))
    random.seed(int(seed))
    result = {}
    for name in names or WRITERS:
        place = Path(folder) / name
        place.mkdir(parents=True)
        writer = WRITERS[name](place)
        result[name] = 0
        for _ in range(int(count)):
            result[name] += killed(writer)
            writer.check()
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
