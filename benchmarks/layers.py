"""The shapes of real layers, by network: what the operators' benchmarks run on."""

import math
from typing import NamedTuple


class Conv(NamedTuple):
    """A convolution (channels -> filters, kernel, stride) on maps of size × size, and how often.

    Attributes:
        given: its padding; None: what leaves maps of stride 1 as large as they are.
    """

    network: str
    channels: int
    filters: int
    size: int
    kernel: int = 3
    stride: int = 1
    times: int = 1
    groups: int = 1
    given: int | None = None

    @property
    def padding(self) -> int:
        return self.kernel // 2 if self.given is None else self.given

    @property
    def out(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of its weight."""
        return self.filters, self.channels // self.groups, self.kernel, self.kernel

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates of one image."""
        return math.prod(self.shape) * self.out**2

    @property
    def label(self) -> str:
        stride = f" /{self.stride}" if self.stride > 1 else ""
        return f"{self.channels}→{self.filters} {self.kernel}×{self.kernel} @{self.size}{stride}"


class Linear(NamedTuple):
    """A linear layer (in_features -> out_features)."""

    network: str
    in_features: int
    out_features: int
    times: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Of its weight."""
        return self.out_features, self.in_features

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates of one image."""
        return math.prod(self.shape)

    @property
    def label(self) -> str:
        return f"{self.in_features}→{self.out_features}"


def _pointwise(network: str, rows: tuple[tuple[int, ...], ...]) -> list[Conv]:
    """1×1 convolutions: (channels, filters, size, times), and groups where there are some."""
    return [
        Conv(network, channels, filters, size, 1, times=times, groups=next(iter(groups), 1))
        for channels, filters, size, times, *groups in rows
    ]


RESNET18_CIFAR = [
    Conv("resnet18-cifar", 64, 64, 32, times=4),
    Conv("resnet18-cifar", 64, 128, 32, stride=2),
    Conv("resnet18-cifar", 128, 128, 16, times=3),
    Conv("resnet18-cifar", 128, 256, 16, stride=2),
    Conv("resnet18-cifar", 256, 256, 8, times=3),
    Conv("resnet18-cifar", 256, 512, 8, stride=2),
    Conv("resnet18-cifar", 512, 512, 4, times=3),
]

RESNET18_IMAGENET = [
    Conv("resnet18", 64, 64, 56, times=4),
    Conv("resnet18", 64, 128, 56, stride=2),
    Conv("resnet18", 128, 128, 28, times=3),
    Conv("resnet18", 128, 256, 28, stride=2),
    Conv("resnet18", 256, 256, 14, times=3),
    Conv("resnet18", 256, 512, 14, stride=2),
    Conv("resnet18", 512, 512, 7, times=3),
]

VGG16_CIFAR = [
    Conv("vgg16-cifar", 64, 64, 32),
    Conv("vgg16-cifar", 64, 128, 16),
    Conv("vgg16-cifar", 128, 128, 16),
    Conv("vgg16-cifar", 128, 256, 8),
    Conv("vgg16-cifar", 256, 256, 8, times=2),
    Conv("vgg16-cifar", 256, 512, 4),
    Conv("vgg16-cifar", 512, 512, 4, times=2),
    Conv("vgg16-cifar", 512, 512, 2, times=3),
]

VGG19_CIFAR = [
    Conv("vgg19-cifar", 64, 64, 32),
    Conv("vgg19-cifar", 64, 128, 16),
    Conv("vgg19-cifar", 128, 128, 16),
    Conv("vgg19-cifar", 128, 256, 8),
    Conv("vgg19-cifar", 256, 256, 8, times=3),
    Conv("vgg19-cifar", 256, 512, 4),
    Conv("vgg19-cifar", 512, 512, 4, times=3),
    Conv("vgg19-cifar", 512, 512, 2, times=4),
]

# SABR's network for gestures, 128×128.
VGG11_GESTURES = [
    Conv("vgg11-gestures", 64, 128, 64),
    Conv("vgg11-gestures", 128, 256, 32),
    Conv("vgg11-gestures", 256, 256, 32),
    Conv("vgg11-gestures", 256, 512, 16),
    Conv("vgg11-gestures", 512, 512, 16),
    Conv("vgg11-gestures", 512, 512, 8, times=2),
]

RESNET32_CIFAR = [
    Conv("resnet32-cifar", 32, 32, 32, times=10),
    Conv("resnet32-cifar", 32, 64, 32, stride=2),
    Conv("resnet32-cifar", 64, 64, 16, times=9),
    Conv("resnet32-cifar", 64, 128, 16, stride=2),
    Conv("resnet32-cifar", 128, 128, 8, times=9),
]

RESNET56_CIFAR = [
    Conv("resnet56-cifar", 16, 16, 32, times=18),
    Conv("resnet56-cifar", 16, 32, 32, stride=2),
    Conv("resnet56-cifar", 32, 32, 16, times=17),
    Conv("resnet56-cifar", 32, 64, 16, stride=2),
    Conv("resnet56-cifar", 64, 64, 8, times=17),
]

# MobileNetV2's 1×1 convolutions, nearly all of its work: (channels, filters, size, times).
# From the third stage on they are alike for images of 32×32 and, with strides before, of 128×128.
MOBILENET_V2_LATE = (
    (144, 32, 16, 1),
    (32, 192, 16, 3),
    (192, 32, 16, 2),
    (192, 64, 8, 1),
    (64, 384, 8, 4),
    (384, 64, 8, 3),
    (384, 96, 8, 1),
    (96, 576, 8, 3),
    (576, 96, 8, 2),
    (576, 160, 4, 1),
    (160, 960, 4, 3),
    (960, 160, 4, 2),
    (960, 320, 4, 1),
    (320, 1280, 4, 1),
)
MOBILENET_V2_CIFAR = _pointwise(
    "mobilenet_v2-cifar",
    (
        (32, 32, 32, 1),
        (32, 16, 32, 2),
        (16, 96, 32, 1),
        (96, 24, 32, 1),
        (16, 24, 32, 1),
        (24, 144, 32, 2),
        (144, 24, 32, 1),
        *MOBILENET_V2_LATE,
        # Shortcuts.
        (64, 96, 8, 1),
        (160, 320, 4, 1),
    ),
)

# SABR's other network for gestures, 128×128; here too the 1×1 convolutions.
MOBILENET_V2_GESTURES = _pointwise(
    "mobilenet_v2-gestures",
    (
        (32, 16, 64, 1),
        (16, 96, 64, 1),
        (96, 24, 32, 1),
        (24, 144, 32, 2),
        (144, 24, 32, 1),
        *MOBILENET_V2_LATE,
    ),
)

# Of three groups, 32×32; 1×1 again, all but the first grouped.
SHUFFLENET_CIFAR = _pointwise(
    "shufflenet-cifar",
    (
        (24, 60, 32, 1, 1),
        (60, 216, 16, 1, 3),
        (240, 60, 16, 3, 3),
        (60, 240, 16, 3, 3),
        (240, 120, 16, 1, 3),
        (120, 240, 8, 1, 3),
        (480, 120, 8, 7, 3),
        (120, 480, 8, 7, 3),
        (480, 240, 8, 1, 3),
        (240, 480, 4, 1, 3),
        (960, 240, 4, 3, 3),
        (240, 960, 4, 3, 3),
    ),
)

# All that is sparse in them; their last layers are too small to gain.
LENET5 = [
    Conv("lenet5", 20, 50, 12, kernel=5, given=0),
    Linear("lenet5", 800, 500),
    Linear("lenet5", 500, 10),
]
LENET300 = [
    Linear("lenet300", 784, 300),
    Linear("lenet300", 300, 100),
    Linear("lenet300", 100, 10),
]

LINEARS = [
    Linear("lenet300", 784, 300),
    Linear("lenet300", 300, 100),
    Linear("vgg16 classifier", 4096, 4096),
]
