"""Small pruned models, and a clock that says what a test wants, for the tests of conversion."""

import torch
from torch import nn

from sparse_ops.convert import Comparison
from sparse_ops.patterns import PSD2_P8


class Net(nn.Module):
    """One layer of each kind, BatchNorms, activations, and a layer that is not pruned."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.relu1 = nn.ReLU()
        self.periodic = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.relu2 = nn.ReLU6()
        self.anything = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.plain = nn.Conv2d(16, 12, 1)
        self.fc = nn.Linear(12, 10)

    def forward(self, x):
        x = self.relu1(self.norm1(self.stem(x)))
        x = self.relu2(self.norm2(self.periodic(x)))
        x = torch.relu(self.anything(x))
        return self.fc(self.plain(x).mean((2, 3)))


def net():
    """A `Net` in eval mode whose BatchNorms have seen something."""
    model = Net()
    for _ in range(2):
        model(torch.randn(4, 3, 8, 8))
    with torch.no_grad():
        for norm in (model.norm1, model.norm2):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-1, 1)
    return model.eval()


def masks_of_net():
    channels = torch.zeros(8, 3, 3, 3, dtype=torch.bool)
    channels[::2] = True
    return {
        "stem.weight": channels,
        "periodic.weight": PSD2_P8.mask((16, 8, 3, 3)),
        "anything.weight": torch.rand(16, 16, 3, 3) > 0.9,
        "fc.weight": torch.rand(10, 12) > 0.7,
    }


EXAMPLE = (2, 3, 8, 8)


def says(*ratios):
    """A measurement that calls both sides once and gives these ratios in turn."""
    left = list(ratios)

    def measure(dense, packed, budget_s):
        dense()
        packed()
        ratio = left.pop(0) if len(left) > 1 else left[0]
        return Comparison(ratio, 1.0, ratio, 0.9 * ratio, 1.1 * ratio, 20)

    return measure
