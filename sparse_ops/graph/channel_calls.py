"""Channel rules of calls: operations that only PyTorch does, as far as they are known.

To make a module, a function or a method known, add it to a table. Whatever is in none keeps the
channels that it is given.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_ops.graph import channel_blocks as blocks
from sparse_ops.graph import channel_shapes as shapes
from sparse_ops.graph.channel_analysis import (
    Analysis,
    Count,
    Known,
    Rule,
    Sizes,
    Unknown,
    label,
    module_of,
)
from sparse_ops.graph.channel_classes import NOT_CONSTANT, Channels
from sparse_ops.graph.channel_shapes import arguments
from sparse_ops.graph.channel_steps import binary, elementwise, spatial
from sparse_ops.graph.ir import Node, Value


def _tensors(node: Node) -> list[Value]:
    return [value for value in node.inputs if value.shape is not None]


def _own(node: Node, graph_root: nn.Module) -> Callable[[Sequence[Tensor]], Any]:
    """What a node gives, its tensors being these; numbers are as they were on the example."""

    def run(tensors: Sequence[Tensor]) -> Any:
        left = iter(tensors)
        inputs = [next(left) if v.shape is not None else v.plain for v in node.inputs]
        assert node.call is not None
        with torch.no_grad():
            return node.call(graph_root, inputs)

    return run


def _elementwise(analysis: Analysis, node: Node) -> Channels | None:
    if len(_tensors(node)) != 1:
        raise Unknown(f"{label(node)} is given more than one tensor")
    return elementwise(analysis, node, _own(node, analysis.graph.root))


def _spatial(analysis: Analysis, node: Node, rank: int = 4) -> Channels | None:
    if len(_tensors(node)) != 1:
        raise Unknown(f"{label(node)} is given more than one tensor")
    return spatial(analysis, node, _own(node, analysis.graph.root), rank)


def _reduce(analysis: Analysis, node: Node) -> Channels | None:
    args, kwargs = arguments(node)
    dims = kwargs.get("dim", args[0] if args else None)
    dims = [dims] if isinstance(dims, int) else dims
    rank = max(node.inputs[0].rank, 1)
    if not isinstance(dims, list | tuple) or any(d % rank < 2 for d in dims):
        raise Unknown(f"{label(node)} mixes the channels")
    found = _spatial(analysis, node, rank)
    if found is None or label(node) != "sum":
        return found
    # As large as there are pixels, of which other images have more.
    return found.with_constant(torch.where(found.constant == 0, 0.0, NOT_CONSTANT))


def _binary(analysis: Analysis, node: Node) -> Channels | None:
    product = label(node).strip("_") in ("mul", "imul") and len(_tensors(node)) == 2
    return binary(analysis, node, _tensors(node), _own(node, analysis.graph.root), product)


def _compared(analysis: Analysis, node: Node) -> Channels | None:
    """What tells of no number that it is unknown: it is done for known ones only."""
    run = _own(node, analysis.graph.root)
    sides = _tensors(node)

    def known(constants: Sequence[Tensor]) -> Tensor:
        as_they_are = [
            constant.nan_to_num().to(side.dtype) if side.dtype is torch.bool else constant
            for side, constant in zip(sides, constants, strict=True)
        ]
        unknown = torch.stack(torch.broadcast_tensors(*constants)).isnan().any(0)
        return torch.where(unknown, NOT_CONSTANT, run(as_they_are).double())

    return binary(analysis, node, sides, known, False)


def _larger(analysis: Analysis, node: Node) -> Channels | None:
    """The larger of two tensors; of one, along a dimension, it gives two."""
    if len(_tensors(node)) == 2:
        return _binary(analysis, node)
    if analysis.only(node) is None:
        return None
    raise Unknown(f"{label(node)} of one tensor mixes the channels")


def _cast(analysis: Analysis, node: Node) -> Channels | None:
    """Another type; of what else is given only that is read."""
    x = analysis.channels(node.inputs[0])
    if x is None:
        return None
    others = [torch.empty(0, dtype=value.dtype) for value in _tensors(node)[1:]]
    run = _own(node, analysis.graph.root)
    result = run([x.constant.clone(), *others]).double()
    return x.with_constant(torch.where(x.constant.isnan(), x.constant, result))


def _same(analysis: Analysis, node: Node) -> Channels | None:
    return analysis.only(node)


def _pad(analysis: Analysis, node: Node) -> Channels | None:
    args, kwargs = arguments(node)
    sizes = args[0] if args else kwargs.get("pad")
    if isinstance(sizes, list | tuple) and len(sizes) <= 4:
        return _spatial(analysis, node)
    given = dict(zip(("mode", "value"), args[1:], strict=False)) | kwargs
    x = analysis.only(node)
    if x is None:
        return None
    zeros = given.get("mode", "constant") == "constant" and not given.get("value")
    if not isinstance(sizes, list | tuple) or len(sizes) != 6 or any(sizes[:4]):
        raise Unknown(f"{label(node)} pads in a way that is not known")
    if not zeros or x.axis != 1 or node.output.rank != 4:
        raise Unknown(f"{label(node)} pads in a way that is not known")
    reason = f"{label(node)} adds channels, as many as the model's code says"
    ids, constant = x.ids, x.constant
    for count, first in ((int(sizes[4]), True), (int(sizes[5]), False)):
        if count < 0:
            raise Unknown(f"{label(node)} takes channels away")
        new, none = analysis.classes.new(count, reason), torch.zeros(count, dtype=torch.float64)
        ids = new + ids if first else ids + new
        constant = torch.cat([none, constant] if first else [constant, none])
    return Channels(ids, constant, 1)


def _beside(analysis: Analysis, node: Node) -> Channels | None:
    """Moves pixels along other dimensions than the channels'."""
    x = analysis.only(node)
    args, kwargs = arguments(node)
    given = args[1:2] if label(node) == "roll" else args
    dims = kwargs.get("dims", given[0] if len(given) == 1 else given)
    dims = (dims,) if isinstance(dims, int) else dims
    rank = node.inputs[0].rank
    if x is not None and (not dims or any(type(d) is not int or d % rank == x.axis for d in dims)):
        raise Unknown(f"{label(node)} moves the channels")
    return x


def _nothing(analysis: Analysis, node: Node) -> None:
    """Asks for what no channel has a part in."""


def _table(rule: Rule, *keys: Any) -> dict[Any, Rule]:
    return dict.fromkeys(keys, rule)


MODULES: dict[Any, Rule] = {
    **_table(_elementwise, nn.CELU, nn.SELU, nn.Softsign, nn.LogSigmoid, nn.Hardshrink),
    **_table(_elementwise, nn.Softshrink, nn.Tanhshrink, nn.Threshold, nn.RReLU),
    **_table(partial(_spatial, rank=3), nn.MaxPool1d, nn.AvgPool1d),
    **_table(partial(_spatial, rank=3), nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
    **_table(partial(_spatial, rank=5), nn.MaxPool3d, nn.AvgPool3d),
    **_table(partial(_spatial, rank=5), nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d),
    **_table(_spatial, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    **_table(_spatial, nn.LPPool2d, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    **_table(_spatial, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d),
    **_table(blocks.mixes, nn.LayerNorm, nn.LocalResponseNorm, nn.Softmax, nn.Softmax2d),
    nn.Flatten: shapes.flatten,
    nn.PixelShuffle: blocks.pixel_shuffle,
    nn.PixelUnshuffle: blocks.pixel_unshuffle,
    nn.GLU: blocks.gate,
}
FUNCTIONS: dict[Any, Rule] = {
    **_table(_elementwise, F.selu, F.celu, F.softsign, F.logsigmoid, F.hardshrink, F.softshrink),
    **_table(_elementwise, F.tanhshrink, F.threshold, F.rrelu, torch.clip, torch.clamp_min),
    **_table(_elementwise, torch.clamp_max, torch.erf, torch.log, torch.log1p, torch.expm1),
    **_table(_elementwise, torch.sin, torch.cos, torch.rsqrt, torch.pow, operator.pow),
    **_table(_elementwise, torch.sign, torch.floor, torch.round, torch.isnan, torch.logical_not),
    **_table(partial(_spatial, rank=3), F.max_pool1d, F.avg_pool1d, F.adaptive_avg_pool1d),
    **_table(partial(_spatial, rank=5), F.max_pool3d, F.avg_pool3d, F.adaptive_avg_pool3d),
    **_table(_spatial, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    **_table(_spatial, torch.max_pool2d, F.lp_pool2d, F.interpolate),
    **_table(_reduce, torch.mean, torch.amax, torch.amin, torch.sum),
    **_table(_binary, operator.add, operator.sub, operator.mul, operator.truediv),
    **_table(_binary, operator.iadd, operator.isub, operator.imul, operator.itruediv),
    **_table(_binary, torch.add, torch.sub, torch.mul, torch.div, torch.lerp, torch.addcmul),
    **_table(_binary, torch.maximum, torch.minimum, torch.atan2, torch.fmod),
    **_table(_compared, operator.gt, operator.ge, operator.lt, operator.le, operator.eq),
    **_table(_compared, operator.ne, torch.gt, torch.ge, torch.lt, torch.le, torch.eq, torch.ne),
    **_table(_compared, torch.where, torch.logical_and, torch.logical_or),
    **_table(_compared, operator.and_, operator.or_),
    **_table(_larger, torch.max, torch.min),
    **_table(shapes.view, torch.reshape),
    **_table(_beside, torch.flip, torch.roll),
    **_table(shapes.permute, torch.permute),
    **_table(shapes.transpose, torch.transpose, torch.swapaxes),
    **_table(blocks.mixes, F.layer_norm, F.softmax, torch.softmax, F.local_response_norm),
    **_table(shapes.pieces, torch.chunk, torch.split, torch.unbind, torch.tensor_split),
    torch.unsqueeze: shapes.unsqueeze,
    torch.squeeze: shapes.squeeze,
    torch.flatten: shapes.flatten,
    F.pad: _pad,
    F.pixel_shuffle: blocks.pixel_shuffle,
    F.pixel_unshuffle: blocks.pixel_unshuffle,
    F.glu: blocks.gate,
    F.batch_norm: blocks.batch_norm,
    operator.getitem: shapes.index,
    getattr: shapes.get_attribute,
}
METHODS: dict[str, Rule] = {
    **_table(_binary, "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "maximum"),
    **_table(_binary, "minimum", "lerp", "addcmul"),
    **_table(_compared, "gt", "ge", "lt", "le", "eq", "ne", "logical_and", "logical_or", "where"),
    **_table(_larger, "max", "min"),
    **_table(_elementwise, "clip", "clip_", "clamp_min", "clamp_max", "erf", "log", "log1p"),
    **_table(_elementwise, "expm1", "sin", "cos", "rsqrt", "pow", "pow_", "sign", "floor", "round"),
    **_table(_cast, "to", "type", "type_as", "float", "double", "half", "bfloat16", "int", "long"),
    **_table(_cast, "bool"),
    **_table(_same, "contiguous", "clone", "detach"),
    **_table(_reduce, "mean", "amax", "amin", "sum"),
    **_table(shapes.view, "view", "reshape"),
    **_table(_beside, "flip", "roll"),
    **_table(shapes.transpose, "transpose", "swapaxes"),
    **_table(shapes.expand, "expand", "expand_as"),
    **_table(blocks.mixes, "softmax"),
    **_table(shapes.pieces, "chunk", "split", "unbind", "tensor_split"),
    "permute": shapes.permute,
    "unsqueeze": shapes.unsqueeze,
    "repeat": shapes.repeat,
    "flatten": shapes.flatten,
    "squeeze": shapes.squeeze,
    "size": shapes.size,
    "dim": _nothing,
}
# What may be told the number of channels.
_TOLD = (shapes.view, shapes.expand, shapes.index, blocks.mixes)


def call(analysis: Analysis, node: Node) -> Known:
    """The rule of "call" nodes.

    Raises:
        Unknown: there is none for this one, or it does not know what it is given; says why.
    """
    module = module_of(analysis.graph, node)
    assert node.call is not None
    if node.call.kind == "attribute":
        return blocks.attribute(analysis, node)
    rule = METHODS.get(node.call.target) if node.call.kind == "method" else None
    if module is not None:
        rule = MODULES.get(type(module))
    elif node.call.kind == "function":
        rule = next((r for f, r in FUNCTIONS.items() if f is node.call.target), None)
    if rule is None:
        kind = type(module).__name__ if module is not None else "its own code"
        raise Unknown(f"it goes into {label(node)} ({kind}), which is not known here")
    asked = [analysis.known.get(id(value)) for value in node.inputs]
    if rule not in _TOLD and any(isinstance(each, Sizes | Count) for each in asked):
        raise Unknown("the model's code works with the number of its channels")
    return rule(analysis, node)
