"""What each kind of node does to channels, second: what changes shapes, joins, picks or pads."""

from typing import Any

import torch
from torch import fx

from sparse_ops.convert.channel_ops import op_spatial
from sparse_ops.convert.channels import Value
from sparse_ops.convert.flow import Flow, Sizes, Unknown, label


def op_pad(flow: Flow, node: fx.Node, module: Any) -> Value | None:
    sizes = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
    if not isinstance(sizes, list | tuple) or len(sizes) != 6:
        if isinstance(sizes, list | tuple) and len(sizes) <= 4:
            return op_spatial(flow, node, module)
        raise Unknown(f"{label(node)} pads in a way that is not known")
    x = flow.only(node)
    number = node.kwargs.get("value")
    if x is None or x.axis != 1 or len(flow.shapes[node]) != 4 or any(sizes[:4]) or number:
        raise Unknown(f"{label(node)} pads in a way that is not known")
    if node.kwargs.get("mode", "constant") != "constant" or len(node.args) > 2:
        raise Unknown(f"{label(node)} pads in a way that is not known")
    reason = f"{label(node)} adds channels, as many as the model's code says"
    ids: tuple[int, ...] = x.ids
    constant = x.constant
    for count, first in ((int(sizes[4]), True), (int(sizes[5]), False)):  # type: ignore[arg-type]
        if count < 0:
            raise Unknown(f"{label(node)} takes channels away")
        new, zeros = flow.classes.new(count, reason), torch.zeros(count, dtype=torch.float64)
        ids = new + ids if first else ids + new
        constant = torch.cat([zeros, constant] if first else [constant, zeros])
    return Value(ids, constant, 1)


def op_index(flow: Flow, node: fx.Node, module: Any) -> Value | None:
    found, index = flow.values.get(node.args[0]), node.args[1]  # type: ignore[arg-type]
    if isinstance(found, Sizes):
        _check_size(found.value, index)
        return None
    if found is None:
        return None
    whole, axis = slice(None), found.axis
    if not isinstance(index, tuple) or len(index) <= axis or index[axis] != whole:
        raise Unknown("the model's code picks some of the channels")
    if not all(isinstance(part, slice) for part in index[:axis]):
        raise Unknown("the model's code moves the channels to another dimension")
    if not all(isinstance(part, slice | int) for part in index):
        raise Unknown("the model's code indexes it in a way that is not known")
    if index[0] != whole:
        raise Unknown("the model's code picks some of the images")
    return op_spatial(flow, node, module)


def _check_size(x: Value, index: Any) -> None:
    """Raises Unknown unless the sizes that the code reads leave out the number of channels."""
    if isinstance(index, int) and 0 <= index != x.axis:
        return
    if isinstance(index, slice) and x.axis == 1 and (index.stop, index.step) == (None, None):
        spatial = index.start in (2, -2, -1, 3)
        if spatial:
            return
    raise Unknown("the model's code reads the number of its channels")


def op_size(flow: Flow, node: fx.Node, module: Any) -> Sizes | None:
    x = flow.value(node.args[0])
    if x is None:
        return None
    if len(node.args) > 1 or node.kwargs:
        _check_size(x, node.args[1] if len(node.args) > 1 else None)
        return None
    return Sizes(x)


def op_getattr(flow: Flow, node: fx.Node, module: Any) -> Sizes | None:
    name = node.args[1]
    if name == "shape":
        x = flow.value(node.args[0])
        return None if x is None else Sizes(x)
    if name in ("dtype", "device", "ndim", "requires_grad", "is_cuda", "training"):
        return None
    raise Unknown(f"the model's code reads its {name}")


def op_flatten(flow: Flow, node: fx.Node, module: Any) -> Value | None:
    if module is not None:
        start, end = module.start_dim, module.end_dim
    else:
        given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
        start, end = given.get("start_dim", 0), given.get("end_dim", -1)
    rank = len(flow.shapes[node.args[0]])  # type: ignore[index]
    if start not in (1, 1 - rank) or end not in (-1, rank - 1):
        raise Unknown(f"{label(node)} joins its channels with other dimensions")
    return _flat(flow, node)


def _flat(flow: Flow, node: fx.Node) -> Value | None:
    x = flow.only(node)
    if x is None or len(flow.shapes[node.args[0]]) == 2:  # type: ignore[index]
        return x
    if x.axis != 1:
        raise Unknown(f"{label(node)} joins its channels with other dimensions")
    pixels = flow.shapes[node][1] // len(x.ids)
    ids = tuple(id_ for id_ in x.ids for _ in range(pixels))
    return Value(ids, x.constant.repeat_interleave(pixels), 1)


def op_view(flow: Flow, node: fx.Node, module: Any) -> Value | None:
    if flow.only(node) is None:
        return None
    sizes = node.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
        sizes = tuple(sizes[0])
    batch = flow.shapes[node.args[0]][0]  # type: ignore[index]
    if len(sizes) != 2 or sizes[1] != -1 or flow.plain(sizes[0]) != batch:
        raise Unknown("the model's code writes down the shape that it is given")
    return _flat(flow, node)


def op_squeeze(flow: Flow, node: fx.Node, module: Any) -> Value | None:
    x = flow.only(node)
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    rank = len(flow.shapes[node.args[0]])  # type: ignore[index]
    if x is not None and (not isinstance(dim, int) or dim % rank <= x.axis):
        raise Unknown(f"{label(node)} may take the channels' dimension away")
    return x


def op_cat(flow: Flow, node: fx.Node, module: Any) -> Value | None:
    parts = node.args[0] if node.args else None
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if not isinstance(parts, list | tuple) or not isinstance(dim, int):
        raise Unknown(f"{label(node)} is called in a way that is not known")
    if all(flow.value(part) is None for part in parts):
        return None
    dim %= len(flow.shapes[node])
    values = [flow.channels_at(part, dim) for part in parts]
    if any(value.axis != dim for value in values):
        raise Unknown(f"{label(node)} joins other things than channels")
    ids = tuple(id_ for value in values for id_ in value.ids)
    return Value(ids, torch.cat([value.constant for value in values]), dim)
