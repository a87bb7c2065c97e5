"""Channel rules of what works on several channels at once, or has a number for each of them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_ops.graph.channel_analysis import Analysis, Unknown, label, module_of
from sparse_ops.graph.channel_classes import NOT_CONSTANT, Channels, varying
from sparse_ops.graph.channel_layers import name_of
from sparse_ops.graph.channel_shapes import arguments
from sparse_ops.graph.ir import Node, Value


def mixes(analysis: Analysis, node: Node) -> None:
    """What makes every channel of all of them."""
    if all(analysis.channels(value) is None for value in node.inputs):
        return
    module = module_of(analysis.graph, node)
    kind = "" if module is None else f" ({type(module).__name__})"
    raise Unknown(
        f"{label(node)}{kind} works out one number from all channels, those that are zero included"
    )


def _in_blocks(x: Channels, size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(x.ids[first : first + size] for first in range(0, len(x.ids), size))


def _join(analysis: Analysis, blocks: tuple[tuple[int, ...], ...]) -> None:
    """Has channels of a block go together or not at all."""
    for block in blocks:
        for other in block[1:]:
            analysis.classes.join((block[0],), (other,))


def _factor(analysis: Analysis, node: Node, name: str) -> int:
    module = module_of(analysis.graph, node)
    if module is not None:
        return int(getattr(module, name))
    args, kwargs = arguments(node)
    return int(kwargs.get(name, args[0] if args else 0))


def pixel_shuffle(analysis: Analysis, node: Node) -> Channels | None:
    """Blocks of channels become one each, of more pixels."""
    x = analysis.only(node)
    if x is None:
        return None
    if x.axis != 1 or node.inputs[0].rank != 4:
        raise Unknown(f"{label(node)} mixes other things than channels")
    blocks = _in_blocks(x, _factor(analysis, node, "upscale_factor") ** 2)
    _join(analysis, blocks)
    constants = x.constant.reshape(len(blocks), -1)
    alike = (constants == constants[:, :1]).all(1)
    constant = torch.where(alike, constants[:, 0], NOT_CONSTANT)
    return Channels(tuple(block[0] for block in blocks), constant, 1)


def pixel_unshuffle(analysis: Analysis, node: Node) -> Channels | None:
    """Every channel becomes several, of fewer pixels."""
    x = analysis.only(node)
    if x is None:
        return None
    if x.axis != 1 or node.inputs[0].rank != 4:
        raise Unknown(f"{label(node)} mixes other things than channels")
    times = _factor(analysis, node, "downscale_factor") ** 2
    ids = tuple(id_ for id_ in x.ids for _ in range(times))
    return Channels(ids, x.constant.repeat_interleave(times), 1)


def gate(analysis: Analysis, node: Node) -> Channels | None:
    """GLU: the first half of the channels times what the second half lets through."""
    x = analysis.only(node)
    if x is None:
        return None
    module = module_of(analysis.graph, node)
    if module is not None:
        dim = module.dim
    else:
        args, kwargs = arguments(node)
        dim = kwargs.get("dim", args[0] if args else -1)
    if not isinstance(dim, int) or dim % node.inputs[0].rank != x.axis:
        raise Unknown(f"{label(node)} halves another dimension than its channels")
    half = len(x.ids) // 2
    analysis.classes.join(x.ids[:half], x.ids[half:])
    first, second = x.constant[:half], x.constant[half:]
    passed = torch.where(first == 0, 0.0, first * second.sigmoid())
    return Channels(x.ids[:half], varying(half), x.axis).with_constant(passed)


def groups(analysis: Analysis, node: Node) -> Channels | None:
    """GroupNorm: a group of constants gives constants, and goes as a whole; others stay."""
    x = _along_channels(analysis, node)
    if x is None:
        return None
    count = node.attributes["groups"]
    size = len(x.ids) // count
    constant = x.constant.clone()
    for number, block in enumerate(_in_blocks(x, size)):
        own = x.constant[number * size : (number + 1) * size]
        if bool(own.isnan().any()):
            reason = f"{name_of(node)} (GroupNorm) takes one mean over its whole group"
            analysis.classes.keep(block, reason)
            constant[number * size : (number + 1) * size] = NOT_CONSTANT
        else:
            _join(analysis, (block,))
            spread = own.var(unbiased=False) + node.attributes["eps"]
            constant[number * size : (number + 1) * size] = (own - own.mean()) * spread.rsqrt()
    return _affine(analysis, node, x, constant)


def instances(analysis: Analysis, node: Node) -> Channels | None:
    """InstanceNorm: what is the same in all pixels is its own mean."""
    x = _along_channels(analysis, node)
    if x is None:
        return None
    constant = torch.where(x.constant.isnan(), NOT_CONSTANT, 0.0)
    return _affine(analysis, node, x, constant)


def _along_channels(analysis: Analysis, node: Node) -> Channels | None:
    x = analysis.only(node)
    if x is None and node.parameters:
        x = analysis.channels_at(node.inputs[0], 1)
    if x is not None and x.axis != 1:
        raise Unknown(f"{label(node)} does not work along the channels of it")
    return x


def _affine(analysis: Analysis, node: Node, x: Channels, constant: Tensor) -> Channels:
    """Constants after a norm's own weights, which are rows of its channels."""
    if node.parameters:
        analysis.rows_of(node, x.ids)
        weight, bias = (_numbers(node, name) for name in ("weight", "bias"))
        if weight is not None:
            constant = torch.where(weight == 0, 0.0, constant * weight)
        constant = constant if bias is None else constant + bias
    return Channels(x.ids, constant, 1)


def _numbers(node: Node, name: str) -> Tensor | None:
    held = node.parameters.get(name)
    return None if held is None else held.detach().double().cpu()


def prelu(analysis: Analysis, node: Node) -> Channels | None:
    x, weight = analysis.only(node), _numbers(node, "weight")
    assert weight is not None
    if len(weight) > 1:
        x = x or analysis.channels_at(node.inputs[0], 1)
        if x.axis != 1:
            raise Unknown(f"{label(node)} does not work along the channels of it")
        analysis.rows_of(node, x.ids)
    if x is None:
        return None
    return x.with_constant(torch.where(x.constant < 0, weight * x.constant, x.constant))


def attribute(analysis: Analysis, node: Node) -> Channels | None:
    """A tensor of the model that its code reads: channels, if it may have a number for each."""
    held = node.parameters.get("value")
    if held is None or not held.is_floating_point() or id(held) in analysis.elsewhere:
        return None
    assert node.call is not None
    owner, _, name = str(node.call.target).rpartition(".")
    module = analysis.graph.root.get_submodule(owner)
    if name not in module._parameters and name not in module._buffers:
        # The code has made it of numbers.
        return None
    if name in module._non_persistent_buffers_set:
        # No file would have it.
        return None
    if any(holder.op != "call" for holder in analysis.holders[id(held)]):
        return None
    long = [axis for axis, size in enumerate(held.shape) if size > 1]
    if held.dim() == 4 and held.shape[0] == 1 and held.shape[1] > 1:
        long = [1]
    if len(long) != 1:
        return None
    (axis,) = long
    rows = analysis.rows_of(node, None, axis)
    numbers = held.detach().double().cpu().transpose(0, axis).reshape(held.shape[axis], -1)
    alike = (numbers == numbers[:, :1]).all(1)
    constant = torch.where(alike, numbers[:, 0], NOT_CONSTANT)
    return Channels(rows.ids, varying(len(rows.ids)), axis).with_constant(constant)


def batch_norm(analysis: Analysis, node: Node) -> Channels | None:
    """F.batch_norm with tensors of the model's own."""
    assert node.call is not None
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum")
    given = dict(zip((*names, "eps"), node.call.args, strict=False)) | node.call.kwargs
    if given.get("training", False) is not False or isinstance(given.get("eps"), Value):
        raise Unknown(f"{label(node)} works with the statistics of the batch")
    found = [analysis.channels(value) for value in node.inputs]
    if all(each is None for each in found):
        return None
    x = found[0]
    if x is None or x.axis != 1 or any(each is None or each.axis for each in found[1:]):
        raise Unknown(f"{label(node)} joins it with something whose channels must stay")
    constants = {}
    for each in found[1:]:
        assert each is not None
        analysis.classes.join(x.ids, each.ids)
    for name, place in given.items():
        if name in names[1:5] and place is not None:
            each = found[place.input]
            assert each is not None
            constants[name] = each.constant
    mean, variance, weight, bias = (constants.get(name) for name in names[1:5])
    eps = given.get("eps", 1e-5)
    result = F.batch_norm(x.constant[None], mean, variance, weight, bias, eps=eps)
    return x.with_constant(result[0])
