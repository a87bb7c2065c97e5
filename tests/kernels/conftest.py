"""TRITON_INTERPRET is read when a kernel is decorated: those tests need a process of their own."""

from sparse_ops.ops import _kernels, _triton

collect_ignore = [] if _kernels.INTERPRETED and _triton.MISSING is None else ["interpreted"]
