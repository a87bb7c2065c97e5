"""Forms: the ways in which torch can run a model: as it is, in channels_last, or compiled."""

import copy
import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sparse_ops.graph.inputs import calling
from sparse_ops.graph.running import tensors_in
from sparse_ops.planning.copies import sharing_copy
from sparse_ops.planning.differences import float_tensors
from sparse_ops.planning.layout import take_channels_last_

Call = Callable[[], object]

EAGER, COMPILED = "eager", "torch.compile"


def channels_last_call(model: nn.Module, example: tuple[Any, ...]) -> Call:
    """A call of the model in channels_last; the images are converted in the call."""
    return calling(take_channels_last_(sharing_copy(model)), example)


def no_compiler() -> str | None:
    """Why torch.compile has nothing to compile with, or None if it has."""
    named = os.environ.get("CXX", "g++").split()[0]
    return None if shutil.which(named) else f"it needs a C++ compiler, and there is no {named}"


def compiled_call(model: nn.Module, example: tuple[Any, ...]) -> Call:
    """A call of the model compiled with its weights frozen; compiles it now.

    Raises:
        As `frozen`.
    """
    return calling(frozen(copy.deepcopy(model), example), example)


def own_function(model: nn.Module) -> Callable[..., Any]:
    """A function with code of its own that calls the model.

    torch.compile keeps what it compiled by code, and some of each code at most: modules such as
    nn.Sequential all share the same, and after a few of them the next would run uncompiled.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **kwargs)

    call.__code__ = call.__code__.replace()
    return call


def frozen(model: nn.Module, example: tuple[Any, ...]) -> Callable[..., Any]:
    """The model, which nothing else may call, compiled with its weights frozen, for such inputs.

    On a GPU as in torch.compile's mode "reduce-overhead": it replays CUDA graphs. That is also what
    fuses dense layers there, an addition and activation in one kernel behind the convolution:
    cuDNN's own call (cudnn_convolution_add_relu) would need a layer of its own in models and files,
    before anybody has measured what it gains. Layers in `benchmarks/gpu_run.py` are raced with it.

    Raises:
        RuntimeError: the output of what was compiled is not that of the model. Compiling itself may
            fail in other ways.
    """
    options: Any = {"freezing": True}
    if any(x.is_cuda for x in tensors_in(tuple(example))):
        options["triton.cudagraphs"] = True
    compiled = torch.compile(own_function(model), dynamic=False, options=options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = calling(model, copy.deepcopy(example))()
        got = calling(compiled, copy.deepcopy(example))()
    pairs = zip(float_tensors(expected), float_tensors(got), strict=True)
    if not all(torch.allclose(a, b, rtol=1e-2, atol=1e-3, equal_nan=True) for a, b in pairs):
        raise RuntimeError("its output is not that of the model")
    return compiled


def failure(error: Exception) -> str:
    """An error in one line."""
    first = (str(error).splitlines() or [""])[0]
    return f"it failed: {type(error).__name__}: {first}"
