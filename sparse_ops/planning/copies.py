"""Copies of models: what planning works on, so that the model itself is never touched."""

import copy
import gc
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

# Bytes of weights.
MUCH = 32 << 20


def copied(model: nn.Module, shared: Iterable[Tensor] = ()) -> nn.Module:
    """A deep copy, each module in the mode that it has in the model.

    Args:
        shared: tensors that the copy has itself, not copies of them.

    Raises:
        ValueError: the model holds what cannot be copied; names the attribute.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    for module in model.modules():
        for tensor in tree_leaves([*vars(module).values()]):
            # Activations and computed weights have a history, which deepcopy refuses.
            if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                memo[id(tensor)] = tensor.detach() if shared else tensor.detach().clone()
    # Deepcopy notes in it what it makes.
    known = dict(memo)
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:
        place = _not_copied(model, known)
        raise ValueError(f"the model cannot be copied, for {place}: {error}") from error
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in twin.named_modules():
        module.training = modes.get(name, module.training)
    return twin


def _not_copied(model: nn.Module, memo: dict[int, Any]) -> str:
    """Which attribute of which module cannot be copied."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key == "_modules":
                continue
            # Somebody's class, whose copying may raise anything.
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:
                return f"its {name}.{key}" if name else f"its {key}"
    return "one of its classes"


def free_cycles(model: nn.Module) -> None:
    """Frees what graphs and copies of a model hold by reference cycles, where that is much.

    Python does so itself some time; asked for, it takes a fifth of a second.
    """
    if sum(parameter.nbytes for parameter in model.parameters()) >= MUCH:
        gc.collect()


def sharing_copy(model: nn.Module) -> nn.Module:
    """A copy whose modules are its own and whose tensors are the model's: they must not change."""
    return copied(model, (*model.parameters(), *model.buffers()))
