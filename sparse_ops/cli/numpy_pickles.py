"""NumPy's arrays and scalars in a pickle, read without NumPy's own functions for that.

Those trust what they are given: a dtype is handed its flags and fields, a scalar its memory. The
classes here stand in their places. Of types, numbers and text are read; what is of another is kept
as nothing.
"""

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor


class DType:
    """In the place of `numpy.dtype`: the code of a type, and the order of its bytes."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def numpy(self) -> np.dtype | None:
        if not re.fullmatch(r"[biufcSU]\d{1,3}", self.code):
            return None
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


class Array:
    """In the place of `numpy.ndarray`, which is first made empty, and then filled."""

    def __init__(self, *_: Any) -> None:
        self.content: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, content = state
        kind = dtype.numpy() if isinstance(dtype, DType) else None
        if kind is not None and isinstance(content, bytes):
            order: Any = "F" if by_columns else "C"
            self.content = np.frombuffer(content, kind).reshape(shape, order=order)


def scalar(dtype: Any, content: Any = b"") -> Any:
    """A number or text; None if it is of another type."""
    kind = dtype.numpy() if isinstance(dtype, DType) else None
    if kind is None or not isinstance(content, bytes):
        return None
    return np.frombuffer(content, kind, count=1)[0]


# As torch's restricted unpickler takes them: what stands for a name. NumPy 2 has renamed modules.
STANDING_FOR: list[tuple[Any, str]] = [
    (DType, "numpy.dtype"),
    (Array, "numpy.ndarray"),
    *(
        (mine, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for mine, name in ((Array, "_reconstruct"), (scalar, "scalar"))
    ),
]


def tensor(value: Any) -> Tensor | None:
    """A tensor of an array of numbers; None of anything else."""
    array = value.content if isinstance(value, Array) else value
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        return None
    # Native byte order, and memory that torch may write to.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
