"""Which nodes of a graph are known: modules, functions and methods, and what each does.

To make one known, add it to a table.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from sparse_ops.convert.channel_ops import (
    op_binary,
    op_dropout,
    op_elementwise,
    op_layer,
    op_norm,
    op_reduce,
    op_same,
    op_spatial,
)
from sparse_ops.convert.channel_shapes import (
    op_cat,
    op_flatten,
    op_getattr,
    op_index,
    op_pad,
    op_size,
    op_squeeze,
    op_view,
)
from sparse_ops.convert.flow import Handler
from sparse_ops.nn._folded import Folded


def _table(handler: Handler, *keys: Any) -> dict[Any, Handler]:
    return dict.fromkeys(keys, handler)


_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.GELU, nn.ELU, nn.CELU,
    nn.SELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Mish, nn.Softplus, nn.Softsign, nn.LogSigmoid,
)  # fmt: skip
MODULES: dict[Any, Handler] = {
    **_table(op_layer, nn.Conv2d, nn.Linear),
    **_table(op_norm, nn.BatchNorm2d, nn.BatchNorm1d),
    **_table(op_elementwise, *_ACTIVATIONS),
    **_table(op_dropout, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout),
    **_table(op_same, nn.Identity, Folded),
    **_table(op_spatial, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    **_table(op_spatial, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    **_table(op_spatial, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d),
    nn.Flatten: op_flatten,
}
FUNCTIONS: dict[Callable[..., Any], Handler] = {
    **_table(op_elementwise, torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.clamp),
    **_table(
        op_elementwise, F.relu, F.relu6, F.silu, F.hardswish, F.hardsigmoid, F.hardtanh, F.gelu
    ),
    **_table(op_elementwise, F.elu, F.selu, F.leaky_relu, F.mish, F.softplus, F.sigmoid, F.tanh),
    **_table(op_elementwise, operator.neg, torch.neg, torch.abs),
    **_table(op_dropout, F.dropout, F.dropout2d, torch.dropout),
    **_table(op_spatial, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    **_table(op_spatial, torch.max_pool2d, F.interpolate),
    **_table(op_reduce, torch.mean, torch.amax),
    **_table(op_binary, operator.add, operator.sub, operator.mul, operator.truediv),
    **_table(op_binary, operator.iadd, operator.isub, operator.imul, operator.itruediv),
    **_table(op_binary, torch.add, torch.sub, torch.mul, torch.div),
    **_table(op_cat, torch.cat, torch.concat),
    **_table(op_view, torch.reshape),
    torch.flatten: op_flatten,
    F.pad: op_pad,
    operator.getitem: op_index,
    getattr: op_getattr,
}
METHODS: dict[str, Handler] = {
    **_table(op_elementwise, "relu", "relu_", "sigmoid", "sigmoid_", "tanh", "clamp", "clamp_"),
    **_table(op_elementwise, "neg", "abs"),
    **_table(op_binary, "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_"),
    **_table(op_same, "contiguous", "clone", "detach"),
    **_table(op_reduce, "mean", "amax"),
    **_table(op_view, "view", "reshape"),
    "flatten": op_flatten,
    "squeeze": op_squeeze,
    "size": op_size,
    "dim": lambda flow, node, module: None,
}


def handler_of(node: fx.Node, module: nn.Module | None) -> Handler | None:
    """What knows what a node does to channels; None if nothing does."""
    if module is not None:
        return MODULES.get(type(module))
    if node.op == "call_method":
        return METHODS.get(str(node.target))
    try:
        return FUNCTIONS.get(node.target)  # type: ignore[arg-type]
    except TypeError:
        return None
