"""Spelling: what a call in a model's code says, whichever way it is written.

The same operation may be a module, a function, a method or an operator, its arguments by place or
by name. A `Spelled` call has them all by name, so that what an operation is needs to be said once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from sparse_ops.graph.ir import Node, Value


class Unlike(Exception):
    """A call is not that operation, or not in a way that is known; says why."""


@dataclass(frozen=True, eq=False)
class Meaning:
    """What a call comes down to: see `Node`."""

    inputs: Sequence[Value]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Spelled:
    """A call as the model's code has it, with values where tensors are.

    Attributes:
        module: what is called, if it is a module.
        target: the function, or the name of the method; None for a module.
        args, kwargs: what it is given.
        shape: of what it gives; None if that is no tensor.
    """

    module: nn.Module | None
    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: tuple[int, ...] | None

    def given(self, inputs: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments by name: `inputs`, and of a module its attributes, else what follows.

        Args:
            options: name -> what it is where nothing is said.

        Raises:
            Unlike: there are others, or an input is missing.
        """
        names = [*inputs] if self.module is not None else [*inputs, *options]
        if len(self.args) > len(names):
            raise Unlike(f"it is given {len(self.args)} arguments, {len(names)} were expected")
        found = dict(zip(names, self.args, strict=False))
        for name, value in self.kwargs.items():
            # torch has both names for some.
            name = {"x": "input", "axis": "dim", "tensor": "input"}.get(name, name)
            if name in found or name not in names:
                if name == "inplace":
                    continue
                raise Unlike(f"it is given {name}, which is not known")
            found[name] = value
        if missing := [name for name in inputs if name not in found]:
            raise Unlike(f"it is not given {missing[0]}")
        for name, default in options.items():
            found.setdefault(name, getattr(self.module, name, default))
        return found


class Way:
    """A way to spell an operation.

    Attributes:
        read: what a call means; raises `Unlike`.
        modules, functions, methods: how it is written.
    """

    def __init__(
        self,
        read: Callable[[Spelled], Meaning],
        modules: Sequence[type[nn.Module]] = (),
        functions: Sequence[Any] = (),
        methods: Sequence[str] = (),
    ) -> None:
        self.read = read
        self.modules, self.functions, self.methods = modules, functions, methods


class Op:
    """An operation.

    Attributes:
        evaluate: what a node of it gives for tensors of any size; None: only its call does that.
        ways: how it is spelled.
        is_view: whether its output may share memory with an input.
    """

    def __init__(
        self,
        evaluate: Callable[[Node, Sequence[Tensor]], Tensor] | None,
        *ways: Way,
        is_view: bool = False,
    ) -> None:
        self.evaluate, self.ways, self.is_view = evaluate, ways, is_view


def tensor(given: Any) -> Value:
    """The value that an argument is.

    Raises:
        Unlike: it is no tensor.
    """
    if not isinstance(given, Value) or given.shape is None:
        raise Unlike("a number is given where a tensor was expected")
    return given


def plain(given: Any) -> Any:
    """An argument that is no tensor; what the model's code worked out is as it was on the example.

    Raises:
        Unlike: it is a tensor.
    """
    if isinstance(given, Value):
        raise Unlike("it depends on what the model's code works out when it runs")
    if isinstance(given, tuple | list):
        return type(given)(plain(each) for each in given)
    return given


def images(given: Any) -> Value:
    """A value that is (N, C, H, W)."""
    value = tensor(given)
    if value.rank != 4:
        raise Unlike(f"it works on {value.rank} dimensions, not on images")
    return value


def pair(given: Any, least: int = 0) -> tuple[int, int]:
    """(h, w) of a number or two."""
    given = plain(given)
    both = (given, given) if type(given) is int else given
    good = isinstance(both, tuple | list) and len(both) == 2
    if not good or not all(type(n) is int and n >= least for n in both):
        raise Unlike(f"{given!r} is not a number or two from {least} on")
    return int(both[0]), int(both[1])


def number(given: Any) -> float:
    """A number, as a float."""
    given = plain(given)
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise Unlike(f"{given!r:.80} is not a number")
    return float(given)


FORWARDS = ("forward", "_conv_forward")


def exchanged(module: nn.Module | None) -> str | None:
    """Which method of this very module somebody has exchanged, so that it computes something else;
    None if there is none."""
    return next((name for name in FORWARDS if module is not None and name in vars(module)), None)


# Forwards of subclasses that compute what those of torch.nn do.
KNOWN_FORWARDS = {"timm.layers.linear.Linear.forward": nn.Linear}


def runs_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of a kind, or of a subclass that computes nothing else."""
    if not isinstance(module, kind) or exchanged(module) is not None:
        return False
    for name in FORWARDS:
        own, expected = getattr(type(module), name, None), getattr(kind, name, None)
        where = f"{getattr(own, '__module__', '')}.{getattr(own, '__qualname__', '')}"
        if own is not expected and KNOWN_FORWARDS.get(where) is not kind:
            return False
    return True
