"""ShuffleNet: grouped 1×1 convolutions, and channels shuffled so that the groups hear each other.

Source: Zhang et al., CVPR 2018, arXiv:1707.01083 (the first version).
"""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from sparse_ops.models._init import at_least_one, kaiming_

STEM = 24
# groups -> channels of the second stage; each stage behind it has twice as many.
CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
# Blocks of each stage, the first with stride 2.
BLOCKS = (4, 8, 4)


class ShuffleBlock(nn.Module):
    """Grouped 1×1, shuffle, depthwise 3×3, grouped 1×1; a quarter as wide inside.

    With stride 1 its input is added; with stride 2 the input's average over 3×3 is put beside it.
    """

    def __init__(self, before: int, after: int, stride: int, groups: int) -> None:
        super().__init__()
        inner, made = after // 4, after - before if stride == 2 else after
        # The stem is so thin that groups of it would see almost nothing.
        first = 1 if before == STEM else groups
        self.conv1 = nn.Conv2d(before, inner, 1, groups=first, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.shuffle = nn.ChannelShuffle(groups) if first > 1 else nn.Identity()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, made, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(made)
        self.relu2 = nn.ReLU()
        self.pool = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.shuffle(self.relu1(self.bn1(self.conv1(x))))
        y = self.bn3(self.conv3(self.bn2(self.conv2(y))))
        if self.pool is None:
            return self.relu2(x + y)
        return self.relu2(torch.cat([self.pool(x), y], 1))


def shufflenet_v1(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    groups: int = 3,
    width: float = 1.0,
    variant: Literal["cifar", "imagenet"] = "cifar",
) -> nn.Module:
    """ShuffleNet, the first version.

    Args:
        num_classes: logits that come out.
        in_channels: of the images.
        groups: of the 1×1 convolutions: 1, 2, 3, 4 or 8.
        width: factor on the channels of the three stages, each rounded to what 4 · groups divides;
            multiply-accumulates grow as its square. The 24 of the stem stay.
        variant: "imagenet": a stem of stride 2 and a pooling, for images of 224×224; "cifar":
            neither, for 28×28 or 32×32.

    Raises:
        ValueError: there is no such variant or number of groups, a size is below 1, or the network
            would be so thin that a stage has no more channels than what comes into it.
    """
    at_least_one(num_classes=num_classes, in_channels=in_channels)
    if groups not in CHANNELS:
        raise ValueError(f"groups must be one of {', '.join(map(str, CHANNELS))}, got {groups}")
    if variant not in ("cifar", "imagenet"):
        raise ValueError(f"variant must be cifar or imagenet, got {variant!r}")
    unit = 4 * groups
    stages = [unit * round(CHANNELS[groups] * 2**n * width / unit) for n in range(len(BLOCKS))]
    if stages[0] <= STEM or stages != sorted(set(stages)):
        raise ValueError(f"width must leave every stage more than the one before, got {width}")
    small = variant == "cifar"
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    stem = nn.Conv2d(in_channels, STEM, 3, 1 if small else 2, padding=1, bias=False)
    layers |= {"conv1": stem, "bn1": nn.BatchNorm2d(STEM), "relu": nn.ReLU()}
    if not small:
        layers["maxpool"] = nn.MaxPool2d(3, 2, padding=1)
    before = STEM
    for number, (after, count) in enumerate(zip(stages, BLOCKS, strict=True), start=2):
        first = ShuffleBlock(before, after, 2, groups)
        others = (ShuffleBlock(after, after, 1, groups) for _ in range(count - 1))
        layers[f"stage{number}"] = nn.Sequential(first, *others)
        before = after
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(before, num_classes)
    model = nn.Sequential(layers)
    kaiming_(model)
    return model
