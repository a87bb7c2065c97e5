"""Shapes of convolutions, checked once for all operators."""

from collections.abc import Mapping, Sequence

from torch import Tensor

Pair = tuple[int, int]


def pair(name: str, value: int | Sequence[int], least: int) -> Pair:
    """(h, w) from a number or a pair.

    Raises:
        ValueError: not one number or two, or under `least`.
    """
    numbers = (value, value) if isinstance(value, int) else tuple(value)
    if len(numbers) != 2 or any(not isinstance(n, int) or n < least for n in numbers):
        raise ValueError(f"{name} must be a number or a pair of at least {least}, got {value!r}")
    return numbers


def conv2d_output_size(
    size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """(H', W') of a convolution over (H, W)."""
    return [
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, k, t, p, d in zip(size, kernel_size, stride, padding, dilation, strict=True)
    ]


def check_conv2d(
    x: Tensor,
    shape: tuple[int, ...],
    values: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> None:
    """Raises ValueError unless x (N, I, H, W), a weight of that shape and bias can be convolved."""
    O, per_group, kH, kW = shape
    if not isinstance(groups, int) or groups < 1 or O % groups:
        raise ValueError(f"groups must be a number that divides {O} output channels, got {groups}")
    if x.dim() != 4 or x.shape[1] != per_group * groups:
        raise ValueError(
            f"x must be (N, {per_group * groups}, H, W) or ({per_group * groups}, H, W), "
            f"got {tuple(x.shape)}"
        )
    check_dtypes(x, values, bias, O)
    size = conv2d_output_size(x.shape[2:], (kH, kW), stride, padding, dilation)
    if min(size) < 1:
        raise ValueError(
            f"x is too small: {tuple(x.shape[2:])} padded by {padding} does not hold "
            f"a kernel of {(kH, kW)} with dilation {dilation}"
        )


def check_dtypes(x: Tensor, values: Tensor, bias: Tensor | None, O: int) -> None:
    """Raises ValueError unless x, values and bias are floating point, alike and on one device."""
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point, got {x.dtype}")
    if x.dtype != values.dtype:
        raise ValueError(f"x and weight must have one dtype, got {x.dtype} and {values.dtype}")
    if x.device != values.device:
        raise ValueError(f"x is on {x.device}, but the weight is on {values.device}")
    if bias is None:
        return
    if bias.dim() != 1 or bias.shape[0] != O:
        raise ValueError(f"bias must be ({O}), got {tuple(bias.shape)}")
    if bias.dtype != x.dtype or bias.device != x.device:
        raise ValueError(f"bias must be {x.dtype} on {x.device}, got {bias.dtype} on {bias.device}")


def check_index_devices(x: Tensor, indices: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless a weight's index tensors, by name, are on x's device."""
    for name, index in indices.items():
        if index.device != x.device:
            raise ValueError(f"x is on {x.device}, but the weight's {name} are on {index.device}")


def check_like_output(name: str, given: Tensor | None, x: Tensor, shape: Sequence[int]) -> None:
    """Raises ValueError unless a tensor is of the output's shape, and of x's dtype and device."""
    if given is None:
        return
    if tuple(given.shape) != tuple(shape):
        raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(given.shape)}")
    if given.dtype != x.dtype or given.device != x.device:
        raise ValueError(
            f"{name} must be {x.dtype} on {x.device}, got {given.dtype} on {given.device}"
        )
