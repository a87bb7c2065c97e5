"""A method's state between two epochs, as data that a checkpoint can hold: tensors and numbers.

A method may say itself what that is, by `state_dict()` and `load_state_dict(state)`. Of any other
it is the fields of the dataclass that are no options (`init=False`), or all that the object holds.
"""

import dataclasses
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.training.method import SparsityMethod

# What else than a list a list in a file stands for, by its first item.
TAGS = {"tuple": tuple, "set": set, "frozenset": frozenset}


def method_state(method: SparsityMethod) -> Any:
    """What `restore_method` needs.

    Raises:
        ValueError: the method holds something that is no data, and does not say what to keep.
    """
    own = getattr(method, "state_dict", None)
    if callable(own):
        return encode(own(), type(method).__name__)
    name = type(method).__name__
    return {key: encode(value, f"{name}.{key}") for key, value in _held(method).items()}


def restore_method(method: SparsityMethod, state: Any) -> None:
    """Makes a prepared method what it was when `method_state` was called.

    Raises:
        ValueError: the state is of another method.
    """
    own = getattr(method, "load_state_dict", None)
    if callable(own):
        own(decode(state))
        return
    have, came = set(_held(method)), set(state)
    if have != came:
        more, less = ", ".join(sorted(came - have)), ", ".join(sorted(have - came))
        raise ValueError(
            f"its {type(method).__name__} is of another version of sparse_ops, whose steps are not "
            f"these: it keeps {more or 'nothing more'}, and not {less or 'anything less'}. Go on "
            "with that version, or begin anew without the checkpoint"
        )
    for key, value in state.items():
        setattr(method, key, decode(value))


def _held(method: SparsityMethod) -> dict[str, Any]:
    if not dataclasses.is_dataclass(method):
        return dict(vars(method))
    return {f.name: getattr(method, f.name) for f in dataclasses.fields(method) if not f.init}


def encode(value: Any, what: str) -> Any:
    """`value` with lists, dicts, tensors, numbers and text only.

    Raises:
        ValueError: something in it is none of these; the message names it as `what`.
    """
    if isinstance(value, nn.Parameter) or not isinstance(
        value, (type(None), bool, int, float, str, Tensor, torch.dtype, dict, list, deque)
    ):
        if type(value).__name__ in TAGS and type(value) is TAGS[type(value).__name__]:
            items = [encode(item, what) for item in value]
            return {"tag": type(value).__name__, "items": items}
        raise ValueError(
            f"{what} is a {type(value).__name__}, which a checkpoint cannot hold: "
            "the method needs state_dict() and load_state_dict()"
        )
    if isinstance(value, dict):
        pairs = [[encode(k, what), encode(v, f"{what}[{k!r}]")] for k, v in value.items()]
        return {"tag": "dict", "items": pairs}
    if isinstance(value, deque):
        return {"tag": "deque", "items": [encode(v, what) for v in value], "most": value.maxlen}
    if isinstance(value, list):
        return [encode(item, what) for item in value]
    return value.detach() if isinstance(value, Tensor) else value


def decode(value: Any) -> Any:
    """What `encode` was given.

    Raises:
        ValueError: `encode` has not made this.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = value.get("tag")
    items = value.get("items")
    if not isinstance(items, list):
        raise ValueError(f"state must have been written by encode, got {tag!r}")
    if tag == "dict":
        return {decode(k): decode(v) for k, v in items}
    if tag == "deque":
        return deque((decode(item) for item in items), value.get("most"))
    if tag not in TAGS:
        raise ValueError(f"state must be one of dict, deque, {', '.join(TAGS)}, got {tag!r}")
    return TAGS[tag](decode(item) for item in items)


def described(value: Any) -> str:
    """An option in words that are the same in every process, without addresses in memory."""
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
        return repr(value)
    if isinstance(value, Tensor):
        return f"{value.dtype}{tuple(value.shape)} sum {float(value.detach().double().sum())!r}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{described(k)}: {described(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(described(item) for item in value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(described(item) for item in value) + "]"
    name = type(value).__name__
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        options = [f.name for f in dataclasses.fields(value) if f.init]
        inner = ", ".join(f"{option}={described(getattr(value, option))}" for option in options)
        return f"{name}({inner})"
    return name
