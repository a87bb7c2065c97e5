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
from sparse_ops.graph.trace import trace
from sparse_ops.nn._folded import BATCH_NORM, Folded
from sparse_ops.nn._layer import ACTIVATION_MODULES


@dataclass(frozen=True)
class Folding:
    """What may be folded in a model.

    Attributes:
        batch_norms: layer -> the BatchNorm after it.
        activations: layer -> (the activation module after it, the activation's name).
    """

    batch_norms: dict[str, str] = field(default_factory=dict)
    activations: dict[str, tuple[str, str]] = field(default_factory=dict)


def gelu_name(approximate: object) -> str | None:
    """What the sparse layers call GELU with this argument of torch's."""
    return {"none": "gelu", "tanh": "gelu_tanh"}.get(str(approximate))


def activation_name(module: nn.Module | None) -> str | None:
    """What the sparse layers call this activation; None if they do not know it."""
    if type(module) is nn.GELU:
        return gelu_name(module.approximate)
    for name, kind in ACTIVATION_MODULES.items():
        if type(module) is kind:
            return name
    return None


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a BatchNorm, maybe with an activation after it as timm's have."""
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
        return True
    parts = dict(module.named_children())
    return (
        isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        and parts.keys() == {"drop", "act"}
        and isinstance(parts["drop"], nn.Identity)
        and not parts["act"].state_dict()
    )


def without_norm(norm: nn.Module, into: str) -> Folded:
    """What is left of a BatchNorm that the layer `into` does."""
    act = dict(norm.named_children()).get("act")
    return Folded(into, BATCH_NORM, None if isinstance(act, nn.Identity) else act)


def _foldable_norm(layer: nn.Module, norm: nn.Module) -> bool:
    wanted = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
    width = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
    return (
        is_norm(norm)
        and isinstance(norm, wanted)
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
    graph, note = trace(model)
    if graph is None:
        return Folding(), note
    uses: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            uses[node.target] = uses.get(node.target, 0) + 1
    places: dict[int, int] = {}
    for _, module in model.named_modules(remove_duplicate=False):
        places[id(module)] = places.get(id(module), 0) + 1

    def once(name: str) -> bool:
        called = calls[name].calls if name in calls else 1
        return uses[name] == called == 1 and places[id(model.get_submodule(name))] == 1

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
                if (known := activation_name(without_norm(norm, name).act)) is not None:
                    folding.activations[name] = (f"{after.target}.act", known)
                    continue
                if without_norm(norm, name).act is not None:
                    continue
                after = _only_user(after)
        if after is not None and once(str(after.target)):
            module = model.get_submodule(str(after.target))
            known = activation_name(module)
            if known and not (module._forward_hooks or module._forward_pre_hooks):
                folding.activations[name] = (str(after.target), known)
    return folding, note


@torch.no_grad()
def fold_batch_norms_(model: nn.Module, folding: Folding) -> None:
    """Folds every BatchNorm of the folding into its layer, which gets new parameters."""
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
        learns = weight if layer.bias is None else layer.bias
        layer.bias = nn.Parameter(shift.to(weight.dtype), learns.requires_grad)
        wide = weight.double().mul_(scale.reshape(across))
        layer.weight = nn.Parameter(wide.to(weight.dtype), weight.requires_grad)
        replaced(model, norm_name, without_norm(norm, name))
