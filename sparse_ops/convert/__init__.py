"""The way from a pruned model to a fast one: plan, apply, save, load; one step a file."""

from sparse_ops.planning.assemble import LayerPlan
from sparse_ops.planning.candidates import LAYERS
from sparse_ops.planning.checkpoint import load, save
from sparse_ops.planning.compiled import compile_
from sparse_ops.planning.differences import Mismatch
from sparse_ops.planning.measure import Comparison
from sparse_ops.planning.memory import Memory
from sparse_ops.planning.planner import plan, sparsify
from sparse_ops.planning.plans import Plan
from sparse_ops.planning.profiling import Profile, ProfileRow, profile
from sparse_ops.planning.recorded import record_
from sparse_ops.planning.unpack import export_onnx, to_dense

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
    "record_",
    "save",
    "sparsify",
    "to_dense",
]
