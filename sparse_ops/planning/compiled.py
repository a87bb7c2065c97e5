"""Compiled: a converted model that was measured fastest under torch.compile, given as such.

The model keeps its class, its modules and the names of its tensors. Only those calls go another way
that were measured: without gradients, in eval mode, with inputs as those it was planned for. All
others run as if it had not been compiled; so does the model once its weights were changed, for what
is compiled has them as constants.
"""

import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparse_ops.ops._transforms import is_transformed
from sparse_ops.planning.copies import sharing_copy
from sparse_ops.planning.forms import failure, frozen, no_compiler
from sparse_ops.planning.masked import example_tuple


class Input(NamedTuple):
    """What a tensor given to a compiled model has to be like."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor) -> "Input":
        return cls(tuple(x.shape), x.stride(), x.dtype)


class _Slot(NamedTuple):
    """A tensor of a model, where it hangs, and how often it had been changed by then."""

    table: Mapping[str, Tensor | None]
    name: str
    tensor: Tensor
    version: int


class Route:
    """Takes the calls of a model: those it was compiled for to what was compiled.

    Attributes:
        model: the model.
        inputs: what its arguments, which are all tensors, have to be like.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Input]) -> None:
        self.model, self.inputs = model, tuple(inputs)
        self._lock = threading.Lock()
        self._compiled: Any = None
        self._slots: list[_Slot] = []
        self._hooks: list[tuple[dict[int, Any], int]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._meant(args, kwargs) or not self._ready(args):
            return self.model._call_impl(*args, **kwargs)
        # One kind of tensor and one mode, whatever the caller's: each would be compiled anew.
        with torch.inference_mode(False), torch.no_grad():
            return self._compiled(*(x.clone() if x.is_inference() else x for x in args))

    def __reduce__(self) -> tuple[Any, ...]:
        # As torch has it for its own: copies and pickles of a model are not compiled.
        return _nothing, ()

    def _meant(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or self.model.training:
            return False
        if kwargs or len(args) != len(self.inputs) or torch.jit.is_tracing():
            return False
        if torch.is_autocast_enabled("cpu") or is_transformed():
            return False
        return all(
            type(x) is Tensor and x.is_cpu and Input.of(x) == wanted
            for x, wanted in zip(args, self.inputs, strict=True)
        )

    def _ready(self, args: tuple[Any, ...]) -> bool:
        """Whether there is something compiled, of the weights that the model has now."""
        if self._compiled is None:
            with self._lock:
                if self._compiled is None:
                    try:
                        self._compile(args)
                    except Exception as error:
                        return self._give_up(f"cannot be compiled: {failure(error)}")
        if any(len(hooks) != count for hooks, count in self._hooks):
            return False
        for table, name, tensor, version in self._slots:
            if table.get(name) is not tensor or tensor._version != version:
                return self._give_up("was compiled with other weights than it has now")
        return True

    def _compile(self, args: tuple[Any, ...]) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self._slots = [
                _Slot(table, name, tensor, tensor._version)
                for module in self.model.modules()
                for table in (module._parameters, module._buffers)
                for name, tensor in table.items()
                if tensor is not None
            ]
            # What was not there when it was compiled would not be called.
            self._hooks = [
                (hooks, len(hooks))
                for module in self.model.modules()
                for hooks in (module._forward_hooks, module._forward_pre_hooks)
            ]
            example = tuple(x.clone() for x in args)
            self._compiled = frozen(sharing_copy(self.model), example)

    def _give_up(self, why: str) -> bool:
        """Takes itself out of the model, for good."""
        if self.model.__dict__.get("_compiled_call_impl") is self:
            self.model._compiled_call_impl = None
            warnings.warn(
                f"the model {why}: it runs uncompiled from now on "
                "(sparse_ops.convert.compile_(model, example) compiles it again)",
                stacklevel=4,
            )
        return False


def _nothing() -> None:
    return None


def route_of(model: nn.Module) -> Route | None:
    """What takes the calls of a model that is compiled; None if it is not."""
    route = model.__dict__.get("_compiled_call_impl")
    return route if isinstance(route, Route) else None


def cannot_compile(example: tuple[Any, ...]) -> str | None:
    """Why a model cannot be compiled for this example, or None if it can."""
    if not all(type(x) is Tensor and x.is_cpu for x in example):
        return "its inputs are not all tensors on the CPU"
    return no_compiler()


def route_(model: nn.Module, inputs: Sequence[Input]) -> nn.Module:
    """Has the model compiled when it is first called with inputs like these; returns it."""
    model._compiled_call_impl = Route(model, inputs)
    return model


def compile_(model: nn.Module, example: Any) -> nn.Module:
    """Compiles a model in place, with its weights as constants, for calls like this one.

    Calls without gradients and in eval mode with inputs of the example's shapes, strides and dtypes
    take what was compiled; all others run as before. So do copies and pickles of the model, and it
    itself once its weights have changed, with a warning: changes through `.data` are not seen.

    Args:
        model: any module, on the CPU.
        example: its input: a tensor, or a tuple of tensors.

    Returns:
        The model.

    Raises:
        ValueError: the example is empty.
        RuntimeError: torch.compile cannot be used here, or computes something else; says why.
    """
    inputs = example_tuple(example)
    if (reason := cannot_compile(inputs)) is not None:
        raise RuntimeError(f"the model cannot be compiled: {reason}")
    route = Route(model, [Input.of(x) for x in inputs])
    try:
        route._compile(inputs)
    except Exception as error:
        raise RuntimeError(f"the model cannot be compiled: {failure(error)}") from error
    model._compiled_call_impl = route
    return model
