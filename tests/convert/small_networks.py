"""Small models of many shapes, for the tests of graphs and programs."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import sparse_ops as so
from sparse_ops.planning.masked import PACKED

IMAGES = 16
SIZE = (3, 12, 12)


def conv(inputs, outputs, kernel=3, stride=1, **options):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, **options)


class Residual(nn.Module):
    """A ResNet of two blocks, the second with a 1x1 convolution of stride 2 beside; BatchNorms."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = conv(3, 8, 7, 2, bias=False), nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.a, self.b = conv(8, 8), conv(8, 8)
        self.norm_a, self.norm_b = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.c, self.d, self.down = conv(8, 16, 3, 2), conv(16, 16), conv(8, 16, 1, 2)
        self.relu = nn.ReLU(inplace=True)
        self.mean, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 10)

    def forward(self, x):
        x = self.pool(self.relu(self.norm(self.stem(x))))
        y = self.norm_b(self.b(self.relu(self.norm_a(self.a(x)))))
        y += x
        x = self.relu(y)
        x = F.relu(self.d(self.relu(self.c(x))) + self.down(x))
        return self.fc(torch.flatten(self.mean(x), 1))


class Vgg(nn.Sequential):
    """Convolutions and pools in a row, ordinary and adaptive."""

    def __init__(self):
        super().__init__(
            conv(3, 8),
            nn.ReLU(True),
            nn.MaxPool2d(2),
            conv(8, 16),
            nn.Hardswish(),
            nn.Dropout(),
            nn.AvgPool2d(2),
            conv(16, 8, 5),
            nn.LeakyReLU(0.2),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(72, 10),
        )


class Branches(nn.Module):
    """Inception's block: branches of one, two and no convolutions, one pooled, and SiLU."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8, bias=False)
        self.one, self.two, self.three = conv(8, 8, 1), conv(8, 4, 1), conv(4, 8)
        self.pooled, self.last = conv(8, 4, 1), conv(28, 8)

    def forward(self, x):
        x = F.silu(self.stem(x))
        three = F.relu(self.three(F.relu6(self.two(x))))
        pooled = self.pooled(F.max_pool2d(x, 3, stride=1, padding=1))
        x = torch.cat([self.one(x), three, pooled, x], dim=-3)
        return F.gelu(self.last(x)).mean((-2, -1), keepdim=True)


class Twice(nn.Module):
    """A layer that is called twice, and outputs from within."""

    def __init__(self):
        super().__init__()
        self.stem, self.same, self.last = conv(3, 8), conv(8, 8), conv(8, 4)

    def forward(self, x):
        first = self.same(torch.relu(self.stem(x)))
        second = self.same(first) + first
        return {"first": first, "rest": (self.last(second), second.mean([2, 3]))}


class Gates(nn.Module):
    """A gate between two pairs of convolutions."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 8), conv(8, 8), conv(8, 8), conv(8, 8)
        self.gate = nn.Linear(8, 8)

    def forward(self, x):
        x = self.b(self.a(x).relu())
        x = x * self.gate(x.mean((2, 3))).sigmoid()[:, :, None, None]
        return self.d(F.avg_pool2d(self.c(x), 2)).flatten(1)


class Upward(nn.Module):
    """A U-Net of one step down and up, and its output twice as large."""

    def __init__(self):
        super().__init__()
        self.stem, self.down, self.last = conv(3, 8), conv(8, 16, 3, 2), conv(16, 6)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.large = nn.ConvTranspose2d(6, 3, 3, 2, 1, 1, bias=False)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = F.relu(self.up(F.relu(self.down(x))))
        return self.large(F.relu(self.last(torch.cat([y, x], 1))))


MODELS = (Residual, Vgg, Branches, Twice, Gates, Upward)


def images(count=IMAGES):
    return torch.randn(count, *SIZE)


def model_of(kind):
    """A model in eval mode whose BatchNorms have seen something."""
    model = kind()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def masks_of(model, dense=()):
    """Random masks; those named keep everything."""
    return {
        name: torch.rand_like(weight) > 0.6
        for name, weight in so.masks.weights(model, PACKED).items()
        if name.removesuffix(".weight") not in dense
    }


def assert_same(actual, expected):
    """Compares all tensors in what two models give."""
    pairs = zip(tree_leaves(actual), tree_leaves(expected), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
