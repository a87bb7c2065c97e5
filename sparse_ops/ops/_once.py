"""What follows from a tensor that seldom changes, worked out once."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

Found = TypeVar("Found")


def recorded(weight: Tensor) -> bool:
    """Whether a CUDA graph is being recorded in which a weight may change from replay to replay.

    What follows from the weight is then a part of the graph. Under inference_mode weights do not
    change: what was kept of them before is used, and no replay works it out again.
    """
    if not weight.is_cuda or torch.is_inference_mode_enabled():
        return False
    return torch.cuda.is_current_stream_capturing()


class _Entry(NamedTuple):
    versions: tuple[int, ...]
    owners: tuple[StorageWeakRef, ...]
    found: Any

    def gone(self) -> bool:
        return any(owner.expired() for owner in self.owners)


_entries: dict[Hashable, _Entry] = {}


def once(what: Hashable, tensors: tuple[Tensor, ...], work: Callable[[], Found]) -> Found:
    """`work()`, or what it gave for these very tensors, unchanged; forgotten when they are gone.

    A change that PyTorch does not count (through `.data`, or to inference tensors) goes unseen.
    What a CUDA graph records is worked out in the graph, and not kept.
    """
    where = ((t.data_ptr(), tuple(t.shape), t.dtype, t.device) for t in tensors)
    key = (what, *where)
    versions = tuple(0 if t.is_inference() else t._version for t in tensors)
    entry = _entries.get(key)
    if entry is not None and entry.versions == versions and not entry.gone():
        return entry.found
    on_device = [t for t in tensors if t.is_cuda]
    if on_device and torch.cuda.is_current_stream_capturing():
        return work()
    # Other threads come and go here, too: a list of its own is gone through.
    for old in [k for k, e in list(_entries.items()) if e.gone()]:
        _entries.pop(old, None)
    found = work()
    for tensor in on_device:
        # The next one to ask may be on another stream, which would not wait for this one.
        torch.cuda.current_stream(tensor.device).synchronize()
    owners = tuple(StorageWeakRef(t.untyped_storage()) for t in tensors)
    _entries[key] = _Entry(versions, owners, found)
    return found
