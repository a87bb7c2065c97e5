"""What rules share: arithmetic on the constants of channels, pixel by pixel or plane by plane."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sparse_ops.graph.channel_analysis import Analysis, Unknown, label
from sparse_ops.graph.channel_classes import NOT_CONSTANT, Channels, varying
from sparse_ops.graph.ir import Node, Value

Evaluate = Callable[[Sequence[Tensor]], Tensor]


def elementwise(analysis: Analysis, node: Node, run: Evaluate) -> Channels | None:
    """Does the same to every number.

    Args:
        run: what the node gives for a tensor.
    """
    x = analysis.only(node)
    if x is None:
        return None
    result = run([x.constant.clone()]).double()
    return x.with_constant(torch.where(x.constant.isnan(), x.constant, result))


def spatial(analysis: Analysis, node: Node, run: Evaluate, rank: int = 4) -> Channels | None:
    """Works on each channel's pixels alone: constant is what comes out as it went in.

    Args:
        rank: of x, (N, C, ...); of another one the node may take channels for pixels.
    """
    x = analysis.only(node)
    if x is None:
        return None
    before, after = node.inputs[0].shape or (), node.output.shape or ()
    if len(before) != rank or x.axis != 1 or len(after) < 2 or after[1] != before[1]:
        raise Unknown(f"{label(node)} mixes the channels")
    constant = x.constant.clone()
    known = ~constant.isnan()
    if bool(known.any()):
        # Many channels are the same number, mostly zero.
        numbers, which = constant[known].unique(return_inverse=True)
        alone = numbers.reshape(1, -1, *[1] * (rank - 2))
        plane = alone.expand(1, -1, *before[2:]).contiguous()
        result = run([plane]).transpose(0, 1).flatten(1)
        off = (result - numbers[:, None]).abs().amax(1)
        # What averages equal numbers may be a rounding off.
        kept = off <= 1e-12 * numbers.abs()
        constant[known] = torch.where(kept, numbers, NOT_CONSTANT)[which]
    return x.with_constant(constant)


def binary(
    analysis: Analysis, node: Node, sides: Sequence[Value], run: Evaluate, product: bool
) -> Channels | None:
    """Sums, products and the like of two tensors, or of a tensor and a number.

    Args:
        sides: the tensors.
        run: what the node gives for as many.
        product: whether zero times anything is zero.
    """
    found = [analysis.channels(side) for side in sides]
    if all(channels is None for channels in found):
        return None
    joined = _joined(analysis, node, sides, found)
    operands = [varying(1) if c is None else c.constant.clone() for c in found]
    if product and len(operands) == 2:
        a, b = operands
        operands = [torch.where(b == 0, 0.0, a), torch.where(a == 0, 0.0, b)]
    result = run(operands).double()
    return joined.with_constant(result.expand(len(joined.ids)))


def _joined(
    analysis: Analysis, node: Node, sides: Sequence[Value], found: Sequence[Channels | None]
) -> Channels:
    """Whose channels the result has; those of two tensors are joined."""
    shape = node.output.shape or ()
    known = [
        channels.axis + len(shape) - len(side.shape or ())
        for side, channels in zip(sides, found, strict=True)
        if channels is not None
    ]
    full: list[Channels] = []
    for side, channels in zip(sides, found, strict=True):
        own = side.shape or ()
        if channels is None:
            axis = known[0] + len(own) - len(shape)
            if axis >= 0 and own[axis] != 1:
                raise Unknown(f"{label(node)} joins it with something whose channels must stay")
            continue
        # Dimensions are missing at the front.
        axis = channels.axis + len(shape) - len(own)
        if own[channels.axis] == shape[axis]:
            full.append(replace(channels, axis=axis))
        else:
            analysis.classes.keep(channels.ids, f"{label(node)} spreads it over all channels")
    if not full or any(channels.axis != full[0].axis for channels in full):
        raise Unknown(f"{label(node)} mixes the channels")
    for channels in full[1:]:
        analysis.classes.join(full[0].ids, channels.ids)
    return full[0]
