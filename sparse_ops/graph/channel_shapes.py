"""Channel rules of calls that turn, cut and ask for shapes."""

from typing import Any

from torch import nn

from sparse_ops.graph.channel_analysis import (
    Analysis,
    Count,
    Sizes,
    Unknown,
    label,
    module_of,
)
from sparse_ops.graph.channel_classes import Channels
from sparse_ops.graph.ir import Node, Place, Value, filled, mapped

WRITTEN = "the model's code writes down the shape that it is given"


def arguments(node: Node, counts: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What follows the first argument, with numbers where the code worked them out.

    Args:
        counts: whether those are left as values.

    Raises:
        Unknown: the first argument is no input; or there is a tensor among the others.
    """
    assert node.call is not None
    first = node.call.args[0] if node.call.args else None
    if not isinstance(first, Place) or first.input != 0:
        raise Unknown(f"{label(node)} is called in a way that is not known")
    plain = [value.plain if value.shape is None and not counts else value for value in node.inputs]
    args = filled((node.call.args[1:], node.call.kwargs), plain)
    found: list[Value] = []
    mapped(args, Value, found.append)
    if any(value.shape is not None for value in found):
        raise Unknown("a tensor is given where a number was expected")
    return args


def _dims(node: Node) -> tuple[tuple[Any, ...], int]:
    """The dimensions that a call names, and how many its input has."""
    args, kwargs = arguments(node)
    named = [kwargs[name] for name in ("dim", "dims", "dim0", "dim1") if name in kwargs]
    given = (*args, *named)
    if len(given) == 1 and isinstance(given[0], tuple | list):
        given = tuple(given[0])
    if not all(type(dim) is int for dim in given):
        raise Unknown(f"{label(node)} is called in a way that is not known")
    return given, node.inputs[0].rank


def permute(analysis: Analysis, node: Node) -> Channels | None:
    x, (dims, rank) = analysis.only(node), _dims(node)
    if x is None:
        return None
    return Channels(x.ids, x.constant, [dim % rank for dim in dims].index(x.axis))


def transpose(analysis: Analysis, node: Node) -> Channels | None:
    x, (dims, rank) = analysis.only(node), _dims(node)
    if x is None:
        return None
    one, other = (dim % rank for dim in dims)
    return Channels(x.ids, x.constant, {one: other, other: one}.get(x.axis, x.axis))


def pieces(analysis: Analysis, node: Node) -> None:
    """Pieces that are not taken one by one."""
    if analysis.only(node) is not None:
        raise Unknown(f"what becomes of the pieces of {label(node)} is not known")


def unsqueeze(analysis: Analysis, node: Node) -> Channels | None:
    x, ((dim,), rank) = analysis.only(node), _dims(node)
    if x is None:
        return None
    return Channels(x.ids, x.constant, x.axis + (dim % (rank + 1) <= x.axis))


def squeeze(analysis: Analysis, node: Node) -> Channels | None:
    x = analysis.only(node)
    args, kwargs = arguments(node)
    dim = kwargs.get("dim", args[0] if args else None)
    rank = node.inputs[0].rank
    if x is not None and (not isinstance(dim, int) or dim % rank <= x.axis):
        raise Unknown(f"{label(node)} may take the channels' dimension away")
    return x


def flatten(analysis: Analysis, node: Node) -> Channels | None:
    args, kwargs = arguments(node)
    module = module_of(analysis.graph, node)
    given = dict(zip(("start_dim", "end_dim"), args, strict=False)) | kwargs
    start, end = given.get("start_dim", 0), given.get("end_dim", -1)
    if isinstance(module, nn.Flatten):
        start, end = module.start_dim, module.end_dim
    x, rank = analysis.only(node), node.inputs[0].rank
    if x is None or start % rank > x.axis:
        return x
    if start % rank != x.axis or end % rank != rank - 1:
        raise Unknown(f"{label(node)} joins its channels with other dimensions")
    return _flat(x, node, x.axis)


def _flat(x: Channels, node: Node, place: int) -> Channels:
    """Channels with the dimensions after them, as one."""
    pixels = (node.output.shape or ())[place] // len(x.ids)
    ids = tuple(id_ for id_ in x.ids for _ in range(pixels))
    return Channels(ids, x.constant.repeat_interleave(pixels), place)


def _product(sizes: tuple[int, ...]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def view(analysis: Analysis, node: Node) -> Channels | None:
    """Another shape; its channels are one dimension still, maybe with all that follow."""
    args, kwargs = arguments(node, counts=True)
    sizes = kwargs.get("shape", args[0] if len(args) == 1 else args)
    x = analysis.channels(node.inputs[0])
    asked = [each for each in node.inputs[1:] if analysis.known.get(id(each)) is not None]
    before, after = node.inputs[0].shape or (), node.output.shape or ()
    if x is None and not asked:
        return None
    if x is None or not isinstance(sizes, tuple | list) or len(sizes) != len(after):
        raise Unknown(WRITTEN)
    places = [p for p in range(len(after)) if _product(after[:p]) == _product(before[: x.axis])]
    count = len(x.ids)
    for place in places:
        if after[place] == count and _leaves_free(analysis, sizes, place, x):
            return Channels(x.ids, x.constant, place)
    for place in places:
        flat = after[place] == _product(before[x.axis :]) and place == len(after) - 1
        if flat and type(sizes[place]) is int and sizes[place] == -1 and not asked:
            return _flat(x, node, place)
    raise Unknown(WRITTEN)


def _leaves_free(analysis: Analysis, sizes: Any, place: int, x: Channels) -> bool:
    """Whether code leaves it open how many channels there are: by -1, or as many as there were."""
    for at, size in enumerate(sizes):
        known = analysis.known.get(id(size)) if isinstance(size, Value) else None
        if known is None:
            if at == place and (type(size) is not int or size != -1):
                return False
        elif at != place or not isinstance(known, Count) or known.channels.ids != x.ids:
            return False
    return True


def expand(analysis: Analysis, node: Node) -> Channels | None:
    """As large as something else, or as it is told to be."""
    x = analysis.channels(node.inputs[0])
    whole, own = node.output.shape or (), node.inputs[0].shape or ()
    if x is not None and (len(whole) != len(own) or whole[x.axis] != own[x.axis]):
        raise Unknown(f"{label(node)} spreads it over other dimensions")
    if label(node) == "expand_as":
        other = analysis.channels(node.inputs[1])
        if x is None and other is None:
            return None
        if x is None or other is None or other.axis != x.axis:
            raise Unknown(f"{label(node)} joins it with something whose channels must stay")
        analysis.classes.join(x.ids, other.ids)
        return x
    args, kwargs = arguments(node, counts=True)
    sizes = kwargs.get("size", args[0] if len(args) == 1 else args)
    asked = any(analysis.known.get(id(each)) is not None for each in node.inputs[1:])
    if x is None and not asked:
        return None
    good = x is not None and isinstance(sizes, tuple | list) and len(sizes) == len(whole)
    if x is None or not good or not _leaves_free(analysis, sizes, x.axis, x):
        raise Unknown(WRITTEN)
    return x


def repeat(analysis: Analysis, node: Node) -> Channels | None:
    x, (times, rank) = analysis.only(node), _dims(node)
    if x is not None and (len(times) != rank or times[x.axis] != 1):
        raise Unknown(f"{label(node)} repeats the channels")
    return x


def index(analysis: Analysis, node: Node) -> Channels | Count | None:
    found = analysis.known.get(id(node.inputs[0]))
    if found is None:
        return None
    (picked,), _ = arguments(node)
    if isinstance(found, Sizes):
        return _size_at(found.channels, picked, len(node.inputs[0].plain))
    assert isinstance(found, Channels)
    every = slice(None)
    parts = list(picked) if isinstance(picked, tuple) else [picked]
    if sum(part is Ellipsis for part in parts) > 1 or any(
        part is not Ellipsis and not isinstance(part, slice | int | None) for part in parts
    ):
        raise Unknown("the model's code indexes it in a way that is not known")
    missing = node.inputs[0].rank - sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        parts[place : place + 1] = [every] * missing
    else:
        parts += [every] * missing
    dimension, axis = 0, 0
    for part in parts:
        if part is None:
            axis += 1
            continue
        if dimension == found.axis:
            break
        if not isinstance(part, slice):
            raise Unknown("the model's code moves the channels to another dimension")
        if dimension == 0 and part != every:
            raise Unknown("the model's code picks some of the images")
        dimension, axis = dimension + 1, axis + 1
    if part != every:
        raise Unknown("the model's code picks some of the channels")
    return Channels(found.ids, found.constant, axis)


def _size_at(x: Channels, index: Any, rank: int) -> Count | None:
    """The number of channels, or None for other sizes.

    Raises:
        Unknown: the number of channels is among others.
    """
    picked = range(rank)[index]
    if isinstance(picked, int):
        return Count(x) if picked == x.axis else None
    if x.axis in picked:
        raise Unknown("the model's code reads the number of its channels")
    return None


def size(analysis: Analysis, node: Node) -> Sizes | Count | None:
    x = analysis.channels(node.inputs[0])
    if x is None:
        return None
    args, kwargs = arguments(node)
    if args or kwargs:
        return _size_at(x, args[0] if args else kwargs.get("dim"), node.inputs[0].rank)
    return Sizes(x)


def get_attribute(analysis: Analysis, node: Node) -> Sizes | None:
    (name, *_), _ = arguments(node)
    x = analysis.channels(node.inputs[0])
    if name == "shape":
        return None if x is None else Sizes(x)
    if name in ("dtype", "device", "ndim", "requires_grad", "is_cuda", "training"):
        return None
    raise Unknown(f"the model's code reads its {name}")
