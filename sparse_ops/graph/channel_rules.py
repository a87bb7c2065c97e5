"""Channel rules: what each operation does to the channels that it is given.

To make an operation known, add it to `RULES`. What PyTorch alone does is in `channel_calls.py`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparse_ops.graph import channel_blocks
from sparse_ops.graph.channel_analysis import Analysis, Known, Rule, Unknown, label
from sparse_ops.graph.channel_calls import call
from sparse_ops.graph.channel_classes import Channels
from sparse_ops.graph.channel_layers import activated
from sparse_ops.graph.channel_steps import binary, elementwise, spatial
from sparse_ops.graph.ir import Node
from sparse_ops.graph.layers import scale_and_shift
from sparse_ops.graph.ops import OPS

Evaluate = Callable[[Sequence[Tensor]], Tensor]


def _own(node: Node) -> Evaluate:
    """What a node gives for tensors, which may be constants of channels."""
    evaluate = OPS[node.op].evaluate
    assert evaluate is not None

    def run(inputs: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return evaluate(node, inputs)

    return run


def _layer(analysis: Analysis, node: Node) -> Channels | None:
    x = analysis.only(node)
    layer = analysis.layer_of(node)
    axis = node.output.rank - 1 if node.op == "linear" else 1
    if x is not None and not node.inputs[0].of_batch:
        # A tensor of the model's own, which may learn.
        reason = f"{label(node)} reads a tensor of the model's own"
        layer.refuse(analysis.classes, x, reason)
        return None
    if x is not None and x.axis != axis:
        reason = f"{label(node)} does not read it along its channels"
        layer.refuse(analysis.classes, x, reason)
        return None
    return layer.call(analysis.classes, node, x, axis)


def _constant(analysis: Analysis, node: Node) -> Channels:
    """What it is given is read by nobody."""
    rows = analysis.rows_of(node, None)
    axis = node.output.rank - (1 if node.attributes["geometry"] is None else 3)
    return Channels(rows.ids, node.parameters["bias"].detach().double().cpu(), axis)


def _norm(analysis: Analysis, node: Node) -> Channels:
    x = analysis.only(node)
    if x is not None and x.axis != 1:
        raise Unknown(f"{label(node)} does not work along the channels of it")
    if x is None:
        x = analysis.channels_at(node.inputs[0], 1)
    analysis.rows_of(node, x.ids)
    scale, shift = (part.cpu() for part in scale_and_shift(node))
    # A scale of zero makes a constant of anything.
    moved = torch.where(scale == 0, shift, x.constant * scale + shift)
    return x.with_constant(activated(node, moved))


def _unary(analysis: Analysis, node: Node) -> Channels | None:
    return elementwise(analysis, node, _own(node))


def _binary(analysis: Analysis, node: Node) -> Channels | None:
    product = node.attributes["operator"] == "mul"
    return binary(analysis, node, node.inputs, _own(node), product)


def _spatial(analysis: Analysis, node: Node) -> Channels | None:
    return spatial(analysis, node, _own(node))


def _flatten(analysis: Analysis, node: Node) -> Channels | None:
    x = analysis.only(node)
    if x is None:
        return None
    if node.attributes["fixed"]:
        raise Unknown("the model's code writes down the shape that it is given")
    if x.axis != 1:
        raise Unknown(f"{label(node)} joins its channels with other dimensions")
    _, _, high, wide = node.inputs[0].shape or ()
    ids = tuple(id_ for id_ in x.ids for _ in range(high * wide))
    return Channels(ids, x.constant.repeat_interleave(high * wide), 1)


def _concat(analysis: Analysis, node: Node) -> Channels | None:
    if all(analysis.channels(value) is None for value in node.inputs):
        return None
    parts = [analysis.channels_at(value, 1) for value in node.inputs]
    if any(part.axis != 1 for part in parts):
        raise Unknown(f"{label(node)} joins other things than channels")
    ids = tuple(id_ for part in parts for id_ in part.ids)
    return Channels(ids, torch.cat([part.constant for part in parts]), 1)


def _slice(analysis: Analysis, node: Node) -> Channels | None:
    x = analysis.only(node)
    if x is None:
        return None
    if x.axis != 1:
        raise Unknown(f"{label(node)} picks from another dimension than its channels")
    first = node.attributes["first"]
    last = first + node.attributes["count"]
    _keep_what_code_counts(analysis, node, x.ids)
    return Channels(x.ids[first:last], x.constant[first:last], 1)


def _keep_what_code_counts(analysis: Analysis, node: Node, ids: tuple[int, ...]) -> None:
    """Keeps what has to stay for the model's code to cut where it did."""
    kind, *numbers = node.attributes["says"]
    reason = f"the model's code writes down how many channels {label(node)} takes"
    if kind == "chunk" and len(ids) % numbers[1] == 0:
        size = len(ids) // numbers[1]
        parts = [ids[at : at + size] for at in range(0, len(ids), size)]
        if parts not in analysis.even:
            analysis.even.append(parts)
    elif kind == "slice":
        for end in numbers:
            if end is not None:
                analysis.classes.keep(ids[end:] if end < 0 else ids[:end], reason)
    else:
        analysis.classes.keep(ids, reason)


def _shuffle(analysis: Analysis, node: Node) -> Channels | None:
    """Channel p of group g becomes channel g of p: a p goes from all groups, or from none."""
    x = analysis.only(node)
    if x is None:
        return None
    if x.axis != 1:
        raise Unknown(f"{label(node)} mixes other things than channels")
    order = torch.arange(len(x.ids)).reshape(node.attributes["groups"], -1)
    for group in order[1:]:
        left, right = (tuple(x.ids[place] for place in row) for row in (order[0], group))
        analysis.classes.join(left, right)
    if node.attributes.get("written"):
        analysis.classes.keep(x.ids, "the model's code writes down how many channels it shuffles")
    places = order.T.flatten()
    return Channels(tuple(x.ids[place] for place in places), x.constant[places], 1)


def _softmax(analysis: Analysis, node: Node) -> Channels | None:
    if analysis.only(node) is None:
        return None
    raise Unknown(f"{label(node)} mixes the channels")


def _call(analysis: Analysis, node: Node) -> Known:
    return call(analysis, node)


RULES: dict[str, Rule] = {
    "conv2d": _layer,
    "linear": _layer,
    "conv1d": _layer,
    "conv3d": _layer,
    "conv_transpose2d": _layer,
    "group_norm": channel_blocks.groups,
    "instance_norm": channel_blocks.instances,
    "prelu": channel_blocks.prelu,
    "constant": _constant,
    "batch_norm": _norm,
    "unary": _unary,
    "binary": _binary,
    "pool": _spatial,
    "adaptive_pool": _spatial,
    "mean": _spatial,
    "pad": _spatial,
    "upsample": _spatial,
    "flatten": _flatten,
    "concat": _concat,
    "slice": _slice,
    "shuffle": _shuffle,
    "softmax": _softmax,
    "call": _call,
}
