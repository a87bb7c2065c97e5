"""Folding: a BatchNorm becomes part of the convolution or linear layer before it.

In eval mode it is y = x * scale + shift per channel, which the layer's weight and bias can do.
"""

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from sparse_ops.graph.ir import Graph, Node
from sparse_ops.graph.layers import scale_and_shift
from sparse_ops.ops._activation import slope_of


def fold_norms(graph: Graph, skipped: Collection[str] = ()) -> dict[str, str]:
    """Folds every BatchNorm that can be, in place; layer -> the BatchNorm, by names of modules.

    An activation that was part of the BatchNorm stays, as a node of its own.

    Args:
        skipped: layers that stay as they are.
    """
    users = _users_of_weights(graph)
    done: dict[str, str] = {}
    for norm in graph:
        if norm.op != "batch_norm":
            continue
        layer = norm.inputs[0].producer
        if layer is None or layer.module in skipped or not _takes(graph, layer, norm, users):
            continue
        _fold(layer, norm)
        assert layer.module is not None and norm.module is not None
        done[layer.module] = norm.module
        activation = norm.attributes["activation"]
        if activation is None:
            graph.replace(norm.output, norm.inputs[0])
            graph.erase(norm)
        else:
            norm.op, norm.attributes, norm.parameters = "unary", _unary(activation), {}
            norm.module = f"{norm.module}.act"
    return done


def _unary(activation: str) -> dict[str, Any]:
    """The attributes of a node that does no more than an activation."""
    slope = slope_of(activation)
    if slope is None:
        return {"function": activation}
    return {"function": "leaky_relu", "negative_slope": slope}


def _users_of_weights(graph: Graph) -> dict[int, int]:
    """How many nodes have each tensor."""
    count: dict[int, int] = {}
    for node in graph.nodes:
        for held in node.parameters.values():
            count[id(held)] = count.get(id(held), 0) + 1
    return count


def _takes(graph: Graph, layer: Node, norm: Node, users: dict[int, int]) -> bool:
    """Whether a layer can do what a BatchNorm after it does."""
    if layer.op not in ("conv2d", "linear") or layer.attributes["packed"] is not None:
        return False
    about = layer.attributes
    if about["activation"] is not None or about["residual"] or layer.module is None:
        return False
    if layer.op == "linear" and layer.output.rank != 2:
        return False
    held = [*layer.parameters.values(), *norm.parameters.values()]
    alone = all(users[id(one)] == 1 for one in held)
    wide = norm.parameters["running_mean"].numel() == about["shape"][0]
    return alone and wide and graph.only_user(layer.output) is norm


def _fold(layer: Node, norm: Node) -> None:
    scale, shift = scale_and_shift(norm)
    weight, bias = layer.parameters["weight"], layer.parameters.get("bias")
    if bias is not None:
        shift = shift + bias.detach().double() * scale
    across = (-1, *[1] * (weight.dim() - 1))
    # No change in place: of a float64 model it would be the model's own weight.
    wide = weight.detach().double() * scale.reshape(across)
    # What training would change of the sum of both.
    learns = any(b is not None and b.requires_grad for b in (bias, norm.parameters.get("bias")))
    layer.parameters["weight"] = _like(wide, weight, weight.requires_grad)
    layer.parameters["bias"] = _like(shift, weight, learns)


def _like(tensor: Tensor, weight: Tensor, learns: bool) -> nn.Parameter:
    return nn.Parameter(tensor.to(weight.dtype), learns)
