"""A VGG for small images and small machines: 3×3 convolutions, BatchNorm, ReLU, one pooling."""

from collections import OrderedDict

from torch import nn


def small_vgg(num_classes: int = 10, in_channels: int = 1, width: int = 64) -> nn.Module:
    """Five convolutions, `width` channels wide before the pooling and twice as wide after it.

    The first convolution has stride 2, so that of (N, in_channels, 28, 28) the others see 14×14 and
    7×7; they hold nearly all of the multiplications. Any image of at least 3×3 will do.

    Raises:
        ValueError: in_channels, width or num_classes is not at least 1.
    """
    for name, value in (
        ("num_classes", num_classes),
        ("in_channels", in_channels),
        ("width", width),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    # (in, out, stride) of each convolution; the pooling comes before the fourth.
    plan = (
        (in_channels, width, 2),
        (width, width, 1),
        (width, width, 1),
        (width, 2 * width, 1),
        (2 * width, 2 * width, 1),
    )
    for number, (before, after, stride) in enumerate(plan, start=1):
        if number == 4:
            layers["pool"] = nn.MaxPool2d(2)
        # BatchNorm follows and takes the mean away: a bias would have no effect.
        layers[f"conv{number}"] = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        layers[f"bn{number}"] = nn.BatchNorm2d(after)
        layers[f"relu{number}"] = nn.ReLU()
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(2 * width, num_classes)
    return nn.Sequential(layers)
