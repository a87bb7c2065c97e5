"""State dicts on which pruning tools have left marks: as plain models have them, and the masks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# What DistributedDataParallel, AveragedModel and torch.compile put before all names; and what
# AveragedModel has beside them.
PREFIXES = ("module.", "_orig_mod.")
AVERAGED = "n_averaged"
# X.parametrizations.weight.original is what torch.ao.pruning's mask, and nothing else, multiplies.
_PARAMETRIZED, _ORIGINAL, _MASK = ".parametrizations.", ".original", ".0.mask"


def plain_state(
    state: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state dict as a plain model has it, and the masks that pruning tools have left in it.

    Known are `weight_orig` and `weight_mask` of `torch.nn.utils.prune`, `parametrizations.weight`
    of `torch.ao.pruning`, the prefixes that DistributedDataParallel, AveragedModel and
    torch.compile put before all names, in any order, and AveragedModel's `n_averaged`.

    Args:
        state: parameter and buffer name -> tensor.
        masks: weight name -> mask, of weights under torch.ao.pruning whose masks are not in the
            state: its modules leave them out (`sparsifier_masks` reads them from the tool's own).

    Raises:
        ValueError: a mask does not fit its weight or is not one, or a weight is computed by a
            parametrization in a way that a state dict does not tell of.
    """
    plain = _unwrapped(state)
    found: dict[str, Tensor] = {}
    for name in list(plain):
        base = name.removesuffix("_orig")
        if base != name and f"{base}_mask" in plain:
            found[base] = _mask_of(base, plain[name], plain.pop(f"{base}_mask"))
            plain[base] = plain.pop(name).masked_fill(~found[base], 0)
        elif f".{name}".find(_PARAMETRIZED) >= 0 and name in plain:
            _unparametrize_(plain, found, name, masks or {})
    return plain, found


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers put before all names, however many there were."""
    named = {name: tensor for name, tensor in state.items() if name != AVERAGED}
    for prefix in PREFIXES:
        if named and all(name.startswith(prefix) for name in named):
            return _unwrapped({n.removeprefix(prefix): tensor for n, tensor in named.items()})
    return dict(state)


def _unparametrize_(
    plain: dict[str, Tensor],
    found: dict[str, Tensor],
    name: str,
    masks: Mapping[str, Tensor],
) -> None:
    """Puts a weight in the place of what torch.ao.pruning has made of it; `name` is one of that."""
    layer, _, rest = f".{name}".partition(_PARAMETRIZED)
    prefix = f"{layer}.".removeprefix(".")
    parameter = rest.partition(".")[0]
    base = f"{prefix}{parameter}"
    start = f"{prefix}{_PARAMETRIZED[1:]}{parameter}"
    own = {key for key in plain if key.startswith(f"{start}.")}
    original, mask = f"{start}{_ORIGINAL}", f"{start}{_MASK}"
    if own - {original, mask} or original not in own:
        raise ValueError(
            f"{name} belongs to a parametrization, and what that computes is not in a state dict: "
            "give the parametrized model itself, or save it after remove_parametrizations"
        )
    if mask not in own and base not in masks:
        raise ValueError(
            f"{name} belongs to a parametrization, and its mask is not there (the modules of "
            "torch.ao.pruning leave theirs out of state dicts): save the model after squash_mask, "
            "or state_dict() | dict(named_buffers()), which has them, or give the model itself"
        )
    weight = plain.pop(original)
    found[base] = _mask_of(base, weight, plain.pop(mask) if mask in own else masks[base])
    plain[base] = weight.masked_fill(~found[base], 0)
    # The pruners of whole filters take the bias out of the layer, and add it later.
    if f"{prefix}_bias" in plain and parameter == "weight":
        plain[f"{prefix}bias"] = plain.pop(f"{prefix}_bias")


def _mask_of(name: str, weight: Tensor, mask: Tensor) -> Tensor:
    """A mask as bool, of its weight's shape; that of a pruner of filters has one entry for each."""
    if not isinstance(weight, Tensor) or not isinstance(mask, Tensor):
        raise ValueError(
            f"{name} and its mask must be tensors, got {type(weight).__name__} and "
            f"{type(mask).__name__}"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(f"the mask of {name} must be of zeros and ones")
    if weight.dim() > 1 and mask.dim() == 1 and len(mask) == len(weight):
        mask = mask.reshape(-1, *[1] * (weight.dim() - 1)).expand(weight.shape)
    if mask.shape != weight.shape:
        raise ValueError(
            f"the mask of {name} must be {tuple(weight.shape)}, got {tuple(mask.shape)}"
        )
    return mask.to(torch.bool).to(weight.device).contiguous()


def sparsifier_masks(saved: Any) -> dict[str, Tensor]:
    """Weight name -> mask, of what the `state_dict()` of a sparsifier of torch.ao.pruning holds.

    Empty if `saved` is something else.
    """
    state = saved.get("state") if isinstance(saved, Mapping) and "groups" in saved else None
    if not isinstance(state, Mapping):
        return {}
    masks = {}
    for name, about in state.items():
        mask = about.get("mask") if isinstance(about, Mapping) else None
        if isinstance(name, str) and isinstance(mask, Tensor):
            masks[name] = mask
    return masks
