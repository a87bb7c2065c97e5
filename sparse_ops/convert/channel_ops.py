"""What each kind of node does to channels, first of all: layers, and what leaves channels alone."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from sparse_ops.convert.channels import NOT_CONSTANT, Value, varying
from sparse_ops.convert.flow import Flow, Unknown, label, norm_ids, unit_of


def op_layer(flow: Flow, node: fx.Node, layer: Any) -> Value | None:
    x = flow.only(node)
    unit = unit_of(flow, str(node.target), layer)
    rank, conv = len(flow.shapes[node]), isinstance(layer, nn.Conv2d)
    axis = 1 if conv else rank - 1
    if (conv and rank != 4) or (x is not None and x.axis != axis):
        reason = f"{node.target} does not read it along its channels"
        unit.refuse(flow.classes, x, reason)
        return None
    return unit.call(flow.classes, layer, x, axis)


def op_norm(flow: Flow, node: fx.Node, norm: Any) -> Value:
    x = flow.only(node)
    if norm.training or norm.running_mean is None:
        raise Unknown(f"{node.target} works with the statistics of the batch")
    if x is not None and x.axis != 1:
        raise Unknown(f"{node.target} does not work along the channels of it")
    if x is None:
        x = flow.channels_at(node.args[0], 1)
    norm_ids(flow, str(node.target), norm, x)
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = torch.zeros_like(scale)
    if norm.weight is not None:
        scale, shift = scale * norm.weight.detach().double(), norm.bias.detach().double()
    shift = (shift - norm.running_mean.double() * scale).cpu()
    moved = x.constant * scale.cpu() + shift
    # A scale of zero makes a constant of anything.
    return x.with_constant(torch.where(scale.cpu() == 0, shift, moved))


def op_same(flow: Flow, node: fx.Node, module: Any) -> Value | None:
    return flow.only(node)


def op_dropout(flow: Flow, node: fx.Node, module: Any) -> Value | None:
    x = flow.only(node)
    if module is not None:
        active = module.training
    else:
        given = dict(zip(("p", "training"), node.args[1:], strict=False)) | dict(node.kwargs)
        active = given.get("training", given.get("train", True))
    if active is not False:
        raise Unknown(f"{label(node)} is active")
    return x


def _call(node: fx.Node, module: Any, x: Tensor, args: Any, kwargs: Any) -> Tensor:
    """What the node does, done to x."""
    if module is not None:
        return module(x)
    if node.op == "call_method":
        return getattr(x, str(node.target))(*args, **kwargs)
    function: Any = node.target
    return function(x, *args, **kwargs)


def op_elementwise(flow: Flow, node: fx.Node, module: Any) -> Value | None:
    x = flow.only(node)
    if x is None:
        return None
    args, kwargs = flow.plain(node.args[1:]), flow.plain(dict(node.kwargs))
    with torch.no_grad():
        result = _call(node, module, x.constant.clone(), args, kwargs)
    return x.with_constant(torch.where(x.constant.isnan(), x.constant, result.double()))


def op_spatial(flow: Flow, node: fx.Node, module: Any) -> Value | None:
    """Works on each channel's pixels alone: constant is what comes out as it went in."""
    x = flow.only(node)
    if x is None:
        return None
    before, after = flow.shapes[node.args[0]], flow.shapes[node]  # type: ignore[index]
    if len(before) != 4 or x.axis != 1 or len(after) < 2 or after[1] != before[1]:
        raise Unknown(f"{label(node)} mixes the channels")
    args, kwargs = flow.plain(node.args[1:]), flow.plain(dict(node.kwargs))
    known = (~x.constant.isnan()).nonzero().flatten()
    constant = x.constant.clone()
    if len(known):
        plane = constant[known].reshape(1, -1, 1, 1).expand(1, -1, *before[2:]).contiguous()
        with torch.no_grad():
            result = _call(node, module, plane, args, kwargs).transpose(0, 1).flatten(1)
        off = (result - constant[known, None]).abs().amax(1)
        # What averages equal numbers may be a rounding off.
        kept = off <= 1e-12 * constant[known].abs()
        constant[known] = torch.where(kept, constant[known], NOT_CONSTANT)
    return x.with_constant(constant)


def op_reduce(flow: Flow, node: fx.Node, module: Any) -> Value | None:
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    dims = [dims] if isinstance(dims, int) else dims
    if not isinstance(dims, list | tuple) or any(d % 4 < 2 for d in dims):
        raise Unknown(f"{label(node)} mixes the channels")
    return op_spatial(flow, node, module)


def op_binary(flow: Flow, node: fx.Node, module: Any) -> Value | None:
    """Sums, products and the like of two tensors, or of a tensor and a number."""
    if len(node.args) != 2:
        raise Unknown(f"{label(node)} is called in a way that is not known")
    sides = [flow.value(side) for side in node.args]
    if all(side is None for side in sides):
        return None
    operands: list[Any] = []
    for side, value in zip(node.args, sides, strict=True):
        if value is not None:
            operands.append(value.constant.clone())
        elif isinstance(side, fx.Node) and side in flow.shapes:
            operands.append(varying(1))
        else:
            operands.append(flow.plain(side))
    x = _joined(flow, node, sides)
    result = _call(node, None, operands[0], operands[1:], flow.plain(dict(node.kwargs)))
    if label(node).strip("_") in ("mul", "imul"):
        zero = torch.zeros(len(x.ids), dtype=torch.bool)
        for operand in operands:
            zero = zero | torch.as_tensor(operand == 0)
        result = torch.where(zero, 0.0, result)
    return x.with_constant(result.double().expand(len(x.ids)))


def _joined(flow: Flow, node: fx.Node, sides: list[Value | None]) -> Value:
    """Whose channels the result has; those of two tensors are joined."""
    shape = flow.shapes[node]
    full: list[Value] = []
    for side, value in zip(node.args, sides, strict=True):
        if isinstance(side, fx.Node) and side in flow.shapes and value is None:
            known = next(v for v in sides if v is not None)
            size = flow.shapes[side][known.axis - len(shape) :] if flow.shapes[side] else ()
            if len(size) == len(shape) - known.axis and size[0] != 1:
                raise Unknown(f"{label(node)} joins it with something whose channels must stay")
        if value is None:
            continue
        own = flow.shapes[side]  # type: ignore[index]
        if len(own) != len(shape):
            raise Unknown(f"{label(node)} spreads it over other dimensions")
        if own[value.axis] == shape[value.axis]:
            full.append(value)
        else:
            flow.classes.keep(value.ids, f"{label(node)} spreads it over all channels")
    if not full or any(value.axis != full[0].axis for value in full):
        raise Unknown(f"{label(node)} mixes the channels")
    for value in full[1:]:
        flow.classes.join(full[0].ids, value.ids)
    return full[0]
