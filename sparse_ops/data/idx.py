"""IDX, the file format of MNIST: a header of sizes, then bytes; often gzipped.

Two zero bytes, one that names the type (8: unsigned bytes, all that is read here), one that gives
the number of dimensions; each dimension as a big-endian 32-bit number; then the items, last
dimension innermost.
"""

import gzip
import os
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from sparse_ops._files import replacing

UNSIGNED_BYTE = 8
# deflate cannot do better: a longest match of 258 bytes takes at least two bits.
MOST_DEFLATED = 1032
CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str], dims: int) -> Tensor:
    """Reads a file of unsigned bytes, gzipped if its name ends in .gz; returns uint8.

    No more memory is taken than the file has bytes for, whatever its header says.

    Raises:
        ValueError: the file is not IDX, or not of `dims` dimensions, or shorter or longer than its
            header says; the message names the file.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    size = path.stat().st_size
    zipped = path.suffix == ".gz"
    with path.open("rb") as raw:
        file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if zipped else raw
        try:
            return _read(file, path, dims, size * MOST_DEFLATED if zipped else size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is damaged: {error}") from error


def _read(file: BinaryIO, path: Path, dims: int, at_most: int) -> Tensor:
    head = _exactly(file, 4 + 4 * dims)
    if len(head) < 4 or head[:2] != b"\0\0":
        raise ValueError(f"{path} is not an IDX file: it begins with {head[:4].hex() or 'nothing'}")
    if head[2] != UNSIGNED_BYTE:
        raise ValueError(f"{path} must hold unsigned bytes (type 8), got type {head[2]}")
    if head[3] != dims:
        raise ValueError(f"{path} must have {dims} dimensions, got {head[3]}")
    if len(head) < 4 + 4 * dims:
        raise ValueError(f"{path} ends within its header")
    shape = tuple(int.from_bytes(head[4 + 4 * d : 8 + 4 * d], "big") for d in range(dims))
    count = prod(shape)
    if count > at_most:
        raise ValueError(f"{path} claims {shape}, {count} bytes, which cannot be in that file")
    items = _exactly(file, count)
    if len(items) < count:
        raise ValueError(f"{path} claims {shape}, {count} bytes, but ends after {len(items)}")
    if file.read(1):
        raise ValueError(f"{path} claims {shape}, {count} bytes, but goes on after them")
    return torch.from_numpy(np.frombuffer(items, dtype=np.uint8).reshape(shape))


def _exactly(file: BinaryIO, count: int) -> bytearray:
    """Up to `count` bytes, fewer at the end of the file; grows with what is there."""
    found = bytearray()
    while len(found) < count and (chunk := file.read(min(CHUNK, count - len(found)))):
        found += chunk
    return found


def write_idx(path: str | os.PathLike[str], items: Tensor) -> None:
    """Writes a uint8 tensor, gzipped if the name ends in .gz; equal tensors give equal files.

    Raises:
        ValueError: items is not uint8, or has no dimension or more than 255.
        OSError: the file cannot be written.
    """
    if items.dtype != torch.uint8 or not 1 <= items.dim() <= 255:
        raise ValueError(
            f"items must be uint8 with 1 to 255 dimensions, got {items.dtype} with {items.dim()}"
        )
    head = bytes([0, 0, UNSIGNED_BYTE, items.dim()])
    head += b"".join(size.to_bytes(4, "big") for size in items.shape)
    content = head + items.cpu().contiguous().numpy().tobytes()
    if Path(path).suffix == ".gz":
        content = gzip.compress(content, compresslevel=9, mtime=0)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
