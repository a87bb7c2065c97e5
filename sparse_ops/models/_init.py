"""First weights, as the papers draw them."""

from collections.abc import Callable
from math import sqrt

from torch import nn

Initialise = Callable[[nn.Module], None]


def scaled(channels: int, width: float) -> int:
    """Channels of a narrower or wider network: a multiple of 8, and no tenth less than asked for.

    Raises:
        ValueError: width is not above 0.
    """
    if not width > 0:
        raise ValueError(f"width must be above 0, got {width}")
    if width == 1:
        return channels
    near = max(8, int(channels * width + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels * width else near


def kaiming_(model: nn.Module) -> None:
    """Convolutions from N(0, 2 / (filters · taps)), linear layers from N(0, 0.01²), biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        _no_bias(module)


def he_inputs_(model: nn.Module) -> None:
    """As `kaiming_`, but convolutions from N(0, 2 / (input channels · taps))."""
    kaiming_(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=sqrt(2 / module.weight[0].numel()))


def half_xavier_(model: nn.Module) -> None:
    """Convolutions Xavier-uniform with gain 1/2, BatchNorm's factors 1/2, linear from N(0, 0.01²).

    Biases are zero.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight, gain=0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.5)
        _no_bias(module)


def xavier_(model: nn.Module) -> None:
    """Convolutions and linear layers Xavier-uniform; biases zero."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
        _no_bias(module)


def _no_bias(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
        nn.init.zeros_(module.bias)


def at_least_one(**sizes: int) -> None:
    """Raises ValueError, with the name, for a size below 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
