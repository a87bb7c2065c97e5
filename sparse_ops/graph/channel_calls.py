"""Channel rules of calls: operations that only PyTorch does, as far as they are known.

To make a module, a function or a method known, add it to a table. Whatever is in none keeps the
channels that it is given.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_ops.graph.channel_analysis import Analysis, Rule, Sizes, Unknown, label, module_of
from sparse_ops.graph.channel_classes import Channels
from sparse_ops.graph.channel_steps import binary, elementwise, spatial
from sparse_ops.graph.ir import Node, Place, Value, filled, mapped


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


def _arguments(node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What follows the first argument, with numbers where the code worked them out.

    Raises:
        Unknown: the first argument is no input; or there is a tensor among the others.
    """
    assert node.call is not None
    first = node.call.args[0] if node.call.args else None
    if not isinstance(first, Place) or first.input != 0:
        raise Unknown(f"{label(node)} is called in a way that is not known")
    plain = [value.plain if value.shape is None else value for value in node.inputs]
    args = filled((node.call.args[1:], node.call.kwargs), plain)
    found: list[Value] = []
    mapped(args, Value, found.append)
    if found:
        raise Unknown("a tensor is given where a number was expected")
    return args


def _elementwise(analysis: Analysis, node: Node) -> Channels | None:
    if len(_tensors(node)) != 1:
        raise Unknown(f"{label(node)} is given more than one tensor")
    return elementwise(analysis, node, _own(node, analysis.graph.root))


def _spatial(analysis: Analysis, node: Node) -> Channels | None:
    if len(_tensors(node)) != 1:
        raise Unknown(f"{label(node)} is given more than one tensor")
    return spatial(analysis, node, _own(node, analysis.graph.root))


def _reduce(analysis: Analysis, node: Node) -> Channels | None:
    args, kwargs = _arguments(node)
    dims = kwargs.get("dim", args[0] if args else None)
    dims = [dims] if isinstance(dims, int) else dims
    if not isinstance(dims, list | tuple) or any(d % 4 < 2 for d in dims):
        raise Unknown(f"{label(node)} mixes the channels")
    return _spatial(analysis, node)


def _binary(analysis: Analysis, node: Node) -> Channels | None:
    product = label(node).strip("_") in ("mul", "imul") and len(_tensors(node)) == 2
    return binary(analysis, node, _tensors(node), _own(node, analysis.graph.root), product)


def _same(analysis: Analysis, node: Node) -> Channels | None:
    return analysis.only(node)


def _pad(analysis: Analysis, node: Node) -> Channels | None:
    args, kwargs = _arguments(node)
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


def _index(analysis: Analysis, node: Node) -> Channels | None:
    found = analysis.known.get(id(node.inputs[0]))
    if found is None:
        return None
    (index,), _ = _arguments(node)
    if isinstance(found, Sizes):
        _check_size(found.channels, index)
        return None
    every, axis = slice(None), found.axis
    if not isinstance(index, tuple) or len(index) <= axis or index[axis] != every:
        raise Unknown("the model's code picks some of the channels")
    if not all(isinstance(part, slice) for part in index[:axis]):
        raise Unknown("the model's code moves the channels to another dimension")
    if not all(isinstance(part, slice | int) for part in index):
        raise Unknown("the model's code indexes it in a way that is not known")
    if index[0] != every:
        raise Unknown("the model's code picks some of the images")
    return _spatial(analysis, node)


def _check_size(x: Channels, index: Any) -> None:
    """Raises Unknown unless the sizes that the code reads leave out the number of channels."""
    if isinstance(index, int) and 0 <= index != x.axis:
        return
    rest = isinstance(index, slice) and (index.stop, index.step) == (None, None)
    if rest and x.axis == 1 and index.start in (2, -2, -1, 3):
        return
    raise Unknown("the model's code reads the number of its channels")


def _size(analysis: Analysis, node: Node) -> Sizes | None:
    x = analysis.channels(node.inputs[0])
    if x is None:
        return None
    args, kwargs = _arguments(node)
    if args or kwargs:
        _check_size(x, args[0] if args else kwargs.get("dim"))
        return None
    return Sizes(x)


def _getattr(analysis: Analysis, node: Node) -> Sizes | None:
    (name, *_), _ = _arguments(node)
    x = analysis.channels(node.inputs[0])
    if name == "shape":
        return None if x is None else Sizes(x)
    if name in ("dtype", "device", "ndim", "requires_grad", "is_cuda", "training"):
        return None
    raise Unknown(f"the model's code reads its {name}")


def _flatten(analysis: Analysis, node: Node) -> Channels | None:
    args, kwargs = _arguments(node)
    module = module_of(analysis.graph, node)
    given = dict(zip(("start_dim", "end_dim"), args, strict=False)) | kwargs
    start, end = given.get("start_dim", 0), given.get("end_dim", -1)
    if isinstance(module, nn.Flatten):
        start, end = module.start_dim, module.end_dim
    rank = node.inputs[0].rank
    if start not in (1, 1 - rank) or end not in (-1, rank - 1):
        raise Unknown(f"{label(node)} joins its channels with other dimensions")
    return _flat(analysis, node)


def _flat(analysis: Analysis, node: Node) -> Channels | None:
    x = analysis.only(node)
    if x is None or node.inputs[0].rank == 2:
        return x
    if x.axis != 1 or node.output.shape is None:
        raise Unknown(f"{label(node)} joins its channels with other dimensions")
    pixels = node.output.shape[1] // len(x.ids)
    ids = tuple(id_ for id_ in x.ids for _ in range(pixels))
    return Channels(ids, x.constant.repeat_interleave(pixels), 1)


def _view(analysis: Analysis, node: Node) -> Channels | None:
    if analysis.only(node) is None:
        return None
    sizes, _ = _arguments(node)
    if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
        sizes = tuple(sizes[0])
    batch = (node.inputs[0].shape or (0,))[0]
    if len(sizes) != 2 or sizes[1] != -1 or sizes[0] != batch:
        raise Unknown("the model's code writes down the shape that it is given")
    return _flat(analysis, node)


def _squeeze(analysis: Analysis, node: Node) -> Channels | None:
    x = analysis.only(node)
    args, kwargs = _arguments(node)
    dim = kwargs.get("dim", args[0] if args else None)
    rank = node.inputs[0].rank
    if x is not None and (not isinstance(dim, int) or dim % rank <= x.axis):
        raise Unknown(f"{label(node)} may take the channels' dimension away")
    return x


def _nothing(analysis: Analysis, node: Node) -> None:
    """Asks for what no channel has a part in."""


def _table(rule: Rule, *keys: Any) -> dict[Any, Rule]:
    return dict.fromkeys(keys, rule)


MODULES: dict[Any, Rule] = {
    **_table(_elementwise, nn.CELU, nn.SELU, nn.Softsign, nn.LogSigmoid),
    **_table(_spatial, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    **_table(_spatial, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    **_table(_spatial, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d),
    nn.Flatten: _flatten,
}
FUNCTIONS: dict[Any, Rule] = {
    **_table(_elementwise, F.selu, F.celu, F.softsign, F.logsigmoid),
    **_table(_spatial, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    **_table(_spatial, torch.max_pool2d, F.interpolate),
    **_table(_reduce, torch.mean, torch.amax),
    **_table(_binary, operator.add, operator.sub, operator.mul, operator.truediv),
    **_table(_binary, operator.iadd, operator.isub, operator.imul, operator.itruediv),
    **_table(_binary, torch.add, torch.sub, torch.mul, torch.div),
    **_table(_view, torch.reshape),
    torch.flatten: _flatten,
    F.pad: _pad,
    operator.getitem: _index,
    getattr: _getattr,
}
METHODS: dict[str, Rule] = {
    **_table(_binary, "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_"),
    **_table(_same, "contiguous", "clone", "detach"),
    **_table(_reduce, "mean", "amax"),
    **_table(_view, "view", "reshape"),
    "flatten": _flatten,
    "squeeze": _squeeze,
    "size": _size,
    "dim": _nothing,
}


def call(analysis: Analysis, node: Node) -> Channels | Sizes | None:
    """The rule of "call" nodes.

    Raises:
        Unknown: there is none for this one, or it does not know what it is given; says why.
    """
    module = module_of(analysis.graph, node)
    assert node.call is not None
    if node.call.kind == "attribute":
        return None
    rule = METHODS.get(node.call.target) if node.call.kind == "method" else None
    if module is not None:
        rule = MODULES.get(type(module))
    elif node.call.kind == "function":
        rule = next((r for f, r in FUNCTIONS.items() if f is node.call.target), None)
    if rule is None:
        kind = type(module).__name__ if module is not None else "its own code"
        raise Unknown(f"it goes into {label(node)} ({kind}), which is not known here")
    return rule(analysis, node)
