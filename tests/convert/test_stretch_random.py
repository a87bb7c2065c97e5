"""Random programs, also such as write to tensors in place: stretches change nothing."""

import copy
import pickle
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparse_ops.convert import fuse, stretch
from tests.convert.stretches import IMAGES, conv, packed

CHANNELS = 4
# Each is given the program, what draws, and two of the last results.
STEPS = (
    *(lambda program, drawn, one, two: drawn.choice(program.convolutions)(one) for _ in range(6)),
    lambda program, drawn, one, two: program.wide(torch.cat([one, two], drawn.choice((1, -3)))),
    lambda program, drawn, one, two: program.pool(one),
    lambda program, drawn, one, two: program.relu(one),
    lambda program, drawn, one, two: program.drop(one),
    lambda program, drawn, one, two: program.same(one),
    lambda program, drawn, one, two: F.relu(one, inplace=drawn.random() < 0.5),
    lambda program, drawn, one, two: one + two,
    lambda program, drawn, one, two: one.add_(two),
    lambda program, drawn, one, two: one.mul_(0.5),
    lambda program, drawn, one, two: one.view(one.shape),
    lambda program, drawn, one, two: one.sin(),
)


class Program(nn.Module):
    """A few steps, each on some of the last results, which are drawn by a seed."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed
        self.convolutions = nn.ModuleList(conv(CHANNELS, CHANNELS, k) for k in (1, 3, 5))
        self.wide = conv(2 * CHANNELS, CHANNELS)
        self.pool, self.relu = nn.MaxPool2d(3, 1, 1), nn.ReLU(inplace=True)
        self.drop, self.same = nn.Dropout(inplace=True), nn.Identity()

    def forward(self, x):
        drawn = random.Random(self.seed)
        done = [x * 1]
        for _ in range(drawn.randint(4, 14)):
            one, two = drawn.choices(done[-4:], k=2)
            done.append(drawn.choice(STEPS)(self, drawn, one, two))
        return done[-1].mean((2, 3)), done[-1], *drawn.sample(done, 2)


@pytest.mark.parametrize("seed", range(60))
def test_a_random_program_computes_what_it_did(seed):
    x = torch.randn(IMAGES, CHANNELS, 5, 6)
    model = packed(Program(seed).eval(), x)
    found = stretch.find(model, fuse.shapes_of(model, (x.clone(),)))
    fast = stretch.blocked(copy.deepcopy(model), found)
    again = pickle.loads(pickle.dumps(fast))
    backwards = stretch.blocked(copy.deepcopy(model), found[::-1])
    with torch.no_grad():
        expected = model(x.clone())
        for other in (fast, again, backwards):
            assert stretch.stretches_of(other) == found
            for y, wanted in zip(other(x.clone()), expected, strict=True):
                tiny = 1e-4 * float(wanted.abs().max())
                torch.testing.assert_close(y, wanted, rtol=1e-4, atol=tiny)


def test_such_programs_have_stretches():
    x = torch.randn(IMAGES, CHANNELS, 5, 6)
    models = [packed(Program(seed).eval(), x) for seed in range(30)]
    assert sum(bool(stretch.find(m, fuse.shapes_of(m, (x.clone(),)))) for m in models) > 5
