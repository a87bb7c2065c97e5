"""What all tests share: a seed, and outputs that start as NaN, so that gaps in them show."""

import os

import pytest
import torch

from sparse_ops.ops import _native

# Tests, and what they start, neither read nor write the user's measurements.
os.environ["SPARSE_OPS_CACHE"] = "off"

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers are as many as the cores: more threads would only wait for each other.
    torch.set_num_threads(1)


# The files whose grids run on every backend.
GRIDS = (
    "ops/test_conv2d",
    "ops/test_out",
    "ops/test_halves",
    "ops/test_blocked",
    "nn/test_blocked",
    "program/test_",
)


def pytest_collection_modifyitems(items):
    if _native.ISAS[-1] == _native.BEST:
        # Here the portable kernels are what everybody runs.
        return
    for item in items:
        if not any(file in item.path.as_posix() for file in GRIDS) or not hasattr(item, "callspec"):
            continue
        given = item.callspec.params.values()
        if any(getattr(each, "name", each) == _native.ISAS[-1] for each in given):
            item.add_marker(pytest.mark.portable)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def poisoned():
    """torch.empty gives NaN: whatever a kernel leaves unwritten is then found by any comparison."""
    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)
    torch.utils.deterministic.fill_uninitialized_memory = fill
