"""All tests here run kernels in the mended interpreter."""

import pytest

from sparse_ops.ops import csr_linear
from tests.kernels import interpreter

interpreter.install()


@pytest.fixture(autouse=True)
def _batches_beyond_the_preferred_ones(monkeypatch):
    # The kernel is right beyond the batch from which the dense product is preferred, too.
    monkeypatch.setattr(csr_linear, "MOST_BATCH", 1 << 30)
