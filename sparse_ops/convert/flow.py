"""Flow: channels followed through a model's graph, from where they are made to what reads them.

Whatever is not known here (`channel_ops.py` lists what is) keeps the channels that it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from sparse_ops.convert.channels import Classes, Value, varying
from sparse_ops.convert.units import Norm, Unit


class Unknown(Exception):
    """What a node does to channels is not known; says why."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a tensor, which the model's code asked for."""

    value: Value


Handler = Callable[["Flow", fx.Node, Any], "Value | Sizes | None"]


@dataclass(eq=False)
class Flow:
    """What is known of every tensor of a graph, and the units on the way.

    Attributes:
        shapes: of every tensor, when the model ran on the example.
        others: what nodes that are no tensors gave.
        units: by weight.
        norms: by module: (the BatchNorm, the ids of its channels).
        read: the parameters that the model's own code reads.
    """

    model: nn.Module
    shapes: dict[fx.Node, tuple[int, ...]]
    others: dict[fx.Node, Any]
    classes: Classes = field(default_factory=Classes)
    values: dict[fx.Node, Value | Sizes | None] = field(default_factory=dict)
    units: dict[int, Unit] = field(default_factory=dict)
    norms: dict[int, tuple[Any, tuple[int, ...]]] = field(default_factory=dict)
    read: set[int] = field(default_factory=set)

    def value(self, node: Any) -> Value | None:
        found = self.values.get(node) if isinstance(node, fx.Node) else None
        return found if isinstance(found, Value) else None

    def only(self, node: fx.Node) -> Value | None:
        """What is known of the first argument.

        Raises:
            Unknown: other arguments have channels of their own, or it is not there.
        """
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node):
            raise Unknown(f"{label(node)} is called in a way that is not known")
        for other in node.all_input_nodes:
            if other is not first and self.values.get(other) is not None:
                raise Unknown(f"{label(node)} is given more than one tensor with channels")
        return self.value(first)

    def plain(self, argument: Any) -> Any:
        """An argument with what its nodes gave in their place.

        Raises:
            Unknown: a node among it is a tensor.
        """

        def of(node: fx.Node) -> Any:
            if node not in self.others:
                raise Unknown("a tensor is given where a number was expected")
            return self.others[node]

        return fx.node.map_arg(argument, of)

    def channels_at(self, node: Any, axis: int) -> Value:
        """What is known of a tensor; where nothing is, channels that must stay."""
        known = self.value(node)
        if known is not None:
            return known
        count = self.shapes[node][axis]
        ids = self.classes.new(count, f"{label(node)} is no layer's output")
        return Value(ids, varying(count), axis)

    def keep(self, node: fx.Node, reason: str) -> None:
        """Says that everything that a node is given must stay."""
        for other in node.all_input_nodes:
            found = self.values.get(other)
            value = found.value if isinstance(found, Sizes) else found
            if value is not None:
                self.classes.keep(value.ids, reason)

    def written(self, old: Value, new: Value | None) -> None:
        """Says that a tensor was changed in place: under all its names it is the new one now."""
        changed = new or old.with_constant(varying(len(old.ids)))
        for node, value in self.values.items():
            if value is old:
                self.values[node] = changed


def label(node: fx.Node) -> str:
    """What a node is called in messages."""
    if node.op == "call_module":
        return str(node.target)
    return (
        str(getattr(node.target, "__name__", node.target))
        if node.op != "placeholder"
        else ("the model's input")
    )


def writes(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node changes its first argument in place."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    name = label(node)
    inplace = name in ("iadd", "isub", "imul", "itruediv", "setitem")
    return (
        inplace
        or (name.endswith("_") and not name.endswith("__"))
        or bool(node.kwargs.get("inplace"))
    )


def _attribute(model: nn.Module, node: fx.Node) -> Any:
    owner, _, name = str(node.target).rpartition(".")
    return getattr(model.get_submodule(owner), name, None)


def _holders(model: nn.Module, parameter: Tensor) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in model.named_modules()
        if any(parameter is other for other in module._parameters.values())
    }


def hooked(module: Any) -> bool:
    """Whether somebody has hung hooks on a module."""
    return any(
        (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
    )


def unit_of(flow: Flow, name: str, layer: Any) -> Unit:
    """The unit of a layer's weight.

    Raises:
        Unknown: the layer, or one that shares its weight or bias, is not to be changed.
    """
    key = id(layer.weight)
    if key in flow.units:
        return flow.units[key]
    layers = _holders(flow.model, layer.weight)
    for holder_name, holder in layers.items():
        if type(holder) is not type(layer) or getattr(holder, "groups", 1) != getattr(
            layer, "groups", 1
        ):
            raise Unknown(f"{name} shares its weight with {holder_name}, a layer of another kind")
        if hooked(holder):
            raise Unknown(f"{holder_name} has hooks, which may read any channel")
        if any(id(parameter) in flow.read for parameter in holder._parameters.values()):
            raise Unknown(f"the model's code reads the weight of {holder_name} itself")
        bias = getattr(holder, "bias", None)
        if bias is not None and not _holders(flow.model, bias).keys() <= layers.keys():
            raise Unknown(f"{holder_name} shares its bias with another layer")
    unit = Unit(layers, flow.classes.new(len(layer.weight)))
    flow.units[key] = unit
    return unit


def norm_ids(flow: Flow, name: str, norm: Norm, x: Value) -> None:
    """Remembers the channels of a BatchNorm; joins them where it is called twice.

    Raises:
        Unknown: it shares a parameter.
    """
    for parameter in norm._parameters.values():
        if parameter is not None and len(_holders(flow.model, parameter)) > 1:
            raise Unknown(f"{name} shares a parameter with another module")
    if any(id(tensor) in flow.read for tensor in (*norm.parameters(), *norm.buffers())):
        raise Unknown(f"the model's code reads the parameters of {name} itself")
    if hooked(norm):
        raise Unknown(f"{name} has hooks, which may read any channel")
    if id(norm) in flow.norms:
        flow.classes.join(flow.norms[id(norm)][1], x.ids)
    else:
        flow.norms[id(norm)] = norm, x.ids


def follow(
    model: nn.Module,
    graph: fx.Graph,
    shapes: dict[fx.Node, tuple[int, ...]],
    others: dict[fx.Node, Any],
    handler_of: Callable[[fx.Node, Any], Handler | None],
) -> Flow:
    """Follows all channels through a graph.

    Args:
        model: in eval mode; not changed.
        handler_of: what knows a node: (node, its module or None) -> handler, or None.
    """
    flow = Flow(model, shapes, others)
    flow.read = {id(_attribute(model, n)) for n in graph.nodes if n.op == "get_attr"}
    for node in graph.nodes:
        if node.op == "output":
            flow.keep(node, "the model gives it out")
            continue
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if node.op in ("placeholder", "get_attr"):
            flow.values[node] = None
            continue
        before = flow.value(node.args[0]) if node.args else None
        try:
            if module is not None and hooked(module):
                raise Unknown(f"{label(node)} has hooks, which may read any channel")
            handler = handler_of(node, module)
            if handler is None:
                kind = type(module).__name__ if module is not None else "its own code"
                raise Unknown(f"it goes into {label(node)} ({kind}), which is not known here")
            result = handler(flow, node, module)
        except Unknown as reason:
            _give_up(flow, node, module, str(reason))
            result = None
        except Exception as error:
            # Whatever somebody's code does that was not thought of here: the channels stay.
            _give_up(flow, node, module, f"{label(node)} cannot be followed: {error!r:.200}")
            result = None
        if before is not None and writes(node, module):
            flow.written(before, result if isinstance(result, Value) else None)
        flow.values[node] = result
    return flow


def _give_up(flow: Flow, node: fx.Node, module: Any, reason: str) -> None:
    """Keeps what a node is given, and what its module was given and gave in other calls."""
    flow.keep(node, reason)
    unit = flow.units.get(id(getattr(module, "weight", None)))
    if unit is not None:
        unit.refuse(flow.classes, None, reason)
    if id(module) in flow.norms:
        flow.classes.keep(flow.norms[id(module)][1], reason)
