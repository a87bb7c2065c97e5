"""Norms of groups and of single channels, and activations with a number for each channel."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sparse_ops.graph.ir import Node
from sparse_ops.graph.layers import given_like, plain_parameters
from sparse_ops.graph.spelling import Meaning, Op, Spelled, Unlike, Way, tensor


def _read_groups(call: Spelled) -> Meaning:
    norm: Any = call.module
    x = tensor(call.given(["input"], {})["input"])
    about = {"groups": norm.num_groups, "channels": norm.num_channels, "eps": norm.eps}
    return Meaning([x], about, plain_parameters(norm, "weight", "bias"))


def _evaluate_groups(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    x, about = inputs[0], node.attributes
    weight, bias = (given_like(x, node.parameters.get(name)) for name in ("weight", "bias"))
    return F.group_norm(x, about["groups"], weight, bias, about["eps"])


def _read_instance(call: Spelled) -> Meaning:
    norm: Any = call.module
    x = tensor(call.given(["input"], {})["input"])
    if x.rank != 4 or norm.track_running_stats:
        raise Unlike("it works with statistics of other images")
    about = {"channels": norm.num_features, "eps": norm.eps}
    return Meaning([x], about, plain_parameters(norm, "weight", "bias"))


def _evaluate_instance(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    x = inputs[0]
    weight, bias = (given_like(x, node.parameters.get(name)) for name in ("weight", "bias"))
    return F.instance_norm(x, weight=weight, bias=bias, eps=node.attributes["eps"])


def _read_prelu(call: Spelled) -> Meaning:
    x = tensor(call.given(["input"], {})["input"])
    assert call.module is not None
    return Meaning([x], {}, plain_parameters(call.module, "weight"))


def _evaluate_prelu(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    weight = given_like(inputs[0], node.parameters["weight"])
    assert weight is not None
    return F.prelu(inputs[0], weight)


OPS: dict[str, Op] = {
    "group_norm": Op(_evaluate_groups, Way(_read_groups, (nn.GroupNorm,))),
    "instance_norm": Op(_evaluate_instance, Way(_read_instance, (nn.InstanceNorm2d,))),
    "prelu": Op(_evaluate_prelu, Way(_read_prelu, (nn.PReLU,))),
}
