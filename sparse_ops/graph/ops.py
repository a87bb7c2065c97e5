"""OPS: every operation once: how torch spells it, and what it gives.

An operation that is not here is "call": PyTorch does it, and passes leave it alone.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_ops.graph import layers, more_layers, norms, shaping
from sparse_ops.graph.ir import Node, Value
from sparse_ops.graph.spelling import (
    Meaning,
    Op,
    Spelled,
    Unlike,
    Way,
    exchanged,
    images,
    number,
    pair,
    plain,
    tensor,
)
from sparse_ops.ops._activation import ACTIVATIONS, function_of

# name -> (what computes it, its parameters and what they are where nothing is said).
UNARY: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    **{name: (function, {}) for name, function in ACTIVATIONS.items() if name is not None},
    "sigmoid": (torch.sigmoid, {}),
    "hardsigmoid": (F.hardsigmoid, {}),
    "tanh": (torch.tanh, {}),
    "leaky_relu": (F.leaky_relu, {"negative_slope": 0.01}),
    "elu": (F.elu, {"alpha": 1.0}),
    "clamp": (torch.clamp, {"min": None, "max": None}),
    "mish": (F.mish, {}),
    "softplus": (F.softplus, {"beta": 1.0, "threshold": 20.0}),
    "abs": (torch.abs, {}),
    "neg": (torch.neg, {}),
    "square": (torch.square, {}),
    "sqrt": (torch.sqrt, {}),
    "exp": (torch.exp, {}),
    "reciprocal": (torch.reciprocal, {}),
    "add": (torch.add, {"other": 0.0}),
    "mul": (torch.mul, {"other": 1.0}),
}
_SPELLED_UNARY: dict[Any, str] = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", nn.SiLU: "silu", nn.Hardswish: "hardswish",
    nn.GELU: "gelu", nn.Sigmoid: "sigmoid", nn.Hardsigmoid: "hardsigmoid", nn.Tanh: "tanh",
    nn.LeakyReLU: "leaky_relu", nn.ELU: "elu", nn.Hardtanh: "hardtanh", nn.Mish: "mish",
    nn.Softplus: "softplus",
    torch.relu: "relu", torch.relu_: "relu", F.relu: "relu", F.relu_: "relu", F.relu6: "relu6",
    F.silu: "silu", F.hardswish: "hardswish", F.gelu: "gelu", torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid", F.hardsigmoid: "hardsigmoid", torch.tanh: "tanh", F.tanh: "tanh",
    F.leaky_relu: "leaky_relu", F.elu: "elu", F.hardtanh: "hardtanh", torch.clamp: "clamp",
    F.mish: "mish", F.softplus: "softplus", torch.abs: "abs", operator.neg: "neg",
    torch.neg: "neg", torch.square: "square", torch.sqrt: "sqrt", torch.exp: "exp",
    "relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "sigmoid_": "sigmoid", "tanh": "tanh",
    "clamp": "clamp", "clamp_": "clamp", "abs": "abs", "neg": "neg", "square": "square",
    "sqrt": "sqrt", "exp": "exp",
}  # fmt: skip


def _read_unary(call: Spelled) -> Meaning:
    name = _SPELLED_UNARY[type(call.module) if call.module is not None else call.target]
    if name == "gelu":
        given = call.given(["input"], {"approximate": "none"})
        kind = {"none": "gelu", "tanh": "gelu_tanh"}.get(given["approximate"])
        if kind is None:
            raise Unlike(f"GELU by {given['approximate']!r} is not known")
        return Meaning([tensor(given["input"])], {"function": kind})
    options = dict(UNARY["clamp" if name == "hardtanh" else name][1])
    if name == "hardtanh":
        options = dict[str, Any](min_val=-1.0, max_val=1.0)
    more: dict[str, Any] = {} if call.module is not None else {"inplace": False}
    given = call.given(["input"], options | more)
    x = tensor(given["input"])
    parameters = [given[option] for option in options]
    if name in ("hardtanh", "clamp"):
        ends = zip(parameters, (-float("inf"), float("inf")), strict=True)
        least, most = (end if p is None else number(p) for p, end in ends)
        return Meaning([x], {"function": "clamp", "min": least, "max": most})
    numbers = dict(zip(options, map(number, parameters), strict=True))
    return Meaning([x], {"function": name, **numbers})


def _unary(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    function, options = UNARY[node.attributes["function"]]
    return function(inputs[0], **{name: node.attributes[name] for name in options})


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}
_SPELLED_BINARY: dict[Any, str] = {
    operator.add: "add", operator.iadd: "add", torch.add: "add", "add": "add", "add_": "add",
    operator.sub: "sub", operator.isub: "sub", torch.sub: "sub", "sub": "sub", "sub_": "sub",
    operator.mul: "mul", operator.imul: "mul", torch.mul: "mul", "mul": "mul", "mul_": "mul",
    operator.truediv: "div", operator.itruediv: "div", torch.div: "div", "div": "div",
    "div_": "div", torch.maximum: "maximum", torch.minimum: "minimum",
}  # fmt: skip


def _read_binary(call: Spelled) -> Meaning:
    name = _SPELLED_BINARY[call.target]
    given = call.given(["input", "other"], {})
    sides = given["input"], given["other"]
    if all(isinstance(side, Value) and side.shape is not None for side in sides):
        return Meaning([*sides], {"operator": name, "activation": None})
    raise Unlike("one side is a number")


def _read_scalar(call: Spelled) -> Meaning:
    """A tensor and a number."""
    name = _SPELLED_BINARY[call.target]
    given = call.given(["input", "other"], {})
    x, other = given["input"], given["other"]
    if not isinstance(x, Value) and name in ("add", "mul"):
        x, other = other, x
    by = number(other)
    if name == "sub":
        name, by = "add", -by
    if name == "div" and by != 0 and 1 / by * by == 1 and abs(by).hex().startswith("0x1.0000000"):
        # Exact, of powers of two only.
        name, by = "mul", 1 / by
    if name not in ("add", "mul"):
        raise Unlike(f"{name} with a number is not known")
    return Meaning([tensor(x)], {"function": name, "other": by})


def _binary(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    y = BINARY[node.attributes["operator"]](*inputs)
    return function_of(node.attributes["activation"])(y)


# On attributes of the model whose tensor a pass has changed; else it is the model's, as it is then.
SLICED = "sliced"

_WINDOW = {"kernel_size": None, "stride": None, "padding": 0}


def _read_max_pool(call: Spelled) -> Meaning:
    options = {**_WINDOW, "dilation": 1, "ceil_mode": False, "return_indices": False}
    given = call.given(["input"], options)
    if pair(given["dilation"], 1) != (1, 1) or given["return_indices"]:
        raise Unlike("max-pooling with dilation, or with indices, is not known")
    return _pool(given, "max", True)


def _read_avg_pool(call: Spelled) -> Meaning:
    options = {**_WINDOW, "ceil_mode": False, "count_include_pad": True, "divisor_override": None}
    given = call.given(["input"], options)
    if given["divisor_override"] is not None:
        raise Unlike("average-pooling with a divisor of its own is not known")
    return _pool(given, "average", bool(plain(given["count_include_pad"])))


def _pool(given: dict[str, Any], mode: str, count_include_pad: bool) -> Meaning:
    kernel = pair(given["kernel_size"], 1)
    stride = kernel if given["stride"] in (None, [], ()) else pair(given["stride"], 1)
    padding = pair(given["padding"])
    about: dict[str, Any] = {"mode": mode, "kernel": kernel, "stride": stride, "padding": padding}
    about |= {"ceil_mode": bool(plain(given["ceil_mode"])), "count_include_pad": count_include_pad}
    return Meaning([images(given["input"])], about)


def _evaluate_pool(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    about = node.attributes
    window = about["kernel"], about["stride"], about["padding"]
    if about["mode"] == "max":
        return F.max_pool2d(inputs[0], *window, ceil_mode=about["ceil_mode"])
    return F.avg_pool2d(inputs[0], *window, about["ceil_mode"], about["count_include_pad"])


def _read_adaptive(mode: str) -> Callable[[Spelled], Meaning]:
    def read(call: Spelled) -> Meaning:
        given = call.given(["input"], {"output_size": None, "return_indices": False})
        x = images(given["input"])
        size = plain(given["output_size"])
        both = (size, size) if type(size) is int else tuple(size)
        whole = [x.shape[2 + i] if n is None else n for i, n in enumerate(both)]  # type: ignore[index]
        if given["return_indices"]:
            raise Unlike("pooling with indices is not known")
        if any(n is None for n in both):
            raise Unlike("pooling to the size that there is is not known")
        return Meaning([x], {"mode": mode, "size": pair(whole, 1)})

    return read


def _evaluate_adaptive(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    pool = F.adaptive_max_pool2d if node.attributes["mode"] == "max" else F.adaptive_avg_pool2d
    return pool(inputs[0], node.attributes["size"])


def _read_mean(call: Spelled) -> Meaning:
    """Over whole planes."""
    given = call.given(["input"], {"dim": None, "keepdim": False})
    x, dims, keeps = images(given["input"]), plain(given["dim"]), plain(given["keepdim"])
    if not isinstance(dims, tuple | list) or sorted(d % 4 for d in dims) != [2, 3]:
        raise Unlike("a mean over other dimensions than the planes' is not known")
    return Meaning([x], {"keepdim": bool(keeps)})


def _evaluate_mean(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0].mean((-2, -1), node.attributes["keepdim"])


_ACTIVATION_MODULES = tuple(kind for kind in _SPELLED_UNARY if isinstance(kind, type))
_FUNCTIONS = tuple(k for k in _SPELLED_UNARY if not isinstance(k, type | str))
_METHODS = tuple(k for k in _SPELLED_UNARY if isinstance(k, str))
_TWO_FUNCTIONS = tuple(k for k in _SPELLED_BINARY if not isinstance(k, str))
_TWO_METHODS = tuple(k for k in _SPELLED_BINARY if isinstance(k, str))

OPS: dict[str, Op] = {
    "conv2d": Op(layers.evaluate_conv2d, Way(layers.read_conv2d, (nn.Conv2d, layers.SparseConv2d))),
    "linear": Op(layers.evaluate_linear, Way(layers.read_linear, (nn.Linear, layers.CSRLinear))),
    "constant": Op(layers.evaluate_constant, Way(layers.read_constant, (layers.Constant,))),
    "batch_norm": Op(layers.evaluate_norm, Way(layers.read_norm, layers.NORMS)),
    "unary": Op(
        _unary,
        Way(_read_unary, _ACTIVATION_MODULES, _FUNCTIONS, _METHODS),
        Way(_read_scalar, (), _TWO_FUNCTIONS, _TWO_METHODS),
    ),
    "binary": Op(_binary, Way(_read_binary, (), _TWO_FUNCTIONS, _TWO_METHODS)),
    "pool": Op(
        _evaluate_pool,
        Way(_read_max_pool, (nn.MaxPool2d,), (F.max_pool2d, torch.max_pool2d)),
        Way(_read_avg_pool, (nn.AvgPool2d,), (F.avg_pool2d,)),
    ),
    "adaptive_pool": Op(
        _evaluate_adaptive,
        Way(_read_adaptive("average"), (nn.AdaptiveAvgPool2d,), (F.adaptive_avg_pool2d,)),
        Way(_read_adaptive("max"), (nn.AdaptiveMaxPool2d,), (F.adaptive_max_pool2d,)),
    ),
    **norms.OPS,
    **more_layers.OPS,
    "mean": Op(_evaluate_mean, Way(_read_mean, (), (torch.mean,), ("mean",))),
    **shaping.OPS,
}


def meaning_of(call: Spelled) -> tuple[str, Meaning] | None:
    """The operation that a call is, and what it comes down to; None if it is none of `OPS`."""
    for name, op in OPS.items():
        for way in op.ways:
            if _is_spelled(way, call):
                try:
                    return name, way.read(call)
                except Unlike:
                    continue
    return None


def _is_spelled(way: Way, call: Spelled) -> bool:
    if call.module is not None:
        kinds = way.modules if exchanged(call.module) is None else ()
        return any(type(call.module) is k or layers.is_like(call.module, k) for k in kinds)
    if isinstance(call.target, str):
        return call.target in way.methods
    return any(call.target is function for function in way.functions)


def evaluate(node: Node, root: nn.Module, inputs: Sequence[Any]) -> Any:
    """What a node gives for these inputs, of any size."""
    own = OPS[node.op].evaluate if node.op in OPS else None
    if own is not None:
        return own(node, inputs)
    if node.attributes.get(SLICED):
        return node.parameters["value"]
    assert node.call is not None, f"{node.name} has nothing that does it"
    return node.call(root, inputs)
