"""Inputs: a model's arguments, in the order of its forward's parameters."""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn


class Inputs(tuple[Any, ...]):
    """Arguments, the last of which are given by keyword.

    Attributes:
        names: the keywords of these.
    """

    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Sequence[Any], names: tuple[str, ...]) -> "Inputs":
        made = cls(values)
        made.names = names
        return made

    def like(self, values: Sequence[Any]) -> "Inputs":
        """Other values of the same arguments."""
        return Inputs.of(values, self.names)


def calling(model: Any, inputs: Sequence[Any]) -> partial[Any]:
    """The call of a model, or of what is called alike, with these inputs."""
    names = inputs.names if isinstance(inputs, Inputs) else ()
    first = len(inputs) - len(names)
    return partial(model, *inputs[:first], **dict(zip(names, inputs[first:], strict=True)))


def bound(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Inputs:
    """The inputs that these arguments are, with defaults where one between is not given.

    Raises:
        ValueError: they are not those of the model's forward.
    """
    own = inspect.signature(model.forward)
    try:
        given = own.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise ValueError(
            f"the model's forward{own} does not take the example: {error}. In an example, a tuple "
            "or list has the arguments, a dict the keyword arguments; a list or dict that is one "
            "argument is written (example,)"
        ) from error
    if not kwargs:
        return Inputs(args)
    values: list[Any] = []
    names: list[str] = []
    left = {name for name in given if name in own.parameters}
    for name, parameter in own.parameters.items():
        if not left:
            break
        left.discard(name)
        if parameter.kind is parameter.VAR_POSITIONAL:
            values += given.get(name, ())
        elif parameter.kind is parameter.VAR_KEYWORD:
            names += given.get(name, {}).keys()
            values += given.get(name, {}).values()
        else:
            values.append(given.get(name, parameter.default))
            names += [name] if parameter.kind is parameter.KEYWORD_ONLY else []
    return Inputs.of(values, tuple(names))
