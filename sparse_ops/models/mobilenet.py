"""MobileNetV2: wide, thin, wide; most of the work is in 1×1 convolutions.

Source: Sandler et al., CVPR 2018, arXiv:1801.04381.
"""

from typing import Literal

from torch import Tensor, nn

from sparse_ops.models._init import at_least_one, kaiming_, scaled

# (expansion, output channels, blocks, stride of the first) of each stage, for ImageNet.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# Where images are small, the second stage keeps their size.
CIFAR_STAGES = (STAGES[0], (6, 24, 2, 1), *STAGES[2:])
HEAD = 1280


def _conv_norm(
    before: int, after: int, kernel: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(after)


class CifarBlock(nn.Module):
    """Expand, depthwise, project; every block of stride 1 has a shortcut, of 1×1 if need be."""

    def __init__(self, before: int, after: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = before * expansion
        self.body = nn.Sequential(
            *_conv_norm(before, wide, 1),
            nn.ReLU(),
            *_conv_norm(wide, wide, 3, stride, groups=wide),
            nn.ReLU(),
            *_conv_norm(wide, after, 1),
        )
        self.shortcut: nn.Module | None = None
        if stride == 1:
            same = before == after
            self.shortcut = nn.Identity() if same else nn.Sequential(*_conv_norm(before, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y if self.shortcut is None else y + self.shortcut(x)


class Block(nn.Module):
    """The usual block: no expansion by 1, shortcuts only between equals; torchvision's names."""

    def __init__(self, before: int, after: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = before * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(nn.Sequential(*_conv_norm(before, wide, 1), nn.ReLU6()))
        layers.append(nn.Sequential(*_conv_norm(wide, wide, 3, stride, groups=wide), nn.ReLU6()))
        self.conv = nn.Sequential(*layers, *_conv_norm(wide, after, 1))
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """`features`, an average over the image or its parts, `classifier`."""

    def __init__(
        self,
        stages: tuple[tuple[int, int, int, int], ...],
        in_channels: int,
        stem_stride: int,
        block: type[CifarBlock] | type[Block],
        activation: type[nn.Module],
        head: int,
        width: float,
    ) -> None:
        super().__init__()
        before = scaled(32, width)
        layers: list[nn.Module] = [
            nn.Sequential(*_conv_norm(in_channels, before, 3, stem_stride), activation())
        ]
        for expansion, channels, count, stride in stages:
            after = scaled(channels, width)
            for index in range(count):
                layers.append(block(before, after, expansion, stride if index == 0 else 1))
                before = after
        # The last layer of a narrower network stays as wide.
        self.out_channels = scaled(HEAD, max(1.0, width))
        layers.append(nn.Sequential(*_conv_norm(before, self.out_channels, 1), activation()))
        self.features = nn.Sequential(*layers)
        self.average = nn.AdaptiveAvgPool2d(head)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.flatten(self.average(self.features(x))))
        return y


def mobilenet_v2(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    variant: Literal["cifar", "imagenet"] = "cifar",
    head: int = 1,
    dropout: float | None = None,
    softmax: bool = False,
    width: float = 1.0,
) -> nn.Module:
    """MobileNetV2.

    Args:
        num_classes: logits that come out.
        in_channels: of the images.
        variant: "cifar": strides for 32×32, ReLU, and shortcuts of 1×1, as Kundu et al. compare
            with; "imagenet": as in torchvision, with its names, for 128×128 or more.
        head: what is left of an image's sides before the linear layer; 2 as in the published code
            of Kundu et al. for Tiny ImageNet.
        dropout: before the linear layer; default: none for "cifar", 0.5 for "imagenet", as in the
            SABR experiments.
        softmax: whether probabilities come out, as in the authors' network of those experiments,
            whose loss then takes the softmax again; for comparisons with theirs only.
        width: factor on all channels; on the last layer's, if it is above 1.

    Raises:
        ValueError: there is no such variant, or a size is out of its range.
    """
    at_least_one(num_classes=num_classes, in_channels=in_channels, head=head)
    if variant == "cifar":
        model = MobileNetV2(CIFAR_STAGES, in_channels, 1, CifarBlock, nn.ReLU, head, width)
    elif variant == "imagenet":
        model = MobileNetV2(STAGES, in_channels, 2, Block, nn.ReLU6, head, width)
    else:
        raise ValueError(f"variant must be cifar or imagenet, got {variant!r}")
    if dropout is None:
        dropout = 0.5 if variant == "imagenet" else 0.0
    model.classifier = nn.Sequential(
        nn.Dropout(dropout), nn.Linear(model.out_channels * head * head, num_classes)
    )
    if softmax:
        model.classifier.append(nn.Softmax(dim=1))
    kaiming_(model)
    return model
