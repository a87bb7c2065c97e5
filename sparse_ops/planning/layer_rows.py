"""The rows of a plan before anything is timed: what a layer is, and whether it can change."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sparse_ops.graph.ir import Graph
from sparse_ops.passes.shrink import Shrinking
from sparse_ops.planning.assemble import LayerPlan, weight_name
from sparse_ops.planning.masked import PACKED, Call, keeps_dense
from sparse_ops.planning.recognise import describe_zeros

# The nodes that are calls of layers that have rows.
CALLED = ("conv2d", "conv1d", "conv_transpose2d", "linear")
NOTHING = "no weight that is left is zero"
NO_MASK = "it has no mask: no weight of it is zero"
NOT_GIVEN = "no mask was given for it"


def row_of(
    name: str,
    module: nn.Module,
    masks: Mapping[str, Tensor],
    call: Call | None,
    given: bool = False,
) -> LayerPlan:
    """The row of a layer as it is.

    Args:
        given: whether the masks were given, so that a layer without may have zeros.
    """
    weight, mask = module.get_parameter("weight"), masks.get(weight_name(name))
    nnz = weight.numel() if mask is None else int(mask.sum())
    kind = next(k.__name__ for k in PACKED if isinstance(module, k))
    transposed = isinstance(module, nn.ConvTranspose2d)
    zeros = "" if mask is None else describe_zeros(mask.transpose(0, 1) if transposed else mask)
    macs = 0 if call is None else call.macs(weight, transposed)
    row = LayerPlan(name, kind, tuple(weight.shape), nnz, macs, None, None, None, None, "")
    reason = "" if mask is not None else NOT_GIVEN if given else NO_MASK
    return replace(row, zeros=zeros, reason=reason)


def calls_of(graph: Graph) -> dict[str, Call]:
    """What the layers of a graph are given and give, without running it; x has no memory."""
    found: dict[str, Call] = {}
    for node in graph.nodes:
        if node.op not in CALLED or node.module is None:
            continue
        x, y = node.inputs[0], node.output
        assert x.shape is not None and y.shape is not None
        if node.module not in found:
            found[node.module] = Call(torch.empty(x.shape, dtype=x.dtype, device="meta"))
        call = found[node.module]
        call.calls, call.outputs = call.calls + 1, call.outputs + math.prod(y.shape)
    return found


def after_shrinking(
    row: LayerPlan, base: nn.Module, shrinking: Shrinking, call: Call | None
) -> LayerPlan:
    """The row of a layer after shrinking, with the reason if it is not to be packed."""
    cut, mask = shrinking.cuts.get(row.name), shrinking.masks.get(weight_name(row.name))
    if cut is not None:
        left = cut.shape if cut.shape != cut.before else None
        row = replace(row, left=left, constant=cut.constant)
        row = replace(row, dead_kept=cut.kept, dead_why=cut.why)
    if row.constant:
        return replace(row, nnz=0, reason="no weight is left: its bias takes its place")
    if mask is not None:
        row = replace(row, nnz=int(mask.sum()))
    elif row.left is not None:
        row = replace(row, nnz=base.get_submodule(row.name).get_parameter("weight").numel())
    return replace(row, reason=_stays(base, row, mask, call) or "")


def _stays(base: nn.Module, row: LayerPlan, mask: Tensor | None, call: Call | None) -> str | None:
    """Why a layer stays dense without being measured, or None if it may change."""
    if mask is None:
        return NOTHING if row.left else row.reason
    if bool(mask.all()):
        return NOTHING if row.left else "its mask keeps every weight"
    if row.nnz == 0:
        return "no weight is left, so there is nothing to pack: its output is its bias"
    if call is None:
        owner = base.get_submodule(row.name.rpartition(".")[0])
        if isinstance(owner, nn.MultiheadAttention):
            return "MultiheadAttention reads its weight itself"
        return "the model never called it on the example"
    return keeps_dense(base, row.name)
