"""VGGs: 3×3 convolutions one after the other, ReLU, poolings; four of them.

Source: Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556, in the forms that pruning papers use.
"""

from collections import OrderedDict

from torch import Tensor, nn

from sparse_ops.models._init import at_least_one, half_xavier_, he_inputs_, kaiming_, scaled

# Output channels of each convolution; 0 is a max-pooling of 2×2.
PLANS: dict[int, tuple[int, ...]] = {
    11: (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0),
    16: (64, 64, 0, 128, 128, 0, *(256,) * 3, 0, *(512,) * 3, 0, *(512,) * 3, 0),
    19: (64, 64, 0, 128, 128, 0, *(256,) * 4, 0, *(512,) * 4, 0, *(512,) * 4),
}


class VGG(nn.Module):
    """`features`, a pooling to one size whatever the image's, `classifier`."""

    def __init__(
        self, plan: tuple[int, ...], in_channels: int, batch_norm: bool, side: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = in_channels
        for after in plan:
            if after == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers.append(nn.Conv2d(before, after, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.ReLU())
            before = after
        self.features = nn.Sequential(*layers)
        self.average = nn.AdaptiveAvgPool2d(side)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.flatten(self.average(self.features(x))))
        return y


def vgg11(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    hidden: int = 512,
    softmax: bool = False,
    width: float = 1.0,
) -> nn.Module:
    """VGG11 without BatchNorm, with one hidden linear layer; takes images of 32×32 or more.

    Parameters have the names of torchvision's, whose `features` fit.

    Args:
        num_classes: logits that come out.
        in_channels: of the images.
        hidden: width of the hidden linear layer.
        softmax: whether probabilities come out, as in the authors' network, whose loss then takes
            the softmax again; for comparisons with theirs only.
        width: factor on all channels and the hidden layer.

    Source: the network of the SABR experiments on 14 hand gestures at 128×128: `vgg11(14)`.
    """
    at_least_one(num_classes=num_classes, in_channels=in_channels, hidden=hidden)
    plan = tuple(scaled(channels, width) if channels else 0 for channels in PLANS[11])
    hidden = scaled(hidden, width)
    model = VGG(plan, in_channels, batch_norm=False, side=7)
    model.classifier = nn.Sequential(
        nn.Linear(plan[-2] * 49, hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, num_classes)
    )
    if softmax:
        model.classifier.append(nn.Softmax(dim=1))
    kaiming_(model)
    return model


def vgg16(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """VGG16 with BatchNorm and one linear layer; takes images of 32×32 or more.

    Source: the network of Kundu et al., arXiv:2001.10710, whose first weights these are. Theirs is
    for 32×32; the average over what the fifth pooling leaves of larger images is ours.
    """
    at_least_one(num_classes=num_classes, in_channels=in_channels)
    model = VGG(PLANS[16], in_channels, batch_norm=True, side=1)
    model.classifier = nn.Sequential(nn.Linear(512, num_classes))
    half_xavier_(model)
    return model


def vgg19(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """VGG19 with BatchNorm, four poolings and one linear layer; takes images of 16×16 or more.

    Source: the network of the HyperSparse experiments, whose first weights these are.
    """
    at_least_one(num_classes=num_classes, in_channels=in_channels)
    model = VGG(PLANS[19], in_channels, batch_norm=True, side=1)
    model.classifier = nn.Sequential(nn.Linear(512, num_classes))
    he_inputs_(model)
    return model


def small_vgg(num_classes: int = 10, in_channels: int = 1, width: int = 64) -> nn.Module:
    """Five convolutions, `width` channels wide before the pooling and twice as wide after it.

    The first convolution has stride 2, so that of (N, in_channels, 28, 28) the others see 14×14 and
    7×7; they hold nearly all of the multiplications. Any image of at least 3×3 will do.

    Raises:
        ValueError: in_channels, width or num_classes is not at least 1.
    """
    at_least_one(num_classes=num_classes, in_channels=in_channels, width=width)
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
