"""Layers: what convolutions, linear layers and BatchNorms are, dense or packed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_ops.formats import PackedWeight
from sparse_ops.graph.ir import Node
from sparse_ops.graph.spelling import Meaning, Spelled, Unlike, exchanged, runs_as, tensor
from sparse_ops.nn import CSRLinear
from sparse_ops.nn._constant import Constant, constant_output
from sparse_ops.nn._conv import SparseConv2d
from sparse_ops.nn._layer import ACTIVATION_MODULES
from sparse_ops.ops._activation import add_and_activate, leaky_relu

__all__ = ["CSRLinear", "Constant", "SparseConv2d"]


# In eval mode they are all the same.
NORMS = (nn.BatchNorm2d, nn.BatchNorm1d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Layers of which a subclass may be one, too.
LIKE = (nn.Conv1d, nn.Conv3d, nn.ConvTranspose2d)


def is_like(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes what one of this kind does, though it is of another class."""
    if kind in (nn.Conv2d, nn.Linear):
        return runs_as(module, kind)
    if kind is SparseConv2d:
        return isinstance(module, SparseConv2d)
    if kind in LIKE:
        return runs_as(module, kind)
    return kind in NORMS and isinstance(module, kind) and is_norm(module)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm, or of a subclass that computes nothing else, maybe with an
    activation after it as timm's have.
    """
    if any(runs_as(module, kind) for kind in NORMS):
        return True
    parts = dict(module.named_children())
    return (
        isinstance(module, NORMS)
        and parts.keys() == {"drop", "act"}
        and isinstance(parts["drop"], nn.Identity)
        and not parts["act"].state_dict()
    )


def activation_name(module: nn.Module | None) -> str | None:
    """What the sparse layers call this activation; None if they do not know it."""
    if exchanged(module) is not None:
        return None
    if type(module) is nn.GELU:
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(module.approximate)
    if type(module) is nn.LeakyReLU:
        return leaky_relu(module.negative_slope)
    for name, kind in ACTIVATION_MODULES.items():
        if type(module) is kind:
            return name
    return None


def split_padding(conv: nn.Conv2d) -> tuple[list[int], tuple[int, int]]:
    """(left, right, top, bottom) for F.pad, and (h, w) that the kernel itself can do."""
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    if conv.padding_mode == "zeros" and top == bottom and left == right:
        return [], (top, left)
    return [left, right, top, bottom], (0, 0)


def plain_parameters(module: nn.Module, *names: str) -> dict[str, Tensor]:
    """Parameters and buffers by name; those that are None are left out.

    Raises:
        Unlike: one is no plain tensor of the module.
    """
    found = {}
    for name in names:
        held = module._parameters.get(name, module._buffers.get(name))
        if held is None and getattr(module, name, None) is not None:
            raise Unlike(f"its {name} is computed when it runs")
        if held is not None:
            found[name] = held
    return found


def read_conv2d(call: Spelled) -> Meaning:
    conv: Any = call.module
    given = call.given(["input"], {})
    x = tensor(given["input"])
    if x.rank != 4:
        raise Unlike(f"its input has {x.rank} dimensions")
    outer, inner = (
        (conv._outer, conv._inner) if isinstance(conv, SparseConv2d) else split_padding(conv)
    )
    about: dict[str, Any] = {
        "shape": (conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size),
        "stride": tuple(conv.stride),
        "padding": inner,
        "outer": outer,
        "padding_mode": conv.padding_mode,
        "dilation": tuple(conv.dilation),
        "groups": conv.groups,
        "residual": False,
        "activation": None,
        "packed": None,
    }
    if isinstance(conv, SparseConv2d):
        about |= {"activation": conv.activation, "packed": conv.weight}
        return Meaning([x], about, plain_parameters(conv, "values", "bias"))
    return Meaning([x], about, plain_parameters(conv, "weight", "bias"))


def weight_of(node: Node) -> Tensor:
    """The dense weight of a layer."""
    packed: PackedWeight | None = node.attributes["packed"]
    return node.parameters["weight"] if packed is None else packed.to_dense()


def given_like(x: Tensor, other: Tensor | None) -> Tensor | None:
    """A layer's tensor as x is: its dtype and device, without gradients."""
    return None if other is None else other.detach().to(x.device, x.dtype)


def evaluate_conv2d(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    about, x = node.attributes, inputs[0]
    if about["outer"]:
        mode = "constant" if about["padding_mode"] == "zeros" else about["padding_mode"]
        x = F.pad(x, about["outer"], mode=mode)
    weight, bias = given_like(x, weight_of(node)), given_like(x, node.parameters.get("bias"))
    assert weight is not None
    steps = about["stride"], about["padding"], about["dilation"], about["groups"]
    y = F.conv2d(x, weight, bias, *steps)
    return add_and_activate(y, inputs[1] if about["residual"] else None, about["activation"])


def read_linear(call: Spelled) -> Meaning:
    linear: Any = call.module
    given = call.given(["input"], {})
    x = tensor(given["input"])
    about = {
        "shape": (linear.out_features, linear.in_features),
        "residual": False,
        "activation": None,
        "packed": None,
    }
    if isinstance(linear, CSRLinear):
        about |= {"activation": linear.activation, "packed": linear.weight}
        return Meaning([x], about, plain_parameters(linear, "values", "bias"))
    return Meaning([x], about, plain_parameters(linear, "weight", "bias"))


def evaluate_linear(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    about, x = node.attributes, inputs[0]
    weight, bias = given_like(x, weight_of(node)), given_like(x, node.parameters.get("bias"))
    assert weight is not None
    y = F.linear(x, weight, bias)
    return add_and_activate(y, inputs[1] if about["residual"] else None, about["activation"])


def read_constant(call: Spelled) -> Meaning:
    """What is left of a layer without weights: its bias, wherever it gave a number."""
    constant: Any = call.module
    x = tensor(call.given(["input"], {})["input"])
    about = {"shape": constant.shape, "geometry": constant.geometry}
    return Meaning([x], about, plain_parameters(constant, "bias"))


def evaluate_constant(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    bias = given_like(inputs[0], node.parameters["bias"])
    assert bias is not None
    return constant_output(bias, node.attributes["geometry"], inputs[0])


def read_norm(call: Spelled) -> Meaning:
    norm: Any = call.module
    x = tensor(call.given(["input"], {})["input"])
    if norm.training or norm.running_mean is None:
        raise Unlike("it works with the statistics of the batch")
    act = dict(norm.named_children()).get("act")
    activation = None if act is None or isinstance(act, nn.Identity) else activation_name(act)
    if act is not None and activation is None and not isinstance(act, nn.Identity):
        raise Unlike(f"the activation {type(act).__name__} in it is not known")
    names = "weight", "bias", "running_mean", "running_var"
    about = {"eps": norm.eps, "activation": activation}
    return Meaning([x], about, plain_parameters(norm, *names))


def scale_and_shift(node: Node) -> tuple[Tensor, Tensor]:
    """(C) each, float64: what a BatchNorm multiplies by, and then adds."""
    own = {name: held.detach() for name, held in node.parameters.items()}
    return scale_and_shift_of(own, node.attributes["eps"])


def scale_and_shift_of(tensors: Mapping[str, Tensor], eps: float) -> tuple[Tensor, Tensor]:
    """The same of a BatchNorm's tensors by name; differentiable."""
    own = {name: held.double() for name, held in tensors.items()}
    scale = (own["running_var"] + eps).rsqrt()
    if "weight" in own:
        scale = scale * own["weight"]
    shift = -own["running_mean"] * scale
    return scale, shift + own["bias"] if "bias" in own else shift


def evaluate_norm(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    own = {name: given_like(inputs[0], held) for name, held in node.parameters.items()}
    mean, var = own["running_mean"], own["running_var"]
    weight, bias, eps = own.get("weight"), own.get("bias"), node.attributes["eps"]
    y = F.batch_norm(inputs[0], mean, var, weight, bias, False, 0.0, eps)
    with torch.no_grad():
        return add_and_activate(y, None, node.attributes["activation"])
