"""A model whose calls run as programs, where they can, and by its own forward where not.

The model keeps its class, its modules and the names of its tensors. A call without gradients, in
eval mode, with inputs like those that it was planned for is one program, or several with what
PyTorch does between; every other call runs the model's own forward, on the same weights. Programs
read the model's own tensors, and are made anew once those have changed; changes through `.data`
are not seen.
"""

import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import update_wrapper
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparse_ops.graph.ir import Graph, Node
from sparse_ops.nn import SparseLayer
from sparse_ops.ops._program_code import IMAGES, LANES
from sparse_ops.passes.layout import ROOM
from sparse_ops.program.segments import Item, cut, release_all, run

# The attribute of a model that says how it runs.
ATTRIBUTE = "_programs"


class _Held(NamedTuple):
    """A tensor of a model, where it hangs, and how often it had been changed by then."""

    table: Mapping[str, Tensor | None]
    name: str
    tensor: Tensor
    version: int


@dataclass(frozen=True)
class Route:
    """How calls of some sizes run.

    Attributes:
        orders: node -> the order of what it gives.
        piece: images at a time; 0: all.
    """

    orders: Mapping[str, int]
    piece: int = 0

    @property
    def uses_images(self) -> bool:
        return IMAGES in self.orders.values()


@dataclass(eq=False)
class Programs:
    """How a model runs.

    Attributes:
        graph: what it does, fused and packed; its layers have the model's tensors.
        route: for batches that fill blocks of images, or all of them if it has none.
        small: for others.
        shapes: of the example's inputs.
    """

    graph: Graph
    route: Route
    small: Route
    shapes: tuple[tuple[int, ...], ...]
    _made: dict[bool, list[Item]] = field(default_factory=dict)
    _held: list[_Held] = field(default_factory=list)
    _hooks: list[tuple[Any, int]] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.Lock)

    def __deepcopy__(self, memo: Any) -> "Programs":
        import copy

        graph = copy.deepcopy(self.graph, memo)
        return Programs(graph, self.route, self.small, self.shapes)

    def __reduce__(self) -> Any:
        return Programs, (self.graph, self.route, self.small, self.shapes)

    @property
    def is_fixed(self) -> bool:
        """Whether images have to be as large as the example's."""
        return any(node.attributes.get("fixed") for node in self.graph.nodes)

    def fits(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call may run as programs."""
        if kwargs or len(args) != len(self.shapes) or torch.is_grad_enabled() or model.training:
            return False
        if torch.is_autocast_enabled("cpu") or torch.jit.is_tracing():
            return False
        batch = None
        for x, shape in zip(args, self.shapes, strict=True):
            if not isinstance(x, Tensor) or x.dtype is not torch.float32 or not x.is_cpu:
                return False
            if x.dim() != len(shape) or x.shape[1:2] != shape[1:2] or x.numel() == 0:
                return False
            if x.dim() == 2 and x.shape[1:] != shape[1:]:
                return False
            if self._fixed and x.shape[2:] != shape[2:]:
                return False
            batch = x.shape[0] if batch is None else batch
            if x.shape[0] != batch:
                return False
        return True

    def __post_init__(self) -> None:
        self._fixed = self.is_fixed

    def __call__(self, model: nn.Module, args: Sequence[Tensor]) -> Any:
        return run(self.items(model, args[0].shape[0]), self.graph, model, args)

    def items(self, model: nn.Module, batch: int) -> list[Item]:
        """What runs for so many images, of the weights that the model has now."""
        full = not self.route.uses_images or -(-batch // LANES) * LANES <= ROOM * batch
        if torch.compiler.is_compiling():
            route = self.route if full else self.small
            return self._made.get(full) or cut(self.graph, route.orders, route.piece)
        if self._is_stale() or full not in self._made:
            with self._lock:
                if self._is_stale():
                    self._forget()
                    self._look(model)
                if full not in self._made:
                    route = self.route if full else self.small
                    self._made[full] = cut(self.graph, route.orders, route.piece)
        return self._made[full]

    def hooked(self) -> bool:
        """Whether somebody has hung hooks on a module that programs would not call."""
        return any(len(hooks) != count for hooks, count in self._hooks)

    def _is_stale(self) -> bool:
        if not self._held:
            return True
        for table, name, tensor, version in self._held:
            if table.get(name) is not tensor or tensor._version != version:
                return True
        return False

    def _look(self, model: nn.Module) -> None:
        """Takes the model's tensors as they are now."""
        bind(self.graph, model)
        found = []
        for name in {node.module for node in self.graph.nodes if node.module is not None}:
            module = model.get_submodule(name)
            for table in (module._parameters, module._buffers):
                for key, tensor in table.items():
                    if tensor is not None and not tensor.is_inference():
                        found.append(_Held(table, key, tensor, tensor._version))
        self._held = found
        self._hooks = [
            (hooks, len(hooks))
            for module in model.modules()
            if module is not model
            for hooks in (module._forward_hooks, module._forward_pre_hooks)
        ]

    def _forget(self) -> None:
        for items in self._made.values():
            release_all(items)
        self._made = {}

    def __del__(self) -> None:
        # At the interpreter's end the operators may be gone already.
        if not sys.is_finalizing():
            self._forget()


def bind(graph: Graph, model: nn.Module) -> None:
    """Gives the graph's layers the tensors that the model's modules have."""
    graph.root = model
    for node in graph.nodes:
        if node.module is not None and node.parameters:
            _bind(node, model.get_submodule(node.module))


def _bind(node: Node, module: nn.Module) -> None:
    if isinstance(module, SparseLayer):
        node.attributes["packed"] = module.weight
        names = ["values", "bias"]
    elif node.op == "batch_norm":
        names = ["weight", "bias", "running_mean", "running_var"]
    else:
        names = ["weight", "bias"]
    held = {**module._parameters, **module._buffers}
    node.parameters = {name: tensor for name in names if (tensor := held.get(name)) is not None}


def attach_(model: nn.Module, programs: Programs) -> nn.Module:
    """Has a model run as programs, in place; returns it."""
    programs.items(model, programs.shapes[0][0])
    setattr(model, ATTRIBUTE, programs)
    model.__dict__["forward"] = MethodType(_told_as(type(model).forward), model)
    return model


def _told_as(original: Any) -> Any:
    """`forward`, with the name, signature and words of a model's own."""
    own = FunctionType(forward.__code__, forward.__globals__, "forward")
    return update_wrapper(own, original, assigned=("__module__", "__qualname__", "__doc__"))


def detach_(model: nn.Module) -> nn.Module:
    """Has a model run by its own forward alone, in place; returns it."""
    model.__dict__.pop("forward", None)
    model.__dict__.pop(ATTRIBUTE, None)
    return model


def programs_of(model: nn.Module) -> Programs | None:
    """How a model runs as programs; None if it does not."""
    found = model.__dict__.get(ATTRIBUTE)
    return found if isinstance(found, Programs) else None


def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The forward of a model that runs as programs."""
    programs: Programs = self.__dict__[ATTRIBUTE]
    if programs.fits(self, args, kwargs) and not programs.hooked():
        return programs(self, args)
    return type(self).forward(self, *args, **kwargs)
