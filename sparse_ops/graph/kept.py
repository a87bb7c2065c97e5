"""Kept: modules that keep something from call to call, a cache say, are one node each in a graph.

Their own code runs in each call and keeps what it keeps. Whoever else reads it, or writes it, would
find in a trace what it was then: such a model is no graph.
"""

from collections.abc import Collection, Iterable, Mapping

from torch import nn

from sparse_ops.graph.reads import Reads

Keepers = dict[str, set[str]]


def keepers(model: nn.Module, kept: Iterable[str]) -> Keepers | None:
    """Module -> its attributes of these; None if it is the model itself, or one is a buffer."""
    found: Keepers = {}
    for name in kept:
        owner, _, attribute = name.rpartition(".")
        if not owner or attribute in model.get_submodule(owner)._buffers:
            return None
        found.setdefault(owner, set()).add(attribute)
    return found


def touched(keepers: Mapping[str, set[str]], reads: Reads, changed: Collection[str]) -> str | None:
    """What of it others have read or written while the model was traced without its keepers."""
    for owner, attributes in keepers.items():
        for attribute in sorted(attributes):
            name = f"{owner}.{attribute}"
            if attribute in reads.get(owner, {}) or name in changed:
                return name
    return None


def forget_(reads: Reads, keepers: Mapping[str, set[str]]) -> None:
    """Takes out of what a forward has read what its modules keep for themselves."""
    for owner, attributes in keepers.items():
        for attribute in attributes & reads.get(owner, {}).keys():
            del reads[owner][attribute]
