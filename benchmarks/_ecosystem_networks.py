"""Networks of other kinds than classifiers, for `benchmarks.ecosystem`, as people write them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNormAct(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, channels: int, adds: bool) -> None:
        super().__init__()
        self.cv1 = ConvNormAct(channels, channels, 3)
        self.cv2 = ConvNormAct(channels, channels, 3)
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.adds else self.cv2(self.cv1(x))


class C2f(nn.Module):
    """A CSP block: a half goes on as it is, the other through bottlenecks, all are concatenated."""

    def __init__(self, inputs: int, outputs: int, depth: int, adds: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1 = ConvNormAct(inputs, 2 * half)
        self.cv2 = ConvNormAct((2 + depth) * half, outputs)
        self.m = nn.ModuleList(Bottleneck(half, adds) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, channels: int, kernel: int = 5) -> None:
        super().__init__()
        self.cv1 = ConvNormAct(channels, channels // 2)
        self.cv2 = ConvNormAct(channels * 2, channels)
        self.m = nn.MaxPool2d(kernel, 1, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Detect(nn.Module):
    """Boxes and classes of three maps, as one tensor (N, outputs, places)."""

    def __init__(self, channels: tuple[int, ...], boxes: int = 64, classes: int = 80) -> None:
        super().__init__()
        self.no = boxes + classes
        wide, narrow = channels[0], max(16, channels[0] // 4)
        self.cv2 = nn.ModuleList(self._head(each, narrow, boxes) for each in channels)
        self.cv3 = nn.ModuleList(self._head(each, wide, classes) for each in channels)

    @staticmethod
    def _head(inputs: int, width: int, outputs: int) -> nn.Sequential:
        two = ConvNormAct(inputs, width, 3), ConvNormAct(width, width, 3)
        return nn.Sequential(*two, nn.Conv2d(width, outputs, 1))

    def forward(self, xs: list[Tensor]) -> Tensor:
        maps = [torch.cat((a(x), b(x)), 1) for a, b, x in zip(self.cv2, self.cv3, xs, strict=True)]
        return torch.cat([each.flatten(2) for each in maps], 2)


class Yolo(nn.Module):
    """A YOLO-like detector: a CSP backbone, SPPF, a path up and one down, three heads."""

    def __init__(self, width: int = 16, classes: int = 80) -> None:
        super().__init__()
        w = [width * 2**i for i in range(5)]
        self.stem = ConvNormAct(3, w[0], 3, 2)
        self.down2, self.c2 = ConvNormAct(w[0], w[1], 3, 2), C2f(w[1], w[1], 1, True)
        self.down3, self.c3 = ConvNormAct(w[1], w[2], 3, 2), C2f(w[2], w[2], 2, True)
        self.down4, self.c4 = ConvNormAct(w[2], w[3], 3, 2), C2f(w[3], w[3], 2, True)
        self.down5, self.c5 = ConvNormAct(w[3], w[4], 3, 2), C2f(w[4], w[4], 1, True)
        self.sppf, self.up = SPPF(w[4]), nn.Upsample(scale_factor=2, mode="nearest")
        self.up4 = C2f(w[4] + w[3], w[3], 1, False)
        self.up3 = C2f(w[3] + w[2], w[2], 1, False)
        self.out4, self.n4 = ConvNormAct(w[2], w[2], 3, 2), C2f(w[2] + w[3], w[3], 1, False)
        self.out5, self.n5 = ConvNormAct(w[3], w[3], 3, 2), C2f(w[3] + w[4], w[4], 1, False)
        self.detect = Detect((w[2], w[3], w[4]), classes=classes)

    def forward(self, x: Tensor) -> Tensor:
        p3 = self.c3(self.down3(self.c2(self.down2(self.stem(x)))))
        p4 = self.c4(self.down4(p3))
        p5 = self.sppf(self.c5(self.down5(p4)))
        u4 = self.up4(torch.cat([self.up(p5), p4], 1))
        u3 = self.up3(torch.cat([self.up(u4), p3], 1))
        n4 = self.n4(torch.cat([self.out4(u3), u4], 1))
        n5 = self.n5(torch.cat([self.out5(n4), p5], 1))
        return self.detect([u3, n4, n5])


class UNet(nn.Module):
    """Down by pooling, up by transposed convolutions, skips concatenated."""

    def __init__(self, width: int = 32, depth: int = 3, classes: int = 2) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        self.down = nn.ModuleList(
            self._block(a, b) for a, b in zip([3, *widths], widths, strict=False)
        )
        ups = list(zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in ups)
        self.merge = nn.ModuleList(self._block(2 * b, b) for _, b in ups)
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


class ESPCN(nn.Module):
    """Super-resolution by sub-pixel convolution: Shi et al., CVPR 2016, arXiv:1609.05158."""

    def __init__(self, scale: int = 3) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 64, 5, padding=2), nn.Conv2d(64, 64, 3, padding=1)
        self.conv3, self.conv4 = (
            nn.Conv2d(64, 32, 3, padding=1),
            nn.Conv2d(32, scale**2, 3, padding=1),
        )
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv3(torch.tanh(self.conv2(torch.tanh(self.conv1(x))))))
        return self.shuffle(self.conv4(x))


class EDSR(nn.Module):
    """Super-resolution by residual blocks without norms: Lim et al., CVPRW 2017, 1707.02921."""

    def __init__(self, width: int = 64, depth: int = 8, scale: int = 2) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, padding=1)

        self.head = conv(3, width)
        self.body = nn.ModuleList(
            nn.Sequential(conv(width, width), nn.ReLU(True), conv(width, width))
            for _ in range(depth)
        )
        self.end = conv(width, width)
        self.tail = nn.Sequential(
            conv(width, width * scale**2), nn.PixelShuffle(scale), conv(width, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.head(x)
        for block in self.body:
            x = x + 0.1 * block(x)
        return self.tail(self.end(x) + first)


class Audio(nn.Module):
    """A classifier of waveforms by one-dimensional convolutions, as M5 is."""

    def __init__(self, width: int = 64, classes: int = 35) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for outputs, kernel, stride in (
            (width, 80, 16),
            (width, 3, 1),
            (2 * width, 3, 1),
            (4 * width, 3, 1),
        ):
            layers += [nn.Conv1d(before, outputs, kernel, stride), nn.BatchNorm1d(outputs)]
            layers += [nn.ReLU(inplace=True), nn.MaxPool1d(4)]
            before = outputs
        self.features, self.fc = nn.Sequential(*layers), nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.features(x).mean(-1))
