"""Memory: what planning and applying take of it, and what a plan says of models."""

from pathlib import Path

import pytest
import torch
from torch import nn

from sparse_ops.planning.memory import memory_of
from tests.convert.planning import planned
from tests.processes import python

CODE = """
import torch
from torch import nn
import sparse_ops as so

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))

def network():
    layers = []
    for _ in range(5):
        layers += [nn.Conv2d(512, 512, 3, padding=1, bias=False), nn.BatchNorm2d(512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * 16, 512)).eval()

def pruned(model):
    for weight in so.masks.weights(model).values():
        with torch.no_grad():
            weight.mul_(torch.rand_like(weight) > 0.95)
    return model

x = torch.randn(1, 512, 4, 4)
# What torch and its libraries take when they are first used is not the model's.
small = pruned(nn.Sequential(nn.Conv2d(512, 64, 3, padding=1), nn.BatchNorm2d(64)).eval())
so.plan(small, x, budget_s=0.1, compile=False, progress=False).apply(small)
model = pruned(network())
with torch.no_grad():
    model(x)
# The peak from here on.
open("/proc/self/clear_refs", "w").write("5")
before = peak()
plan = so.plan(model, x, budget_s=1, compile=False, progress=False)
fast = plan.apply(model)
size = sum(tensor.nbytes for tensor in model.state_dict().values())
print(size, peak() - before)
"""


def test_the_process_grows_by_less_than_four_times_the_model():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux says how much memory a process had at most")
    # What is freed goes back to the system: counted is what is needed, not what glibc keeps of it,
    # which is up to another model's size and differs from run to run.
    kept = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    # What is tried depends on times, and these on what else the machine does: the least counts.
    for _ in range(3):
        size, grown = map(int, python(CODE, **kept).split())
        if grown < 4 * size:
            break
    assert size > 50 << 20
    # Activations are a few MiB here.
    assert grown < 4 * size


def test_memory_is_told_of_all_images_of_the_example():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3)
    ).eval()
    with torch.no_grad():
        model[3].weight.mul_(torch.rand(16, 16, 3, 3) > 0.9)
    # Planning traces two of them, or seventeen where they are many.
    for batch in (1, 8, 40):
        plan = planned(model, example=torch.randn(batch, 3, 12, 12))
        assert plan.memory().programs == 1 and plan.memory().piece == batch
        assert plan.memory() == memory_of(model, plan.apply(model))
