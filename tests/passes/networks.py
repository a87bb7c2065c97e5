"""Networks for tests of passes: small layers with dead filters, and random models."""

import torch
from torch import nn
from torch.nn import functional as F

from sparse_ops import masks as masks_
from sparse_ops.patterns import PSD2_P8

SIZE = 8


def norm(width):
    layer = nn.BatchNorm2d(width)
    layer.running_mean.uniform_(-1, 1)
    layer.running_var.uniform_(0.5, 1.5)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 1.5)
        layer.bias.uniform_(0.1, 1)
    return layer


def without(layer, *outputs):
    """The layer with dead filters."""
    with torch.no_grad():
        layer.weight[list(outputs)] = 0
    return layer


def chain(padding=1, act=None, bias=True, mode="zeros"):
    return nn.Sequential(
        without(nn.Conv2d(3, 8, 3, padding=1, bias=bias), 1, 2, 6),
        norm(8),
        act or nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=padding, padding_mode=mode),
    )


# Steps of random networks.
KINDS = (
    "depthwise",
    "grouped",
    "add",
    "cat",
    "pool",
    "act",
    "gate",
    "again",
    "pick",
    "part",
    "mix",
    "more",
    "upward",
)


class Random(nn.Module):
    """Steps that are drawn from a seed; each reads one or two tensors of those before it."""

    def __init__(self, chance, kinds):
        super().__init__()
        self.chance = chance
        self.plan = []
        self.layers = nn.ModuleList()
        widths = [self._conv(3, 0)]
        for kind in kinds:
            widths.append(getattr(self, f"_{kind}")(widths))
        self.fc = nn.Linear(widths[-1] * (16 if chance.random() < 0.5 else 1), 3)
        self.wide = self.fc.in_features != widths[-1]

    def _of(self, *options):
        return self.chance.choice(options)

    def _norm(self, width):
        if self.chance.random() < 0.3:
            return nn.Identity()
        norm = nn.BatchNorm2d(width)
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 1.5)
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5)
            norm.weight[torch.rand(width) < 0.1] = 0
            norm.bias.uniform_(-1, 1)
        return norm

    def _conv(self, before, source, groups=1, after=None, kernel=None):
        kernel = kernel or self._of(1, 3)
        after = after or self._of(4, 6, 8)
        mode = self._of("zeros", "zeros", "zeros", "reflect", "circular")
        bias = self.chance.random() < 0.5
        conv = nn.Conv2d(
            before, after, kernel, padding=kernel // 2, groups=groups, bias=bias, padding_mode=mode
        )
        with torch.no_grad():
            conv.weight[torch.rand(after) < self._of(0, 0.3, 0.6, 1.0)] = 0
            conv.weight[:, torch.rand(before // groups) < self._of(0, 0.3)] = 0
        self.layers.append(nn.Sequential(conv, self._norm(after)))
        self.plan.append(("layer", len(self.layers) - 1, source))
        return after

    def _upward(self, widths):
        """A transposed convolution, and back to the size that there was."""
        source = self._source(widths)
        before, after, stride = widths[source], self._of(4, 6, 8), self._of(1, 2)
        # Kernel, padding, output padding.
        sizes = self._of((2, 0, 0), (3, 1, 1), (4, 1, 0)) if stride == 2 else (3, 1, 0)
        bias = self.chance.random() < 0.5
        conv = nn.ConvTranspose2d(before, after, sizes[0], stride, sizes[1], sizes[2], bias=bias)
        with torch.no_grad():
            conv.weight[:, torch.rand(after) < self._of(0, 0.3, 0.6, 1.0)] = 0
            conv.weight[torch.rand(before) < self._of(0, 0.3)] = 0
        back = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.layers.append(nn.Sequential(conv, back, self._norm(after)))
        self.plan.append(("layer", len(self.layers) - 1, source))
        return after

    def _pair(self, widths):
        a = self.chance.randrange(len(widths))
        same = [i for i, w in enumerate(widths) if w == widths[a]]
        return a, self.chance.choice(same)

    def _source(self, widths):
        return self.chance.randrange(max(0, len(widths) - 2), len(widths))

    def _conv_step(self, widths, groups):
        source = self._source(widths)
        width = widths[source]
        groups = groups(width)
        after = self._of(1, 2) * width if groups == width else self._of(4, 8) * groups // 2
        return self._conv(width, source, groups, after)

    def _grouped(self, widths):
        return self._conv_step(widths, lambda width: 2)

    def _depthwise(self, widths):
        return self._conv_step(widths, lambda width: width)

    def _add(self, widths):
        a, b = self._pair(widths)
        self.plan.append(("add", a, b))
        return widths[a]

    def _gate(self, widths):
        a, b = self._pair(widths)
        self.plan.append(("gate", a, b))
        return widths[a]

    def _cat(self, widths):
        a, b = self._source(widths), self.chance.randrange(len(widths))
        self.plan.append(("cat", a, b))
        return widths[a] + widths[b]

    def _pool(self, widths):
        a = self._source(widths)
        self.plan.append((self._of("max", "avg", "mean1"), a, None))
        return widths[a]

    def _act(self, widths):
        a = self._source(widths)
        self.plan.append((self._of("relu", "silu", "tanh", "relu_"), a, None))
        return widths[a]

    def _again(self, widths):
        """A layer that is called a second time."""
        index = self.chance.randrange(len(self.layers))
        conv = self.layers[index][0]
        fits = [i for i, w in enumerate(widths) if w == conv.in_channels]
        if not fits:
            return self._act(widths)
        self.plan.append(("layer", index, self.chance.choice(fits)))
        return conv.out_channels

    def _pick(self, widths):
        a = self._source(widths)
        self.plan.append(("pick", a, None))
        return widths[a]

    def _part(self, widths):
        a = self._source(widths)
        if widths[a] % 4:
            return self._act(widths)
        self.plan.append((self._of("first", "second", "chunk"), a, widths[a] // 2))
        return widths[a] // 2

    def _mix(self, widths):
        a = self._source(widths)
        self.plan.append(("shuffle", a, None))
        return widths[a]

    def _more(self, widths):
        a, b = self._pair(widths)
        self.plan.append((self._of("maximum", "nearest", "bilinear"), a, b))
        return widths[a]

    def wastes(self):
        """Whether some step's result is not used."""
        used = {len(self.plan) - 1}
        for kind, a, b in self.plan:
            used |= {b} if kind == "layer" else {a}
            used |= {b} if kind in ("add", "gate", "cat", "maximum") else set()
        return len(used) < len(self.plan)

    def forward(self, x):
        seen = []
        for kind, a, b in self.plan:
            if kind == "layer":
                seen.append(self.layers[a](x if b == 0 and not seen else seen[b]))
                continue
            y = seen[a]
            if kind == "add":
                y = y + seen[b]
            elif kind == "gate":
                y = y * torch.sigmoid(F.adaptive_avg_pool2d(seen[b], 1))
            elif kind == "cat":
                y = torch.cat([y, seen[b]], dim=1)
            elif kind == "max":
                y = F.max_pool2d(y, 3, 1, 1)
            elif kind == "avg":
                y = F.avg_pool2d(y, 3, 1, 1)
            elif kind == "mean1":
                y = y - y.mean((2, 3), keepdim=True)
            elif kind in ("first", "second"):
                y = y[:, :b] if kind == "first" else y[:, b:]
            elif kind == "chunk":
                y = y.chunk(2, 1)[1]
            elif kind == "shuffle":
                y = F.channel_shuffle(y, 2)
            elif kind == "maximum":
                y = torch.maximum(y, seen[b])
            elif kind in ("nearest", "bilinear"):
                y = F.max_pool2d(F.interpolate(y, scale_factor=2, mode=kind), 2)
            elif kind == "relu_":
                y = F.relu(y, inplace=True)
            elif kind == "pick":
                y = y.flip(1)
            else:
                y = getattr(torch, kind)(y) if kind != "silu" else F.silu(y)
            seen.append(y)
        y = seen[-1]
        y = F.adaptive_avg_pool2d(y, 4 if self.wide else 1)
        return self.fc(torch.flatten(y, 1))


class Block(nn.Module):
    """A stem, a residual block of periodic layers, and a head."""

    def __init__(self, width=64, pattern=PSD2_P8):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), norm(width)
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), norm(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), norm(width)
        self.fc = nn.Linear(width, 10)
        mask = pattern.mask((width, width, 3, 3))
        masks_.apply_(self, {"conv1.weight": mask, "conv2.weight": mask})

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return self.fc((x + y).mean((2, 3)))
