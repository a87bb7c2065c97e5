"""The shapes of real layers, by network: what the operators' benchmarks run on."""

from typing import NamedTuple


class Conv(NamedTuple):
    """A convolution (channels -> filters, kernel, stride) on maps of size × size, and how often."""

    network: str
    channels: int
    filters: int
    size: int
    kernel: int = 3
    stride: int = 1
    times: int = 1

    @property
    def out(self) -> int:
        return (self.size - 1) // self.stride + 1

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates of one image."""
        return self.channels * self.filters * self.kernel**2 * self.out**2

    @property
    def label(self) -> str:
        stride = f" /{self.stride}" if self.stride > 1 else ""
        return f"{self.channels}→{self.filters} {self.kernel}×{self.kernel} @{self.size}{stride}"


class Linear(NamedTuple):
    """A linear layer (in_features -> out_features)."""

    network: str
    in_features: int
    out_features: int

    @property
    def label(self) -> str:
        return f"{self.in_features}→{self.out_features}"


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

# The 1×1 convolutions, which are nearly all of its work; (channels, filters, size, times).
MOBILENET_V2_CIFAR = [
    Conv("mobilenet_v2-cifar", channels, filters, size, kernel=1, times=times)
    for channels, filters, size, times in (
        (32, 32, 32, 1),
        (32, 16, 32, 2),
        (16, 96, 32, 1),
        (96, 24, 32, 1),
        (16, 24, 32, 1),
        (24, 144, 32, 2),
        (144, 24, 32, 1),
        (144, 32, 16, 1),
        (32, 192, 16, 3),
        (192, 32, 16, 2),
        (192, 64, 8, 1),
        (64, 384, 8, 4),
        (384, 64, 8, 3),
        (384, 96, 8, 1),
        (64, 96, 8, 1),
        (96, 576, 8, 3),
        (576, 96, 8, 2),
        (576, 160, 4, 1),
        (160, 960, 4, 3),
        (960, 160, 4, 2),
        (960, 320, 4, 1),
        (160, 320, 4, 1),
        (320, 1280, 4, 1),
    )
]

LINEARS = [
    Linear("lenet300", 784, 300),
    Linear("lenet300", 300, 100),
    Linear("vgg16 classifier", 4096, 4096),
]
