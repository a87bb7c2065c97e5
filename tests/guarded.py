"""Tensors beside pages that nobody may touch: what reads or writes next to them dies at once."""

import ctypes
import mmap

import torch

PAGE = mmap.PAGESIZE
SIDES = ("before", "after")


def guarded(tensor, side):
    """A copy in the same layout that begins, or ends, where a forbidden page is.

    A tensor with gaps between its numbers, or without any, is given back as it is.
    """
    dense = tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)
    if not tensor.numel() or not dense:
        return tensor
    size = tensor.numel() * tensor.element_size()
    room = -(-size // PAGE) * PAGE
    # Unmapped when the last tensor that is made of it is gone.
    pages = mmap.mmap(-1, room + 2 * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for address in (start, start + PAGE + room):
        if protect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = PAGE if side == "before" else PAGE + room - size
    flat = torch.frombuffer(pages, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
    return flat.as_strided(tensor.shape, tensor.stride()).copy_(tensor)
