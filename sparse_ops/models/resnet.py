"""Residual networks of basic blocks: ResNet18, and the thin ones for images of 32×32.

Source: He et al., CVPR 2016, arXiv:1512.03385; a shortcut between unlike sizes is a 1×1 convolution
with BatchNorm in all of them.
"""

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from sparse_ops.models._init import Initialise, at_least_one, kaiming_, xavier_


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; parameters are named as in torchvision."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.relu2 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.downsample(x))


def _resnet18_body(stem: list[tuple[str, nn.Module]], num_classes: int) -> nn.Sequential:
    layers = OrderedDict(stem)
    before = 64
    for number, after in enumerate((64, 128, 256, 512), start=1):
        first = BasicBlock(before, after, 1 if number == 1 else 2)
        layers[f"layer{number}"] = nn.Sequential(first, BasicBlock(after, after, 1))
        before = after
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(512, num_classes)
    return nn.Sequential(layers)


def resnet18(
    num_classes: int = 10, in_channels: int = 3, *, stem: Literal["cifar", "imagenet"] = "cifar"
) -> nn.Module:
    """ResNet18; parameters have the names of torchvision's.

    Args:
        num_classes: logits that come out.
        in_channels: of the images.
        stem: "cifar": 3×3 with stride 1, for images of 32×32 or 64×64; "imagenet": 7×7 with stride
            2 and a max-pooling, for images of 224×224.

    Raises:
        ValueError: there is no such stem, or a size is below 1.
    """
    at_least_one(num_classes=num_classes, in_channels=in_channels)
    if stem == "cifar":
        first = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    elif stem == "imagenet":
        first = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    else:
        raise ValueError(f"stem must be cifar or imagenet, got {stem!r}")
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", first),
        ("bn1", nn.BatchNorm2d(64)),
        ("relu", nn.ReLU()),
    ]
    if stem == "imagenet":
        layers.append(("maxpool", nn.MaxPool2d(3, stride=2, padding=1)))
    model = _resnet18_body(layers, num_classes)
    kaiming_(model)
    return model


class ConvNorm(nn.Sequential):
    """A convolution without bias, `conv`, and its BatchNorm, `bn`."""

    def __init__(self, before: int, after: int, kernel: int, stride: int) -> None:
        conv = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
        super().__init__(OrderedDict(conv=conv, bn=nn.BatchNorm2d(after)))


class ThinBlock(nn.Module):
    """As `BasicBlock`; parameters are named as in the files of the GSM authors."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(before, after, 3, stride)
        self.relu1 = nn.ReLU()
        self.conv2 = ConvNorm(after, after, 3, 1)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = ConvNorm(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu1(self.conv1(x)))
        return self.relu2(y + self.shortcut(x))


def _thin(
    num_classes: int, in_channels: int, width: int, blocks: int, initialise: Initialise
) -> nn.Module:
    """Three stages of `blocks`, `width`, 2 · `width` and 4 · `width` wide."""
    at_least_one(num_classes=num_classes, in_channels=in_channels)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = ConvNorm(in_channels, width, 3, 1)
    layers["relu"] = nn.ReLU()
    before = width
    for number, after in enumerate((width, 2 * width, 4 * width), start=1):
        first = ThinBlock(before, after, 1 if number == 1 else 2)
        others = (ThinBlock(after, after, 1) for _ in range(blocks - 1))
        layers[f"stage{number}"] = nn.Sequential(first, *others)
        before = after
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(4 * width, num_classes)
    model = nn.Sequential(layers)
    initialise(model)
    return model


def resnet32(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet32 of double width: 32, 64 and 128 channels; for images of 32×32 or 64×64.

    Source: the network of the HyperSparse experiments, whose first weights these are.
    """
    return _thin(num_classes, in_channels, 32, 5, kaiming_)


def resnet56(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """ResNet56: 16, 32 and 64 channels; for images of 32×32.

    Source: the network of the GSM experiments, whose first weights these are.
    """
    return _thin(num_classes, in_channels, 16, 9, xavier_)
