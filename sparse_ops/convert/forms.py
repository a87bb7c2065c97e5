"""Forms: the ways in which torch can run a model: as it is, in channels_last, or compiled."""

import copy
import os
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.convert.layout import sharing_copy, take_channels_last_

Call = Callable[[], object]

EAGER, COMPILED = "eager", "torch.compile"


def channels_last_call(model: nn.Module, example: tuple[Any, ...]) -> Call:
    """A call of the model in channels_last; the images are converted in the call."""
    return partial(take_channels_last_(sharing_copy(model)), *example)


def no_compiler() -> str | None:
    """Why torch.compile has nothing to compile with, or None if it has."""
    named = os.environ.get("CXX", "g++").split()[0]
    return None if shutil.which(named) else f"it needs a C++ compiler, and there is no {named}"


def compiled_call(model: nn.Module, example: tuple[Any, ...]) -> Call:
    """A call of the model compiled with its weights frozen; compiles it now.

    Raises:
        RuntimeError: the output of what was compiled is not that of the model. Compiling itself may
            fail in other ways.
    """
    frozen = torch.compile(copy.deepcopy(model), dynamic=False, options={"freezing": True})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, got = model(*example), frozen(*example)
    if isinstance(expected, Tensor) and not torch.allclose(expected, got, rtol=1e-2, atol=1e-3):
        raise RuntimeError("its output is not that of the model")
    return lambda: frozen(*example)


def failure(error: Exception) -> str:
    """An error in one line."""
    first = (str(error).splitlines() or [""])[0]
    return f"it failed: {type(error).__name__}: {first}"
