"""What the formats have in common, and what they check alike."""

from typing import Any

import torch
from torch import Tensor

INT32_MAX = 2**31 - 1


class Packed:
    """What all formats are to torch: no tensor.

    Modules of torch.nn with a fast path that reads the weights of their layers ask for this, and
    call the layers then; every other function of torch says that it takes none. What the code of
    models asks of any weight, it answers.
    """

    values: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", func)
        raise TypeError(f"{name} takes no {cls.__name__}: to_dense() gives a tensor")


def check_weight_and_mask(weight: Tensor, mask: Tensor, dimensions: tuple[int, ...]) -> None:
    """Raises ValueError unless weight and mask fit each other and the format."""
    if weight.dim() not in dimensions:
        wanted = " or ".join(str(d) for d in dimensions)
        raise ValueError(f"weight must have {wanted} dimensions, got {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise ValueError(f"weight must be floating point, got {weight.dtype}")
    if mask.dtype != torch.bool or mask.shape != weight.shape:
        raise ValueError(
            f"mask must be bool {tuple(weight.shape)}, got {mask.dtype} {tuple(mask.shape)}"
        )


def check_shape(shape: tuple[int, ...], dimensions: tuple[int, ...]) -> None:
    """Raises ValueError unless shape can be that of a weight whose positions fit 32 bits."""
    if len(shape) not in dimensions or any(not isinstance(s, int) or s < 1 for s in shape):
        wanted = " or ".join(str(d) for d in dimensions)
        raise ValueError(f"shape must be {wanted} numbers above 0, got {tuple(shape)}")
    row = 1
    for size in shape[1:]:
        row *= size
    if row > INT32_MAX or shape[0] > INT32_MAX:
        raise ValueError(f"shape {tuple(shape)} has rows longer than {INT32_MAX}")


def check_vector(name: str, tensor: Tensor, length: int | None = None) -> None:
    """Raises ValueError unless the tensor has one dimension, and that length if one is given."""
    if tensor.dim() != 1 or (length is not None and tensor.numel() != length):
        wanted = "(*)" if length is None else f"({length})"
        raise ValueError(f"{name} must be {wanted}, got {tuple(tensor.shape)}")


def check_values(values: Tensor, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless the values are floating point, of that shape."""
    if not values.is_floating_point():
        raise ValueError(f"values must be floating point, got {values.dtype}")
    if tuple(values.shape) != tuple(shape):
        raise ValueError(f"values must be {tuple(shape)}, got {tuple(values.shape)}")


def check_indices(name: str, indices: Tensor, limit: int) -> None:
    """Raises ValueError unless these are int32 numbers in [0, limit)."""
    if indices.dtype != torch.int32:
        raise ValueError(f"{name} must be int32, got {indices.dtype}")
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < limit:
        raise ValueError(
            f"{name} must be in [0, {limit}), got {int(indices.min())} to {int(indices.max())}"
        )


def check_pointers(name: str, pointers: Tensor, last: int) -> None:
    """Raises ValueError unless these are int32, start at 0, never fall and end at `last`."""
    if pointers.dtype != torch.int32:
        raise ValueError(f"{name} must be int32, got {pointers.dtype}")
    if pointers.numel() == 0 or int(pointers[0]) != 0 or int(pointers[-1]) != last:
        ends = [int(p) for p in pointers[[0, -1]]] if pointers.numel() else []
        raise ValueError(f"{name} must go from 0 to {last}, got {ends}")
    if bool((pointers.diff() < 0).any()):
        raise ValueError(f"{name} must never fall")


def check_ascending(name: str, indices: Tensor, pointers: Tensor) -> None:
    """Raises ValueError unless the indices rise strictly within each row."""
    rising = indices.diff() > 0
    starts = pointers[1:-1].long()
    inside = (starts > 0) & (starts < indices.numel())
    rising[starts[inside] - 1] = True
    if not bool(rising.all()):
        raise ValueError(f"{name} must rise within each row, without repeats")
