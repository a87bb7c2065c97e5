"""Training under masks: what is removed stays exactly zero while the rest learns.

A weight that is zero, whose gradient is zero, and whose optimizer state is zero, is not moved by
SGD (with momentum, Nesterov, decay), Adam or AdamW. So weights and state are masked once, when the
masks come about, and gradients at each step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparse_ops._selection import keep_only_
from sparse_ops.masks import Masks, apply_
from sparse_ops.training.method import Epoch, SparsityMethod


@dataclass
class MaskedMethod(SparsityMethod):
    """Keeps the masks it has been given by `impose`; none at first."""

    masks: Masks = field(init=False, repr=False, compare=False, default_factory=dict)
    # The same masks in the memory layout of the weights, so that the two are walked through alike.
    _kept_of: dict[str, Tensor] = field(init=False, repr=False, compare=False, default_factory=dict)

    def prepare(self, model: nn.Module) -> None:
        self.masks, self._kept_of = {}, {}

    def impose(
        self, model: nn.Module, masks: Masks, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Masks the weights of `model` and the state of `optimizer`, now and from now on."""
        apply_(model, masks)
        parameters = dict(model.named_parameters())
        self.masks = {n: mask.to(parameters[n].device) for n, mask in masks.items()}
        self._kept_of = {
            n: torch.empty_like(parameters[n], dtype=torch.bool, requires_grad=False).copy_(mask)
            for n, mask in self.masks.items()
        }
        if optimizer is not None:
            for name, kept in self._kept_of.items():
                for value in optimizer.state.get(parameters[name], {}).values():
                    if isinstance(value, Tensor) and value.shape == kept.shape:
                        keep_only_(value, kept)

    def after_backward(self, model: nn.Module) -> None:
        if self._kept_of:
            for name, parameter in model.named_parameters():
                kept = self._kept_of.get(name)
                if kept is not None and parameter.grad is not None:
                    keep_only_(parameter.grad, kept)

    def end_epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: Epoch) -> bool:
        """Raises RuntimeError if the optimizer has moved a weight that is removed."""
        check_kept(model, self._kept_of, type(optimizer).__name__)
        return True

    def finalize(self, model: nn.Module) -> Masks:
        return self.masks


def check_kept(model: nn.Module, masks: Mapping[str, Tensor], optimizer: str) -> None:
    """Raises RuntimeError if a removed weight is not zero."""
    parameters = dict(model.named_parameters())
    for name, kept in masks.items():
        if bool(parameters[name].detach()[~kept].any()):
            raise RuntimeError(
                f"{optimizer} has moved removed weights of {name}, whose gradients are zero; "
                "use an optimizer that moves each weight by its own gradient"
            )
