"""A model whose calls run as programs, where they can, and by its own forward where not.

The model keeps its class, its modules and the names of its tensors. A call without gradients, in
eval mode, with inputs like those that it was planned for is one program, or several with what
PyTorch does between; every other call runs the model's own forward, on the same weights. Programs
read the model's own tensors, and are made anew once those have changed; of changes through `.data`
those are seen that exchange a tensor, or touch one of a few values that each call looks at.

`torch.compile`, `torch.export` and AOTInductor take a program as one call of one operator, which
reads the model's own tensors. What follows from them, the program's number and what BatchNorms
multiply by, is as the last call outside of them left it: after weights have changed, call the model
once, or compile it anew. An exported model has the weights of its export.
"""

import inspect
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.graph.ir import Graph, Node
from sparse_ops.nn import SparseLayer
from sparse_ops.ops._program_code import IMAGES, LANES
from sparse_ops.ops._transforms import is_transformed, is_watched
from sparse_ops.passes.layout import ROOM
from sparse_ops.program.live import Live
from sparse_ops.program.segments import Item, Segment, cut, release_all, run
from sparse_ops.program.sources import Held, sources_of
from sparse_ops.program.watch import (
    Watched,
    code_name,
    drop_kept_,
    keep_,
    name_of,
    watched,
)

# The attribute of a model that says how it runs.
ATTRIBUTE = "_programs"
# Sizes of inputs that are known to fit.
MOST_SIZES = 256


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
        live: what the graph takes for granted of the model's modules.
        sizes_fixed: whether batches and images have to be as large as the example's.
    """

    graph: Graph
    route: Route
    small: Route
    shapes: tuple[tuple[int, ...], ...]
    live: Live
    sizes_fixed: bool = False
    _made: list[list[Item]] = field(default_factory=list)
    _held: list[Watched] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.Lock)

    def __reduce__(self) -> Any:
        about = self.graph, self.route, self.small, self.shapes, self.live, self.sizes_fixed
        return Programs, about

    @property
    def is_fixed(self) -> bool:
        """Whether images have to be as large as the example's."""
        return any(node.attributes.get("fixed") for node in self.graph.nodes)

    def given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """The arguments of a call in the order of the graph's inputs, where it has just these."""
        names = self.graph.names[len(args) :]
        if kwargs and kwargs.keys() == set(names):
            return (*args, *[kwargs[name] for name in names])
        return () if kwargs else args

    def fits(self, model: nn.Module, args: Sequence[Any]) -> bool:
        """Whether a call with these inputs may run as programs."""
        if len(args) != len(self.shapes) or torch.is_grad_enabled() or model.training:
            return False
        if torch.is_autocast_enabled("cpu") or torch.jit.is_tracing():
            return False
        if torch.compiler.is_compiling():
            # Copied or unpickled, and not called since, it has no programs.
            # Of a list, bool() is nothing that Dynamo of torch 2.10 knows.
            runs = len(self._made) > 0 and self.live.held and not is_transformed()
            return runs and self._are_alike(args)
        for x in args:
            # Subclasses of tensors may do something else in each operation.
            if type(x) not in _PLAIN or x.dtype is not torch.float32:
                return False
        if not self.live.holds(model) or is_transformed() or is_watched():
            return False
        sizes = tuple([x.shape for x in args])
        if sizes not in self._known:
            if not self._are_alike(args):
                return False
            if len(self._known) < MOST_SIZES:
                self._known.add(sizes)
        return all([x.is_cpu for x in args])

    def _are_alike(self, args: Sequence[Any]) -> bool:
        """Whether arguments are like those that the model was planned for, but for sizes."""
        batch = None
        for x, shape in zip(args, self.shapes, strict=True):
            if not isinstance(x, Tensor) or x.dtype is not torch.float32:
                return False
            # Not is_cpu, which torch.compile takes for something to compute.
            if x.device.type != "cpu":
                return False
            if x.dim() != len(shape) or x.shape[1:2] != shape[1:2] or x.numel() == 0:
                return False
            if x.dim() == 2 and x.shape[1:] != shape[1:]:
                return False
            if self._fixed and x.shape[2:] != shape[2:]:
                return False
            if self.sizes_fixed and x.shape != shape:
                return False
            batch = x.shape[0] if batch is None else batch
            if x.shape[0] != batch:
                return False
        return True

    def __post_init__(self) -> None:
        self._fixed = self.is_fixed
        # Of inputs, such as fit.
        self._known: set[tuple[Any, ...]] = set()
        self._routes = (self.route, self.small) if self.route.uses_images else (self.route,)

    def __call__(self, model: nn.Module, args: Sequence[Tensor]) -> Any:
        return run(self.items(model, args[0].shape[0]), self.graph, model, args)

    @property
    def routes(self) -> tuple[Route, ...]:
        """Those that calls take."""
        return self._routes

    def items(self, model: nn.Module, batch: int) -> list[Item]:
        """What runs for so many images, of the weights that the model has now."""
        return self.made(model)[self._number_of(batch)]

    def route_of(self, batch: int) -> Route:
        """How so many images run."""
        return self._routes[self._number_of(batch)]

    def _number_of(self, batch: int) -> int:
        full = len(self._routes) == 1 or isinstance(batch, torch.SymInt)
        return 0 if full or -(-batch // LANES) * LANES <= ROOM * batch else 1

    def made(self, model: nn.Module) -> list[list[Item]]:
        """What runs, for each of the routes."""
        if torch.compiler.is_compiling() or not self._is_stale():
            return self._made
        with self._lock:
            if self._is_stale():
                self._forget()
                self._look(model)
                made = [cut(self.graph, route.orders, route.piece) for route in self.routes]
                _keep_constants_(model, self.graph, made)
                self._made = made
        return self._made

    def whole(self, model: nn.Module) -> list[Segment] | None:
        """The one program that each of the routes is; None if they are more."""
        made = self.made(model)
        found = [item for items in made for item in items if isinstance(item, Segment)]
        if any(len(items) != 1 for items in made) or len(found) != len(made):
            return None
        first = found[0]
        alike = all(
            list(map(id, segment.inputs + segment.outputs))
            == list(map(id, first.inputs + first.outputs))
            for segment in found
        )
        return found if alike else None

    def hooked(self) -> bool:
        """Whether somebody has hung hooks on a module that programs would not call."""
        counted = self.live.counted
        return any([len(hooks) != count for hooks, count in counted]) or any(HOOKS_OF_ALL)

    def _is_stale(self) -> bool:
        # As `Watched.has_changed`, without its calls: this is done in each call of the model.
        for table, name, tensor, version in self._held:
            if table.get(name) is not tensor or tensor._version != version:
                return True
        return not self._made

    def _look(self, model: nn.Module) -> None:
        """Takes the model's tensors as they are now."""
        bind(self.graph, model)
        for node in self.graph.nodes:
            for tensor in node.parameters.values():
                if type(tensor) not in _PLAIN or tensor.dtype is not torch.float32:
                    raise RuntimeError(f"{node.name} has a {type(tensor).__name__} for a weight")
        names = {node.module for node in self.graph.nodes if node.module is not None}
        self._held = watched(model.get_submodule(name) for name in names)
        self.live.bind(model)

    def _forget(self) -> None:
        for items in self._made:
            release_all(items)
        self._made = []

    def __del__(self) -> None:
        # At the interpreter's end the operators may be gone already.
        if not sys.is_finalizing():
            self._forget()


def _keep_constants_(model: nn.Module, graph: Graph, made: Sequence[Sequence[Item]]) -> None:
    """Gives segments the names of their constants in the model, where compiled code finds them.

    What is nowhere in the model is put among its buffers, outside of its state dict.
    """
    drop_kept_(model)
    tensors: list[tuple[str, Tensor]] = [*model.named_parameters(remove_duplicate=False)]
    tensors += model.named_buffers(remove_duplicate=False)
    extras: list[Tensor] = []
    segments = [item for items in made for item in items if isinstance(item, Segment)]
    for number, segment in enumerate(segments):
        segment.name = code_name(number)
        keep_(model, segment.name, segment.encoded)
        names = []
        sources = sources_of(segment.program, graph, tensors, extras)
        for source, constant in zip(sources, segment.program.constants, strict=True):
            names.append(name_of(source))
            if not isinstance(source, Held):
                keep_(model, names[-1], constant)
        segment.constants = tuple(names)


def bind(graph: Graph, model: nn.Module) -> None:
    """Gives the graph's layers the tensors that the model's modules have.

    Raises:
        RuntimeError: one of them is no parameter and no buffer any more, as under FSDP.
    """
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
    for name in names:
        if name in node.parameters and held.get(name) is None:
            raise RuntimeError(f"{node.module}.{name} is no parameter and no buffer of it any more")
    node.parameters = {name: tensor for name in names if (tensor := held.get(name)) is not None}


def attach_(model: nn.Module, programs: Programs) -> nn.Module:
    """Has a model run as programs, in place; returns it."""
    setattr(model, ATTRIBUTE, programs)
    # Not a method: of those, pickle would keep no more than the name.
    call: Any = partial(forward, model)
    call.__signature__ = _signature(model)
    model.__dict__["forward"] = call
    programs.made(model)
    return model


def _signature(model: nn.Module) -> inspect.Signature:
    """How the model's own forward is called, which torch.export asks; without annotations."""
    try:
        own = inspect.signature(type(model).forward)
    except (TypeError, ValueError):
        own = inspect.signature(forward)
    plain = [each.replace(annotation=each.empty) for each in own.parameters.values()]
    return inspect.Signature(plain[1:])


def detach_(model: nn.Module) -> nn.Module:
    """Has a model and all in it run by their own forwards alone, in place; returns it."""
    for module in model.modules():
        if programs_of(module) is not None:
            module.__dict__.pop("forward", None)
            module.__dict__.pop(ATTRIBUTE, None)
            drop_kept_(module)
    return model


def programs_of(model: nn.Module) -> Programs | None:
    """How a model runs as programs; None if it does not."""
    found = model.__dict__.get(ATTRIBUTE)
    return found if isinstance(found, Programs) else None


def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The forward of a model that runs as programs."""
    programs: Programs = self.__dict__[ATTRIBUTE]
    given = programs.given(args, kwargs) if kwargs else args
    if programs.fits(self, given) and not programs.hooked():
        if torch.compiler.is_compiling():
            return programs(self, given)
        try:
            return programs(self, given)
        except RuntimeError:
            # Inputs whose sizes go together in another way than the example's, say.
            pass
    return type(self).forward(self, *args, **kwargs)


_PLAIN = (Tensor, nn.Parameter)
# Hooks on all modules that there are.
HOOKS_OF_ALL: tuple[dict[int, Any], ...] = (
    nn.modules.module._global_forward_hooks,
    nn.modules.module._global_forward_pre_hooks,
)
