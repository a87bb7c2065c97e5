"""A network and a task that are learned in a fraction of a second, and optimizers for them."""

from collections.abc import Callable

import torch
from torch import nn

from sparse_ops.data import Split

OPTIMIZERS: dict[str, Callable] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda groups: torch.optim.Adam(groups, lr=1e-2, weight_decay=1e-3),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=1e-2),
}


def small_net() -> nn.Module:
    """Two convolutions, BatchNorm, dropout (so that the seed matters), a linear layer."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 3),
        )


def small_task(count: int = 60) -> Split:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    images = torch.randn(count, 1, 6, 6, generator=generator)
    images += labels.float()[:, None, None, None] - 1
    return Split(images, labels)


TEN = [0.5, -0.4, 0.3, -0.2, 0.1, -0.05, 0.02, -0.01, 0.8, -1.0]


class ConvAndLinear(nn.Module):
    """The ten weights in two layers, with a bias and a BatchNorm that are no part of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 2)
        self.norm = nn.BatchNorm2d(1)
        self.linear = nn.Linear(6, 1)
        self.double()
        with torch.no_grad():
            for name, values in (("conv", TEN[:4]), ("linear", TEN[4:])):
                weight = self.get_submodule(name).weight
                weight.copy_(torch.tensor(values, dtype=torch.float64).view(weight.shape))
