"""Mixed precision: the forward pass in 16 bits, weights and steps in 32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NAMES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision:
    """How a run computes its gradients.

    float16 has few exponents: there the loss is scaled up before the backward pass, and a step
    whose gradients have become infinite is left out, as `torch.amp.GradScaler` does.

    Args:
        amp: "bfloat16", "float16", or None for the model's own type.
        device: of the model.

    Raises:
        ValueError: there is no such type, or it is float16 and the device is no CUDA device.
    """

    def __init__(self, amp: str | torch.dtype | None, device: torch.device) -> None:
        self.device = device
        self.dtype = NAMES.get(amp) if isinstance(amp, str) else amp
        if amp is not None and self.dtype not in NAMES.values():
            raise ValueError(f"amp must be one of {', '.join(NAMES)}, or None, got {amp!r}")
        if self.dtype is torch.float16 and device.type != "cuda":
            raise ValueError(f"amp float16 is for CUDA devices; on {device.type} take bfloat16")
        self.scaler = torch.amp.GradScaler("cuda") if self.dtype is torch.float16 else None

    def forward(self) -> AbstractContextManager[Any]:
        """What the forward pass and the loss are computed in."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss: Tensor, optimizer: Optimizer) -> None:
        """Leaves the gradients as they are without scaling."""
        if self.scaler is None:
            loss.backward()
            return
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(optimizer)

    def step(self, model: nn.Module, optimizer: Optimizer, clip: float | None) -> None:
        """Steps, after all gradients together have been shortened to the norm `clip`."""
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if self.scaler is None:
            optimizer.step()
            return
        self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scaler is not None:
            self.scaler.load_state_dict(state)
