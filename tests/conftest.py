"""What all tests share: a seed, and outputs that start as NaN, so that gaps in them show."""

import os
import platform
import zlib

import pytest
import torch

from sparse_ops.ops import _native

# Tests, and what they start, neither read nor write the user's measurements.
os.environ["SPARSE_OPS_CACHE"] = "off"

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers are as many as the cores: more threads would only wait for each other.
    torch.set_num_threads(1)


# The files whose grids run on every instruction set.
GRIDS = (
    "ops/test_activations",
    "ops/test_blocked",
    "ops/test_conv2d",
    "ops/test_csr_linear",
    "ops/test_halves",
    "ops/test_linear_out",
    "ops/test_out",
    "nn/test_blocked",
    "nn/test_into",
    "program/test_",
)
# Of the sets between the best and the portable one, one case in so many stays in `make test`.
ONE_IN = 4


# Of other processors than this one: tests/native_cpp runs what it can of them.
FOREIGN = ("avx512", "avx2") if platform.machine() in ("aarch64", "arm64") else ("neon",)


def _sets_of(item):
    """The instruction sets, and backends, that a test is for."""
    given = item.callspec.params.values() if hasattr(item, "callspec") else ()
    parts = [part for each in given for part in (each if isinstance(each, tuple) else (each,))]
    names = [getattr(part, "name", part) for part in parts]
    return [name for name in names if isinstance(name, str)]


def pytest_collection_modifyitems(config, items):
    elsewhere = {item for item in items if set(_sets_of(item)) & set(FOREIGN)}
    if elsewhere:
        config.hook.pytest_deselected(items=list(elsewhere))
        items[:] = [item for item in items if item not in elsewhere]
    # What this CPU does not choose itself; all of it is in `make test-portable`.
    slower = _native.ISAS[_native.ISAS.index(_native.BEST) + 1 :] if _native.BEST else ()
    for item in items:
        if not any(file in item.path.as_posix() for file in GRIDS) or not hasattr(item, "callspec"):
            continue
        given = [getattr(each, "name", each) for each in item.callspec.params.values()]
        sets = [isa for isa in slower if isa in given]
        stays = zlib.crc32(item.nodeid.encode()) % ONE_IN == 0 and _native.ISAS[-1] not in sets
        if sets and not stays:
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
