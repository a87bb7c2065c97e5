"""What all tests share: a seed, and outputs that start as NaN, so that gaps in them show."""

import os

import pytest
import torch

# Tests, and what they start, neither read nor write the user's measurements.
os.environ["SPARSE_OPS_CACHE"] = "off"

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers are as many as the cores: more threads would only wait for each other.
    torch.set_num_threads(1)


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
