"""Pickles of CIFAR's kind, read without running anything: dicts, lists, text and arrays of bytes.

A pickle is a program that may name any function of any module. These files need three names, those
by which numpy writes an array, and get a stand-in for each that only keeps what it is told; every
other name is an error. Text of Python 2 comes as bytes.
"""

import io
import pickle
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

# The names in a file, of numpy before 2 and since.
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


class _ByteType:
    """Stands in for numpy.dtype; "u1" is the only one there is."""

    def __init__(self, code: Any, *rest: Any) -> None:
        if code not in (b"u1", "u1"):
            raise pickle.UnpicklingError(f"arrays must be of unsigned bytes, got {code!r}")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which bytes have none of."""


class _Array:
    """Stands in for numpy.ndarray, until `array` makes one of it."""

    shape: Any = None
    content: Any = None
    by_columns: Any = False

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _ByteType):
            raise pickle.UnpicklingError("an array must be (version, shape, type, order, bytes)")
        _, self.shape, _, self.by_columns, self.content = state

    def array(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        shape, content = self.shape, self.content
        if not isinstance(shape, tuple) or not all(
            isinstance(size, int) and size >= 0 for size in shape
        ):
            raise pickle.UnpicklingError(f"the shape of an array must be numbers, got {shape!r}")
        if not isinstance(content, bytes) or len(content) != prod(shape):
            raise pickle.UnpicklingError(f"an array of {shape} must hold {prod(shape)} bytes")
        order = np.frombuffer(content, dtype=np.uint8)
        return order.reshape(shape, order="F" if self.by_columns is True else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("only arrays are made in this way")
    return _Array()


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES and name == "_reconstruct":
            return _reconstruct
        if module == "numpy" and name == "ndarray":
            return _Array
        if module == "numpy" and name == "dtype":
            return _ByteType
        raise pickle.UnpicklingError(f"{module}.{name} has no place in such a file")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("references to elsewhere have no place in such a file")


def read_pickled(path: Path) -> dict[str, Any]:
    """The dict in a file, its keys as text, its arrays as numpy's.

    Raises:
        ValueError: the file is damaged, or holds something else; the message names it.
        OSError: the file cannot be opened.
    """
    content = path.read_bytes()
    try:
        found = _Reader(io.BytesIO(content), fix_imports=False, encoding="bytes").load()
        if not isinstance(found, dict):
            raise pickle.UnpicklingError(f"a dict was wanted, got {type(found).__name__}")
        return {
            key.decode("ascii") if isinstance(key, bytes) else str(key): (
                value.array() if isinstance(value, _Array) else value
            )
            for key, value in found.items()
        }
    # A damaged pickle may do anything that pickle can do wrong with the few objects it may make.
    except Exception as error:
        words = str(error) or type(error).__name__
        raise ValueError(f"{path} is damaged, or not of CIFAR: {words}") from error
