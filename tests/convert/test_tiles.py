"""The tiles of Winograd's algorithm that a plan may use, from the option to the file."""

import pytest
import torch
from torch import nn

import sparse_ops as so
from sparse_ops.ops import _native
from sparse_ops.ops._program_code import KERNELS
from sparse_ops.planning.differences import Mismatch
from sparse_ops.planning.verify_model import check_model
from sparse_ops.program.model import programs_of
from tests.convert.models import says

pytestmark = pytest.mark.skipif(_native.MISSING is not None, reason=str(_native.MISSING))


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(32, 16, 1), nn.Flatten()).eval()
    with torch.no_grad():
        model[4].weight[torch.rand(16, 32) > 0.2] = 0
    return model


def kernels(fast):
    programs = programs_of(fast)
    made = [item for items in programs.made(fast) for item in items]
    return {step["kernel"] for item in made for step in item.program.steps if step.kind == "conv"}


@pytest.mark.parametrize("tiles", ["2x2", "4x4"])
def test_the_option_reaches_programs_and_files(tmp_path, tiles):
    model, x = network(), torch.rand(16, 16, 12, 12)
    plan = so.plan(model, x, measure=says(2.0), winograd=tiles, progress=False)
    assert plan.decisions.winograd == tiles
    assert ("F(4×4, 3×3)" in str(plan)) == (tiles == "4x4")
    fast = plan.apply(model)
    so.save(fast, tmp_path / "fast.safetensors")
    wanted = KERNELS["4x4"] if tiles == "4x4" else KERNELS["auto"]
    with torch.no_grad():
        expected = model(x)
        for one in (fast, *(so.load(tmp_path / "fast.safetensors", m) for m in (None, network()))):
            torch.testing.assert_close(one(x), expected, rtol=1e-4, atol=1e-5)
            if programs_of(one) is not None:
                assert wanted in kernels(one)


def test_other_tiles_are_refused():
    with pytest.raises(ValueError, match="winograd must be one of 2x2, 4x4, got '6x6'"):
        so.plan(network(), torch.rand(1, 16, 12, 12), winograd="6x6")


def test_a_wrong_model_is_found_with_large_tiles_too():
    model, x = network(), torch.rand(16, 16, 12, 12)
    fast = so.plan(model, x, measure=says(2.0), winograd="4x4", progress=False).apply(model)
    assert check_model(model, fast, (x,)) is None
    with torch.no_grad():
        fast[0].weight[3, 2, 1, 1] += 1e-2
    with pytest.raises(Mismatch):
        check_model(model, fast, (x,))
