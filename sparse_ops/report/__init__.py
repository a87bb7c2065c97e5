"""Reports: multiplications, the machine, dense baselines, tables and plots."""

from sparse_ops.report.baseline import DenseForms, dense_forms
from sparse_ops.report.machine import Machine, machine
from sparse_ops.report.macs import LayerMacs, count_macs

__all__ = ["DenseForms", "LayerMacs", "Machine", "count_macs", "dense_forms", "machine"]
