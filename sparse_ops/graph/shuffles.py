"""Channel shuffles that are written as view, transpose, view: each becomes one node.

They are known by shapes, and by what the code says of them: sizes that it has asked the tensor for,
-1, or numbers that are written down.
"""

import operator
from typing import Any

from sparse_ops.graph.ir import Graph, Node, Place, Value

CHANNELS, IMAGES = "channels", "images"
_VIEWS = ("view", "reshape")
_TURNS = ("transpose", "permute", "swapaxes")


def join_shuffles(graph: Graph) -> None:
    """Makes one node each of channel shuffles, in place; what asked for sizes for them is left."""
    for last in graph:
        turn = _made_by(last, _VIEWS)
        first = None if turn is None else _made_by(turn, _TURNS)
        if first is None or turn is None or _name(first) not in _VIEWS:
            continue
        groups = _groups(first, turn, last)
        if groups is None:
            continue
        x = first.inputs[0]
        written = _says(first, x, groups, whole=False), _says(last, x, groups, whole=True)
        if written[0] is None or written[1] is None:
            continue
        numbers = written[0] | written[1]
        about = {"groups": groups, "written": CHANNELS in numbers, "fixed": IMAGES in numbers}
        shuffle = graph.add("shuffle", f"{last.name}_shuffle", [x], _like(last), before=last)
        shuffle.attributes = about
        graph.replace(last.output, shuffle.output)
        for node in (last, turn, first):
            if not node.output.users:
                graph.erase(node)


def _like(node: Node) -> Value:
    value = node.output
    return Value(value.shape, value.dtype, of_batch=value.of_batch, is_asked=value.is_asked)


def _name(node: Node) -> str:
    """What a call of a function or method is called; "" for others."""
    if node.op != "call" or node.call is None or node.call.kind not in ("function", "method"):
        return ""
    return str(getattr(node.call.target, "__name__", node.call.target))


def _made_by(node: Node, names: tuple[str, ...]) -> Node | None:
    """What made the tensor that a call of one of these names reads."""
    return node.inputs[0].producer if _name(node) in names and node.inputs else None


def _groups(first: Node, turn: Node, last: Node) -> int | None:
    """How many groups are shuffled, if shapes say so: (N, C, H, W) -> (N, g, C / g, H, W) ->
    (N, C / g, g, H, W) -> (N, C, H, W).
    """
    x, parts, turned = first.inputs[0].shape, first.output.shape, turn.output.shape
    if x is None or parts is None or turned is None or len(x) != 4 or len(parts) != 5:
        return None
    batch, groups, size, *image = parts
    if (batch, groups * size, *image) != x or turned != (batch, size, groups, *image):
        return None
    assert turn.call is not None
    arguments = turn.call.args[1:]
    dims = arguments[0] if len(arguments) == 1 else arguments
    wanted = (1, 2), (2, 1), (0, 2, 1, 3, 4)
    known = isinstance(dims, tuple | list) and tuple(dims) in wanted and not turn.call.kwargs
    return groups if known and last.output.shape == x else None


def _says(view: Node, x: Value, groups: int, whole: bool) -> set[str] | None:
    """What code writes down as numbers of a view's shape; None: it says something else.

    Args:
        x: what is shuffled.
        whole: whether the groups are together again.
    """
    assert view.call is not None
    sizes = view.call.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = tuple(sizes[0])
    axes: tuple[Any, ...] = (0, 1, 2, 3) if whole else (0, "groups", "size", 2, 3)
    if view.call.kwargs or len(sizes) != len(axes):
        return None
    says = set()
    for size, axis in zip(sizes, axes, strict=True):
        if isinstance(size, Place):
            if not _is_size(view.inputs[size.input], x, axis, groups):
                return None
        elif type(size) is not int:
            return None
        elif size != -1 and axis != "groups":
            says.add(IMAGES if axis in (0, 2, 3) else CHANNELS)
    return says


def _is_size(value: Value, x: Value, axis: Any, groups: int) -> bool:
    """Whether a number is the size of a dimension of x, or that of a group's channels."""
    node = value.producer
    if node is None or node.call is None:
        return False
    if axis == "size":
        divided = node.call.target is operator.floordiv and node.call.args[1:] == (groups,)
        return divided and _is_size(node.inputs[0], x, 1, groups)
    if _name(node) == "size":
        return node.inputs[0] is x and node.call.args[1:] == (axis,)
    if node.call.target is not operator.getitem or node.call.args[1:] != (axis,):
        return False
    sizes = node.inputs[0].producer
    if sizes is None or sizes.call is None or sizes.inputs[0] is not x:
        return False
    shape = sizes.call.target is getattr and sizes.call.args[1:] == ("shape",)
    return shape or (_name(sizes) == "size" and len(sizes.call.args) == 1)
