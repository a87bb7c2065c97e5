"""Folding: BatchNorm into the layer before it, and the activation after it into a packed layer.

In eval mode a BatchNorm is y = (x - mean) * scale + shift per channel, which the weight and bias of
the layer before it can do as well. Modules that fall away become `Folded`, so that the model keeps
its own class and its own forward. torch.fx tells which modules follow which; a model that it cannot
trace is left as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from sparse_ops.convert.prepare import Call, keeps_dense, replaced
from sparse_ops.convert.tracing import trace
from sparse_ops.nn._layer import ACTIVATION_MODULES

BATCH_NORM, ACTIVATION = "batch_norm", "activation"


class Folded(nn.Identity):
    """Stands where a module was that another one does now.

    Attributes:
        into: the name of the layer that does it.
        what: "batch_norm" or "activation".
    """

    def __init__(self, into: str, what: str) -> None:
        super().__init__()
        self.into, self.what = into, what

    def extra_repr(self) -> str:
        return f"{self.what} in {self.into}"


@dataclass(frozen=True)
class Folding:
    """What may be folded in a model.

    Attributes:
        batch_norms: layer -> the BatchNorm after it.
        activations: layer -> (the activation module after it, the activation's name).
    """

    batch_norms: dict[str, str] = field(default_factory=dict)
    activations: dict[str, tuple[str, str]] = field(default_factory=dict)


def activation_name(module: nn.Module) -> str | None:
    """What the sparse layers call this activation; None if they do not know it."""
    for name, kind in ACTIVATION_MODULES.items():
        if type(module) is kind:
            return name
    return None


def _foldable_norm(layer: nn.Module, norm: nn.Module) -> bool:
    wanted = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
    width = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
    return (
        type(norm) is wanted
        and not norm.training
        and norm.running_mean is not None
        and norm.num_features == width
        and not (norm._forward_hooks or norm._forward_pre_hooks)
    )


def _only_user(node: fx.Node) -> fx.Node | None:
    """The one node that uses this one, if it is a call of a module on nothing else."""
    if len(node.users) != 1:
        return None
    user = next(iter(node.users))
    alone = user.op == "call_module" and user.args == (node,) and not user.kwargs
    return user if alone else None


def find(model: nn.Module, calls: Mapping[str, Call]) -> tuple[Folding, str | None]:
    """What can be folded in a model in eval mode.

    Args:
        model: not changed.
        calls: what its Conv2d and Linear are given: a Linear is folded where that is (N, features).

    Returns:
        The folding, and None or why nothing could be found out.
    """
    graph, reason = trace(model)
    if graph is None:
        return Folding(), f"nothing was folded: {reason}"
    uses: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            uses[node.target] = uses.get(node.target, 0) + 1
    places: dict[int, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        places[id(module)] = places.get(id(module), 0) + 1

    def once(name: str) -> bool:
        return uses[name] == 1 and places[id(model.get_submodule(name))] == 1

    folding = Folding()
    for node in graph.nodes:
        if node.op != "call_module" or node.target not in calls or not once(node.target):
            continue
        name = str(node.target)
        layer = model.get_submodule(name)
        if keeps_dense(model, name) is not None:
            continue
        after = _only_user(node)
        if after is not None and once(str(after.target)):
            norm = model.get_submodule(str(after.target))
            flat = isinstance(layer, nn.Conv2d) or calls[name].x.dim() == 2
            if flat and _foldable_norm(layer, norm):
                folding.batch_norms[name] = str(after.target)
                after = _only_user(after)
        if after is not None and once(str(after.target)):
            module = model.get_submodule(str(after.target))
            known = activation_name(module)
            if known and not (module._forward_hooks or module._forward_pre_hooks):
                folding.activations[name] = (str(after.target), known)
    return folding, None


@torch.no_grad()
def fold_batch_norms_(model: nn.Module, folding: Folding) -> None:
    """Folds every BatchNorm of the folding into its layer, in place."""
    for name, norm_name in folding.batch_norms.items():
        layer: Any = model.get_submodule(name)
        norm: Any = model.get_submodule(norm_name)
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        shift = -norm.running_mean.double() * scale
        if norm.bias is not None:
            shift = shift + norm.bias.double()
        weight = layer.weight
        if layer.bias is not None:
            shift = shift + layer.bias.double() * scale
        across = (-1, *[1] * (weight.dim() - 1))
        weight.copy_(weight.double() * scale.reshape(across))
        if layer.bias is None:
            layer.bias = nn.Parameter(shift.to(weight.dtype), weight.requires_grad)
        else:
            layer.bias.copy_(shift)
        replaced(model, norm_name, Folded(name, BATCH_NORM))
