"""What is known of the channels of a graph while its nodes are gone through."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sparse_ops.graph.channel_classes import Channels, Classes, varying
from sparse_ops.graph.channel_layers import Layer, Rows, name_of
from sparse_ops.graph.ir import Graph, Node, Value

LAYERS = ("conv2d", "linear")


class Unknown(Exception):
    """What a node does to channels is not known; says why."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a value, which the model's code asked for."""

    channels: Channels


@dataclass(frozen=True)
class Count:
    """How many channels a value has, which the model's code asked for."""

    channels: Channels


Known = Channels | Sizes | Count | None
Rule = Callable[["Analysis", Node], Known]


@dataclass(eq=False)
class Analysis:
    """What is known of every value of a graph, and what has rows or columns for its channels.

    Attributes:
        known: by the id of the value.
        layers: by the id of the weight.
        rows: by the id of the first parameter.
        holders: the id of a tensor -> the layers that hold it.
        elsewhere: the id of a tensor -> what else in the model holds it, in words.
        even: parts of values that must keep equally many channels each.
    """

    graph: Graph
    classes: Classes = field(default_factory=Classes)
    known: dict[int, Known] = field(default_factory=dict)
    layers: dict[int, Layer] = field(default_factory=dict)
    rows: dict[int, Rows] = field(default_factory=dict)
    holders: dict[int, list[Node]] = field(default_factory=dict)
    elsewhere: dict[int, str] = field(default_factory=dict)
    even: list[list[tuple[int, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        own = set()
        # What PyTorch runs as it is may read all that it holds.
        called = {n.module for n in self.graph.nodes if n.op == "call" and n.module is not None}
        read: set[str] = set()
        for node in self.graph.nodes:
            if is_attribute(node):
                assert node.call is not None
                read.add(node.call.target)
            elif node.op != "call":
                own.add(node.module)
            for tensor in node.parameters.values():
                self.holders.setdefault(id(tensor), []).append(node)
        for name, module in self.graph.root.named_modules():
            if name in own:
                continue
            for key, tensor in (*module._parameters.items(), *module._buffers.items()):
                inside = any(f"{name}.".startswith(f"{each}.") for each in called)
                if inside or (f"{name}.{key}" if name else key) not in read:
                    self.elsewhere.setdefault(id(tensor), name or type(module).__name__)

    def channels(self, value: Value) -> Channels | None:
        """What is known of a value's channels; None: nothing, they are as they are."""
        found = self.known.get(id(value))
        return found if isinstance(found, Channels) else None

    def only(self, node: Node) -> Channels | None:
        """What is known of the first input.

        Raises:
            Unknown: other inputs have channels of their own, or there is none.
        """
        if not node.inputs:
            raise Unknown(f"{label(node)} is called in a way that is not known")
        for other in node.inputs[1:]:
            if other is not node.inputs[0] and self.known.get(id(other)) is not None:
                raise Unknown(f"{label(node)} is given more than one tensor with channels")
        return self.channels(node.inputs[0])

    def channels_at(self, value: Value, axis: int) -> Channels:
        """What is known of a value; where nothing is, channels that must stay."""
        known = self.channels(value)
        if known is not None:
            return known
        assert value.shape is not None
        where = "the model's input" if value.producer is None else label(value.producer)
        ids = self.classes.new(value.shape[axis], f"{where} is no layer's output")
        return Channels(ids, varying(len(ids)), axis)

    def keep(self, values: list[Value], reason: str) -> None:
        """Says that all channels of some values must stay."""
        for value in values:
            found = self.known.get(id(value))
            channels = found.channels if isinstance(found, Sizes | Count) else found
            if channels is not None:
                self.classes.keep(channels.ids, reason)

    def check_alone(self, node: Node, names: tuple[str, ...], sharing: list[Node]) -> None:
        """Raises Unknown if others than these nodes have a parameter of a node."""
        for name in names:
            if (tensor := node.parameters.get(name)) is None:
                continue
            if (other := self.elsewhere.get(id(tensor))) is not None:
                raise Unknown(f"{other} reads the {name} of {name_of(node)}, too")
            for holder in self.holders[id(tensor)]:
                if any(holder is own for own in sharing):
                    continue
                if is_attribute(holder):
                    reader = "the model's own code"
                    raise Unknown(f"{reader} reads the {name} of {name_of(node)}, too")
                else:
                    raise Unknown(f"{name_of(node)} shares its {name} with {name_of(holder)}")

    def layer_of(self, node: Node) -> Layer:
        """The layer that a node belongs to.

        Raises:
            Unknown: it, or one that shares its weight, is not to be changed.
        """
        if node.attributes["packed"] is not None:
            raise Unknown(f"{name_of(node)} is packed already")
        if node.attributes["residual"]:
            raise Unknown(f"{name_of(node)} adds another tensor itself")
        key = id(node.parameters["weight"])
        if key in self.layers:
            return self.layers[key]
        nodes = self.holders[key]
        groups = node.attributes.get("groups", 1)
        for other in nodes:
            if (other.op, other.attributes.get("groups", 1)) != (node.op, groups):
                raise Unknown(
                    f"{name_of(node)} shares its weight with {name_of(other)}, "
                    "a layer of another kind"
                )
            if (module := module_of(self.graph, other)) is not None and hooked(module):
                raise Unknown(f"{name_of(other)} has hooks, which may read any channel")
            self.check_alone(other, ("weight", "bias"), nodes)
        if node.op == "conv_transpose2d" and (groups, *node.attributes["shape"][:2]) not in (
            (1, *node.attributes["shape"][:2]),
            (groups, groups, 1),
        ):
            raise Unknown(f"{name_of(node)} is transposed, and in groups")
        layer = Layer(tuple(nodes), ())
        layer.outputs = self.classes.new(len(layer.turned))
        self.layers[key] = layer
        return layer

    def rows_of(self, node: Node, ids: tuple[int, ...] | None, axis: int = 0) -> Rows:
        """The rows of a BatchNorm or a constant; joins the channels where it is called twice.

        Args:
            ids: of its channels; None: they are its own.
            axis: which dimension of its parameters they are.

        Raises:
            Unknown: another module shares a parameter.
        """
        names = tuple(node.parameters)
        first = self.holders[id(node.parameters[names[0]])]
        mine = [other for other in first if (other.op, other.module) == (node.op, node.module)]
        self.check_alone(node, names, mine)
        key = id(node.parameters[names[0]])
        if key not in self.rows:
            count = node.parameters[names[0]].shape[axis]
            own = self.classes.new(count) if ids is None else ids
            self.rows[key] = Rows(tuple(mine), own, axis)
        elif ids is not None:
            self.classes.join(self.rows[key].ids, ids)
        return self.rows[key]

    def give_up(self, node: Node, reason: str) -> None:
        """Keeps what a node is given, and what its parameters were given and gave elsewhere."""
        self.keep(node.inputs, reason)
        for tensor in node.parameters.values():
            if (layer := self.layers.get(id(tensor))) is not None:
                layer.refuse(self.classes, None, reason)
            if (rows := self.rows.get(id(tensor))) is not None:
                self.classes.keep(rows.ids, reason)


def is_attribute(node: Node) -> bool:
    """Whether a node is a tensor of the model, which its code reads."""
    return node.call is not None and node.call.kind == "attribute"


def label(node: Node) -> str:
    """What a node is called in messages."""
    if node.module is not None:
        return node.module
    if node.call is None:
        about = node.attributes
        return str(about.get("operator") or about.get("function") or node.op)
    return str(getattr(node.call.target, "__name__", node.call.target))


def module_of(graph: Graph, node: Node) -> nn.Module | None:
    """The module that a node calls, or None."""
    if node.module is not None:
        return graph.root.get_submodule(node.module)
    return None


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
