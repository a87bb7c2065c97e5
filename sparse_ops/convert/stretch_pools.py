"""Pools in a graph, modules and functions: which call on blocked tensors does the same."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sparse_ops.convert.stretch_calls import adaptive_avg_pool2d
from sparse_ops.ops.blocked import avg_pool2d, max_pool2d

MAX, AVERAGE, ADAPTIVE = "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"
POOLS: dict[Any, str] = {
    nn.MaxPool2d: MAX,
    F.max_pool2d: MAX,
    torch.max_pool2d: MAX,
    nn.AvgPool2d: AVERAGE,
    F.avg_pool2d: AVERAGE,
    nn.AdaptiveAvgPool2d: ADAPTIVE,
    F.adaptive_avg_pool2d: ADAPTIVE,
}
_WINDOW = ("kernel_size", "stride", "padding")
# What the functions take after x, in order; attributes of the modules, too.
ARGUMENTS = {
    MAX: (*_WINDOW, "dilation", "ceil_mode", "return_indices"),
    AVERAGE: (*_WINDOW, "ceil_mode", "count_include_pad", "divisor_override"),
    ADAPTIVE: ("output_size",),
}

# A function, and what it is given between x and the halos.
PoolCall = tuple[Callable[..., Tensor], tuple[Any, ...]]


def of_module(module: nn.Module) -> PoolCall | None:
    """What does on blocked tensors what a pool does, or None where that cannot be."""
    name = POOLS[type(module)]
    return _call(name, {each: getattr(module, each, None) for each in ARGUMENTS[name]})


def of_function(node: fx.Node) -> tuple[fx.Node, PoolCall] | None:
    """As `of_module`, of a call of a function, and its x."""
    name = POOLS[node.target]
    given = dict(zip(("input", *ARGUMENTS[name]), node.args, strict=False)) | node.kwargs
    x, call = given.pop("input", None), _call(name, given)
    return (x, call) if isinstance(x, fx.Node) and call is not None else None


def mean_of(node: fx.Node) -> tuple[fx.Node, bool] | None:
    """The x of a mean over whole planes, and whether they stay as single numbers; or None."""
    given = dict(zip(("input", "dim", "keepdim"), node.args, strict=False)) | node.kwargs
    x, dims, keepdim = given.pop("input", None), given.pop("dim", None), given.pop("keepdim", False)
    if given or not isinstance(x, fx.Node) or type(keepdim) is not bool:
        return None
    if not isinstance(dims, tuple | list) or not all(type(dim) is int for dim in dims):
        return None
    planes = sorted(dims) in ([2, 3], [-2, -1], [-1, 2], [-2, 3])
    return (x, keepdim) if planes else None


def _call(name: str, options: Mapping[str, Any]) -> PoolCall | None:
    if name == ADAPTIVE:
        size = _pair(options.get("output_size"), 1)
        return None if size is None else (adaptive_avg_pool2d, (size,))
    kernel, padding = _pair(options.get("kernel_size"), 1), _pair(options.get("padding", 0), 0)
    stride = _pair(options.get("stride") or options.get("kernel_size"), 1)
    if kernel is None or stride is None or padding is None or options.get("ceil_mode"):
        return None
    if name == MAX:
        if _pair(options.get("dilation", 1), 1) != (1, 1) or options.get("return_indices"):
            return None
        return max_pool2d, (kernel, stride, padding)
    if padding != (0, 0) or options.get("divisor_override") is not None:
        return None
    return avg_pool2d, (kernel, stride)


def _pair(given: Any, least: int) -> tuple[int, int] | None:
    """(h, w) of a number or two; None if that is not what it is."""
    both = (given, given) if type(given) is int else given
    if not isinstance(both, tuple | list) or len(both) != 2:
        return None
    right = all(type(size) is int and size >= least for size in both)
    return (both[0], both[1]) if right else None
