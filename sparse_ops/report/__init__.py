"""Reports: multiplications, the machine, forms of a model, tables and plots."""

from sparse_ops.report.baseline import Forms, forms_of
from sparse_ops.report.machine import Machine, keep_freed_memory, machine
from sparse_ops.report.macs import LayerMacs, count_macs

__all__ = [
    "Forms",
    "LayerMacs",
    "Machine",
    "count_macs",
    "forms_of",
    "keep_freed_memory",
    "machine",
]
