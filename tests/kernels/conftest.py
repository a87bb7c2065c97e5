"""TRITON_INTERPRET is read when a kernel is decorated: those tests need a process of their own."""

import os

from sparse_ops.ops import _kernels, _triton

collect_ignore = [] if _kernels.INTERPRETED and _triton.MISSING is None else ["interpreted"]


def pytest_collection_modifyitems(items):
    """With SPARSE_OPS_SHARD=2/8, the third of eight parts: for whoever runs eight processes."""
    own, _, shards = os.environ.get("SPARSE_OPS_SHARD", "0/1").partition("/")
    items[:] = items[int(own) :: int(shards)]
