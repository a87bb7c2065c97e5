"""The way from a pruned model to a fast one: plan, apply, save, load; one step a file."""

from sparse_ops.convert.assemble import LayerPlan
from sparse_ops.convert.candidates import LAYERS
from sparse_ops.convert.checkpoint import load, save
from sparse_ops.convert.compiled import compile_
from sparse_ops.convert.measure import Comparison
from sparse_ops.convert.memory import Memory
from sparse_ops.convert.planner import plan, sparsify
from sparse_ops.convert.plans import Plan
from sparse_ops.convert.profiling import Profile, ProfileRow, profile
from sparse_ops.convert.unpack import export_onnx, to_dense
from sparse_ops.convert.verify import Mismatch

__all__ = [
    "LAYERS",
    "Comparison",
    "LayerPlan",
    "Memory",
    "Mismatch",
    "Plan",
    "Profile",
    "ProfileRow",
    "compile_",
    "export_onnx",
    "load",
    "plan",
    "profile",
    "save",
    "sparsify",
    "to_dense",
]
