"""What all tests of programs share."""

import pytest
import torch

from sparse_ops.ops import _native


@pytest.fixture(autouse=True)
def _memory_begins_as_nan():
    """What no step has written shows in whatever is computed of it."""
    if _native.MISSING is None:
        torch.ops.sparse_ops.poison_programs(True)
    yield
    if _native.MISSING is None:
        torch.ops.sparse_ops.poison_programs(False)
