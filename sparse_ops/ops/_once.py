"""What follows from a tensor that seldom changes, worked out once."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

Found = TypeVar("Found")


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
    """
    where = ((t.data_ptr(), tuple(t.shape), t.dtype, t.device) for t in tensors)
    key = (what, *where)
    versions = tuple(0 if t.is_inference() else t._version for t in tensors)
    entry = _entries.get(key)
    if entry is not None and entry.versions == versions and not entry.gone():
        return entry.found
    for old in [k for k, e in _entries.items() if e.gone()]:
        del _entries[old]
    found = work()
    owners = tuple(StorageWeakRef(t.untyped_storage()) for t in tensors)
    _entries[key] = _Entry(versions, owners, found)
    return found
