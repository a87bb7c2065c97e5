"""TRITON_INTERPRET is read when a kernel is decorated: those tests need a process of their own."""

import os

import pytest

from sparse_ops.ops import _kernels, _triton
from tests.kernels import stand_in_driver

collect_ignore = [] if _kernels.INTERPRETED and _triton.MISSING is None else ["interpreted"]


def pytest_collection_modifyitems(items):
    """With SPARSE_OPS_SHARD=2/8, the third of eight parts: for whoever runs eight processes."""
    own, _, shards = os.environ.get("SPARSE_OPS_SHARD", "0/1").partition("/")
    items[:] = items[int(own) :: int(shards)]


@pytest.fixture(scope="session")
def _libcuda(tmp_path_factory):
    if stand_in_driver.COMPILER is None:
        pytest.skip("there is no C compiler")
    return stand_in_driver.built(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def stand_in(_libcuda):
    """A driver that is none."""
    argument = _kernels.kernels("periodic_conv2d").Problem
    return stand_in_driver.StandIn(_libcuda, argument)
