"""Masks: which weights are kept. The only thing that training hands to inference.

A mask is a bool tensor of its weight's shape, True = kept; `Masks` maps parameter names, as in
`model.named_parameters()`, to masks. Anyone's zeros can be read: plain zeros, the pairs
`weight_orig`/`weight_mask` that `torch.nn.utils.prune` leaves on models and in state dicts, and the
parametrizations of `torch.ao.pruning`.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparse_ops._files import write_tensors
from sparse_ops._selection import kth_smallest
from sparse_ops._states import plain_state as plain_state
from sparse_ops._states import sparsifier_masks as sparsifier_masks

Masks = dict[str, Tensor]

# The layers whose weights are pruned. Their transposed and 1-D/3-D relatives are left alone.
PRUNABLE = (nn.Conv2d, nn.Linear)
# What nn.MultiheadAttention calls its weights, beside that of its out_proj.
ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of every Conv2d and Linear, by name, in order of definition; shared ones once."""
    found: dict[str, nn.Parameter] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, PRUNABLE):
            weight = module._parameters.get("weight")
            if weight is not None and all(weight is not other for other in found.values()):
                found[f"{prefix}.weight" if prefix else "weight"] = weight
    return found


def weights(model: nn.Module, kinds: tuple[type[nn.Module], ...] = PRUNABLE) -> dict[str, Tensor]:
    """The effective weight of every Conv2d and Linear: pruned or parametrized ones as computed.

    Args:
        kinds: other layers than those; nn.MultiheadAttention has up to three weights.
    """
    return {
        f"{prefix}.{key}" if prefix else key: weight.detach()
        for prefix, module in model.named_modules()
        if isinstance(module, kinds)
        for key in (ATTENTION if isinstance(module, nn.MultiheadAttention) else ("weight",))
        if isinstance(weight := getattr(module, key, None), Tensor)
    }


def from_zeros(
    model: nn.Module, threshold: float = 0.0, kinds: tuple[type[nn.Module], ...] = PRUNABLE
) -> Masks:
    """Reads masks off a model that someone has pruned: kept are the weights with |w| > threshold.

    Layers without any such zero get no mask. Where `torch.nn.utils.prune` or `torch.ao.pruning` has
    left its mask, that mask is taken, so that a kept weight which happens to be zero stays kept;
    of the others, those up to the threshold are removed.

    Args:
        kinds: the layers whose weights are looked at.

    Raises:
        ValueError: threshold is negative.
    """
    if threshold < 0:
        raise ValueError(f"threshold must be 0 or more, got {threshold}")
    modules = dict(model.named_modules())
    masks = {}
    for name, weight in weights(model, kinds).items():
        owner, _, key = name.rpartition(".")
        left = _left_mask(modules[owner], key)
        # What is not a number is kept: it must not become a zero.
        mask = ~(weight.abs() <= threshold)
        if left is not None:
            mask = left.detach().bool() & (mask | (weight == 0))
        if not bool(mask.all()):
            masks[name] = mask
    return masks


def _left_mask(module: nn.Module, key: str) -> Tensor | None:
    """The mask that a pruning tool of torch's has left on a layer's weight, if one has."""
    left = getattr(module, f"{key}_mask", None)
    if parametrize.is_parametrized(module, key):
        steps = module.parametrizations[key]  # type: ignore[index]
        # torch.ao.pruning's FakeSparsity multiplies by its buffer `mask`.
        masks = [getattr(step, "mask", None) for step in steps]
        if len(masks) == 1 and type(steps[0]).__name__ == "FakeSparsity":
            left = masks[0]
    return left if isinstance(left, Tensor) else None


def load_state_(
    model: nn.Module, state: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None
) -> Masks:
    """Loads anyone's pruned state dict into a plain model, in place.

    Args:
        model: plain.
        state: what `plain_state` reads.
        masks: as for `plain_state`.

    Returns:
        Its masks: those that were left in it, and for other layers their zeros.

    Raises:
        ValueError: as `plain_state`.
        RuntimeError: the state is not this model's.
    """
    plain, found = plain_state(state, masks)
    model.load_state_dict(plain)
    return from_zeros(model) | found


def check(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Compares masks with the weights they are for.

    Raises:
        ValueError: a mask is for no weight of the model, or is of another shape, or is not bool.
    """
    known = weights(model, (nn.Module,)) | dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in known:
            have = ", ".join(weights(model)) or "no Conv2d or Linear at all"
            raise ValueError(f"mask for {name!r}, but the model has no such weight; it has {have}")
        if mask.dtype != torch.bool:
            raise ValueError(f"mask of {name} must be bool, got {mask.dtype}")
        if mask.shape != known[name].shape:
            raise ValueError(
                f"mask of {name} must be {tuple(known[name].shape)}, got {tuple(mask.shape)}"
            )


def from_table(table: Mapping[str, Any], model: nn.Module) -> Masks:
    """The masks of a table as pruners have them, by the names and of the shapes of the weights.

    Tables may be nested, by module and then by parameter; what is None is no mask. Masks are bool,
    or numbers that are 0 or 1, also arrays. A module's name stands for its weight, `weight_mask`
    for `weight`; a mask may have one number for each filter, (O) or (O, 1, ...); of a transposed
    convolution, whose weight has its inputs first, (O) or (1, O, 1, ...).

    Raises:
        ValueError: it holds something else; names it.
    """
    parameters = dict(model.named_parameters())
    known = {**parameters, **weights(model, (nn.Module,))}
    found: Masks = {}
    for name, mask in _flat(table):
        if isinstance(mask, numpy.ndarray):
            mask = torch.from_numpy(mask)
        if not isinstance(mask, Tensor):
            raise ValueError(f"mask of {name} must be a tensor, got {type(mask).__name__}")
        kept = mask.detach() != 0
        if mask.dtype != torch.bool and not bool((kept == mask).all()):
            raise ValueError(f"mask of {name} must be bool, or zeros and ones, got {mask.dtype}")
        meant = next((n for n in _meant(name) if n in known), name)
        if meant in known:
            kept = _of_shape(kept, known[meant], _filters_second(model, meant))
        found[meant] = kept
    return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _meant(name: str) -> tuple[str, ...]:
    """The weights that a name may stand for."""
    plain = name.removesuffix("_mask").removesuffix(".mask")
    return name, plain, f"{plain}.weight" if plain else "weight"


def _filters_second(model: nn.Module, name: str) -> bool:
    """Whether a weight has its inputs first, and its filters as the second dimension."""
    module = model.get_submodule(name.rpartition(".")[0])
    return isinstance(module, nn.modules.conv._ConvTransposeNd)


def _of_shape(mask: Tensor, weight: Tensor, second: bool) -> Tensor:
    """A mask of filters as one of weights; another one as it is."""
    if second:
        shape = 1, weight.shape[1], *[1] * (weight.dim() - 2)
        if tuple(mask.shape) in (shape, shape[1:2]):
            return mask.reshape(shape).expand(weight.shape).contiguous()
        return mask
    filters = mask.numel() == len(weight) == (mask.shape[0] if mask.dim() else 0)
    if filters and mask.dim() in (1, weight.dim()) and mask.shape != weight.shape:
        across = mask.reshape(-1, *[1] * (weight.dim() - 1))
        return across.expand(weight.shape).contiguous()
    return mask


@torch.no_grad()
def apply_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Sets the weights that are not kept to zero, in place.

    Raises:
        ValueError: as `check`.
    """
    check(model, masks)
    # Shared weights under each of their names.
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        # A weight under torch.nn.utils.prune is computed; what can be changed is its `_orig`.
        weight = parameters[name] if name in parameters else parameters[f"{name}_orig"]
        weight.masked_fill_(~mask.to(weight.device), 0)


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """The fraction removed, over all masks together; 0 for no masks."""
    total = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    return 1 - kept / total if total else 0.0


def keep_largest(scores: Mapping[str, Tensor], keep: int) -> Masks:
    """Keeps the `keep` largest scores over all tensors together; ties at the cut are all kept.

    Raises:
        ValueError: keep is negative or more than there are scores.
    """
    total = sum(score.numel() for score in scores.values())
    if not 0 <= keep <= total:
        raise ValueError(f"keep must be between 0 and {total}, got {keep}")
    if keep == 0:
        return {name: torch.zeros_like(score, dtype=torch.bool) for name, score in scores.items()}
    cut = kth_smallest(list(scores.values()), total - keep + 1)
    return {name: score.detach() >= cut for name, score in scores.items()}


def save(masks: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Writes masks to a safetensors file; the file is whole or not there.

    Raises:
        ValueError: a mask is not a bool tensor.
        OSError: the file cannot be written.
    """
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise ValueError(f"mask of {name} must be bool, got {mask.dtype}")
    written = {name: mask.cpu().contiguous() for name, mask in masks.items()}
    write_tensors(written, path, {"format": "sparse_ops.masks", "version": "1"})


def load(path: str | os.PathLike[str]) -> Masks:
    """Reads masks that `save` wrote.

    Raises:
        ValueError: the file is damaged, or holds something other than masks.
        OSError: there is no such file, or it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            kind = (file.metadata() or {}).get("format")
            if kind != "sparse_ops.masks":
                raise ValueError(f"{path} holds {kind or 'plain tensors'}, not sparse_ops.masks")
            masks = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise ValueError(f"{path}: mask of {name} must be bool, got {mask.dtype}")
    return masks
