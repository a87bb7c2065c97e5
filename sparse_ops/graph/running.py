"""Runs of a model that leave nothing behind, and whether two outputs are the same."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only


@dataclass(frozen=True, eq=False)
class Run:
    """One call of a model.

    Attributes:
        output: what it gave.
        kept: what it has kept of the call: names of attributes and buffers that were others then.
    """

    output: Any
    kept: tuple[str, ...]


def first_run(model: nn.Module, example: Sequence[Any]) -> Run:
    """A call of a model that it does not remember; random numbers are the same each time."""
    versions = _versions(model)
    with kept_as_it_is(model) as kept, seeded():
        output = model(*copied_example(example))
    now = _versions(model)
    kept += [name for name, version in versions.items() if now.get(name) != version]
    return Run(output, tuple(kept))


def _versions(model: nn.Module) -> dict[str, int]:
    # What was made in inference mode has none.
    buffers = model.named_buffers()
    return {name: buffer._version for name, buffer in buffers if not buffer.is_inference()}


def copied_example(example: Sequence[Any]) -> Any:
    """Arguments that a model may write to."""
    return tree_map_only(Tensor, lambda x: x.clone(), tuple(example))


@contextmanager
def seeded() -> Iterator[None]:
    """Inside, no gradients, and random numbers that do not come from the caller's generator."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        yield


@contextmanager
def kept_as_it_is(model: nn.Module) -> Iterator[list[str]]:
    """Puts back what a forward hangs on modules: stand-ins of torch.fx, say; gives its names."""
    before = [
        (name, module, {key: _held(key, value) for key, value in vars(module).items()})
        for name, module in model.named_modules()
    ]
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, module, attributes in before:
            now = vars(module)
            for key in now.keys() | attributes.keys():
                if not _is_same(now.get(key, _NOTHING), attributes.get(key, _NOTHING)):
                    changed.append(f"{name}.{key}" if name else key)
            now.clear()
            now.update(attributes)


def _is_same(one: Any, other: Any) -> bool:
    """Whether an attribute is what it was; lists and tables by what they hold."""
    if type(one) in (list, set) and type(one) is type(other):
        return list(map(id, one)) == list(map(id, other))
    if type(one) is dict and type(other) is dict:
        return {k: id(v) for k, v in one.items()} == {k: id(v) for k, v in other.items()}
    plain = isinstance(one, int | float | str | bool) and type(one) is type(other)
    return one is other or (plain and one == other)


def _held(name: str, value: Any) -> Any:
    """An attribute, copied where a forward may add to it."""
    own = name not in _OF_MODULES and type(value) in (list, dict, set)
    return copy.copy(value) if own else value


def same_outputs(given: Any, expected: Any) -> bool:
    """Whether two outputs have equal tensors, but for roundings."""
    ours = [t for t in tree_leaves(given) if isinstance(t, Tensor)]
    theirs = [t for t in tree_leaves(expected) if isinstance(t, Tensor)]
    if not all(type(out) in _KNOWN for out in (given, expected)):
        return True
    return len(ours) == len(theirs) and all(map(_close, ours, theirs))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point() or not a.numel():
        return torch.equal(a, b)
    known = a.isfinite() & b.isfinite()
    if not torch.equal(a.isnan(), b.isnan()) or not bool(known.any()):
        return torch.equal(a.isnan(), b.isnan())
    off = float((a - b)[known].abs().max())
    return off <= math.sqrt(torch.finfo(a.dtype).eps) * float(b[known].abs().max())


# What an attribute is that is not there.
_NOTHING = object()
# The attributes that all modules have.
_OF_MODULES = frozenset(vars(nn.Module()))
# What outputs are compared in; torch does not look into others.
_KNOWN = (Tensor, nn.Parameter, tuple, list, dict)
