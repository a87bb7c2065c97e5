"""Plain weights: of layers whose weights are computed, by pruning, norms or parametrizations."""

from typing import Any

from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sparse_ops import masks as masks_
from sparse_ops.graph.layers import LIKE


def make_plain_(model: nn.Module) -> None:
    """Turns computed weights of layers into plain parameters: what they are in eval mode.

    Pruned and parametrized ones, and those of the older weight_norm and spectral_norm.
    """
    for module in list(model.modules()):
        if not isinstance(module, (*masks_.PRUNABLE, *LIKE, nn.MultiheadAttention)):
            continue
        training, module.training = module.training, False
        _unnorm_(module)
        if prune.is_pruned(module):
            _unprune_(module)
        if parametrize.is_parametrized(module):
            lists = module.parametrizations
            assert isinstance(lists, nn.ModuleDict)
            lists.eval()
            _unparametrize_(module)
        module.training = training


def _unnorm_(module: nn.Module) -> None:
    """Without the hooks of torch's weight_norm and spectral_norm, whose weights it has then."""
    for number, hook in list(module._forward_pre_hooks.items()):
        if not isinstance(hook, WeightNorm | SpectralNorm):
            continue
        hook(module, ())
        value = getattr(module, hook.name).detach().clone()
        ends = ("_g", "_v", "_orig", "_u")
        parts = [
            table.pop(f"{hook.name}{end}", None)
            for table in (module._parameters, module._buffers)
            for end in ends
        ]
        learns = any(part is not None and part.requires_grad for part in parts)
        del module._forward_pre_hooks[number]
        for key in [k for k, other in module._state_dict_hooks.items() if _is_of(other, hook)]:
            del module._state_dict_hooks[key]
        for key in [
            k for k, other in module._load_state_dict_pre_hooks.items() if _is_of(other, hook)
        ]:
            del module._load_state_dict_pre_hooks[key]
        module.__dict__.pop(hook.name, None)
        module.register_parameter(hook.name, nn.Parameter(value, learns))


def _is_of(other: Any, hook: Any) -> bool:
    """Whether a hook on state dicts belongs to a norm of weights."""
    other = getattr(other, "hook", other)
    return getattr(other, "fn", None) is hook


def _unprune_(module: nn.Module) -> None:
    """As torch's prune.remove, which changes a tensor that copies may share."""
    for name in [n[: -len("_mask")] for n in module._buffers if n.endswith("_mask")]:
        original, mask = module._parameters.get(f"{name}_orig"), module._buffers[f"{name}_mask"]
        if original is None or mask is None:
            continue
        value = original.detach() * mask
        for number, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == name:
                del module._forward_pre_hooks[number]
        del module._parameters[f"{name}_orig"], module._buffers[f"{name}_mask"]
        module.__dict__.pop(name, None)
        module.register_parameter(name, nn.Parameter(value, original.requires_grad))


def _unparametrize_(module: nn.Module) -> None:
    """As torch's remove_parametrizations, which changes the class that deep copies share."""
    lists = module._modules["parametrizations"]
    assert isinstance(lists, nn.ModuleDict)
    values = {name: getattr(module, name).detach().clone() for name in lists}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        learns = any(parameter.requires_grad for parameter in lists[name].parameters())
        module.register_parameter(name, nn.Parameter(value, learns))
