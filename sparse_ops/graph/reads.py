"""Reads: what else than tensors and modules a model's forward asks its modules for.

A graph has these as they were: a flag, a divisor, a stride, a method that somebody exchanged. While
they are the same, the graph is what the forward does.
"""

import argparse
import dataclasses
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Module -> attribute -> its `essence`, or ABSENT where the module's class has it.
Reads = dict[str, dict[str, Any]]


class Absent:
    """What an attribute is that a module does not have itself; there is one of it."""

    def __reduce__(self) -> str:
        return "ABSENT"


ABSENT = Absent()


class Same:
    """An object that is equal to itself only, also in copies that were made with it."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.held is self.held

    def __hash__(self) -> int:
        return id(self.held)

    def __reduce__(self) -> Any:
        return Same, (self.held,)


PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
# Objects that only hold settings; in more depth than this, or with more of them, they are `Same`.
_SETTINGS = (types.SimpleNamespace, argparse.Namespace)
_MOST_DEPTH, _MOST = 3, 200


def essence(value: Any, depth: int = 0) -> Any:
    """What of a value a forward may depend on, so that a later one can be compared with it."""
    if isinstance(value, PLAIN):
        return value
    if depth == _MOST_DEPTH or isinstance(value, Tensor | nn.Module | type):
        return Same(value)
    if isinstance(value, types.MethodType):
        return Same(value.__func__), Same(value.__self__)
    if isinstance(value, set | frozenset):
        return set(value)
    held = vars(value) if _is_settings(value) else value
    if not isinstance(held, list | tuple | dict) or len(held) > _MOST:
        return Same(value)
    if isinstance(held, dict):
        inner = {key: essence(each, depth + 1) for key, each in held.items()}
        return inner if held is value else (Same(type(value)), inner)
    plain = list if isinstance(held, list) else tuple
    return plain(essence(each, depth + 1) for each in held)


def is_plain(known: Any) -> bool:
    """Whether an `essence` equals what it is of, so that the two can be compared as they are."""
    if isinstance(known, list | tuple):
        return all(map(is_plain, known))
    if isinstance(known, dict):
        return all(map(is_plain, known.values()))
    return isinstance(known, (*PLAIN, set))


def _is_settings(value: Any) -> bool:
    """Whether an object is one of settings: all that it holds is plain, or such objects."""
    if not hasattr(value, "__dict__") or callable(value):
        return False
    kinds = (*PLAIN, list, tuple, dict, set)
    plain = all(isinstance(each, kinds) for each in vars(value).values())
    return plain or isinstance(value, _SETTINGS) or dataclasses.is_dataclass(value)


@contextmanager
def reads_of(model: nn.Module) -> Iterator[Reads]:
    """Notes what forwards that run inside ask the model's modules for."""
    names = {id(module): (name, module) for name, module in model.named_modules()}
    asked: dict[int, set[str]] = {}
    plain = object.__getattribute__

    def reading(self: object, name: str) -> Any:
        if id(self) in names and name not in _OF_ALL and not _unnoticed:
            asked.setdefault(id(self), set()).add(name)
        return plain(self, name)

    found: Reads = {}
    nn.Module.__getattribute__ = reading  # type: ignore[method-assign]
    try:
        yield found
    finally:
        del nn.Module.__getattribute__
        for key, attributes in asked.items():
            name, module = names[key]
            held = vars(module)
            inner = module._modules.keys() | module._parameters.keys() | module._buffers.keys()
            found[name] = {
                each: essence(held[each]) if each in held else ABSENT
                for each in sorted(attributes - inner)
            }


@contextmanager
def unnoticed() -> Iterator[None]:
    """Inside, `reads_of` notices nothing."""
    _unnoticed.append(True)
    try:
        yield
    finally:
        _unnoticed.pop()


_unnoticed: list[bool] = []
# What all modules have, and no forward asks for: tables, hooks, the machinery of calls.
_OF_ALL = (frozenset(vars(nn.Module())) | frozenset(dir(nn.Module))) - {"training", "forward"}
