"""Graph, Node, Value: what a model does, as data.

A graph is nodes in the order that they run. Each reads values and gives one; a value is written
once, so that nothing here changes in place. Layers carry their tensors with them: a pass that
changes a weight gives its node another tensor and leaves the model alone.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(eq=False)
class Value:
    """What a node gives, or an input of the model.

    Attributes:
        shape: as it was on the example; None if it is no tensor.
        dtype: likewise.
        plain: what it was on the example, if it is no tensor: numbers, text, the sizes of tensors.
        producer: the node that gives it; None: an input.
        users: the nodes that read it, each as often as it does.
        of_batch: whether the model's inputs have a part in it; a tensor of the model's own has the
            same size for every batch.
        is_asked: whether the model's code has done one thing or another by its sizes.
    """

    shape: tuple[int, ...] | None
    dtype: torch.dtype | None = None
    plain: Any = None
    producer: "Node | None" = None
    users: list["Node"] = field(default_factory=list)
    of_batch: bool = True
    is_asked: bool = False

    @property
    def rank(self) -> int:
        return -1 if self.shape is None else len(self.shape)


@dataclass(frozen=True)
class Place:
    """In the arguments of a call: where the node's input of this number goes."""

    input: int


@dataclass(frozen=True, eq=False)
class Call:
    """How PyTorch does what a node does.

    Attributes:
        kind: "module", "function", "method" or "attribute".
        target: the module's name, the function, the method's name, or the attribute's name.
        args, kwargs: with a `Place` where an input goes.
    """

    kind: str
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, root: nn.Module, inputs: Sequence[Any]) -> Any:
        """What the call gives for these inputs."""
        args, kwargs = filled(self.args, inputs), filled(self.kwargs, inputs)
        if self.kind == "module":
            return root.get_submodule(self.target)(*args, **kwargs)
        if self.kind == "function":
            return self.target(*args, **kwargs)
        if self.kind == "method":
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return attribute_of(root, self.target)


def mapped(arguments: Any, kind: type[T], change: Callable[[T], Any]) -> Any:
    """Arguments, however deep in lists and tables, with all of a kind changed."""

    if isinstance(arguments, kind):
        return change(arguments)
    if isinstance(arguments, dict):
        inner = [(key, mapped(each, kind, change)) for key, each in arguments.items()]
        return OrderedDict(inner) if isinstance(arguments, OrderedDict) else dict(inner)
    if isinstance(arguments, slice):
        given = arguments.start, arguments.stop, arguments.step
        return slice(*[mapped(each, kind, change) for each in given])
    if isinstance(arguments, tuple) and hasattr(arguments, "_fields"):
        return type(arguments)(*[mapped(each, kind, change) for each in arguments])
    if isinstance(arguments, tuple | list):
        plain = tuple if isinstance(arguments, tuple) else list
        return plain(mapped(each, kind, change) for each in arguments)
    return arguments


def filled(arguments: Any, inputs: Sequence[Any]) -> Any:
    """Arguments with the inputs in their places."""
    return mapped(arguments, Place, lambda place: inputs[place.input])


def attribute_of(root: nn.Module, name: str) -> Any:
    """The attribute of that dotted name."""
    owner, _, last = name.rpartition(".")
    return getattr(root.get_submodule(owner), last)


@dataclass(eq=False)
class Node:
    """One operation.

    Attributes:
        op: an entry of `ops.OPS`; "call" where nothing more is known than how PyTorch does it.
        name: of the module that does it, or what torch.fx calls it; each name stands once.
        inputs: the values that it reads, in order.
        output: the value that it gives.
        attributes: plain data, as the op has it.
        parameters: name -> tensor, as the op has it.
        call: how PyTorch does it; None once a pass has made of the node what the model has not.
        module: the name of the module that it calls, or None.
    """

    op: str
    name: str
    inputs: list[Value]
    output: Value
    attributes: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    call: Call | None = None
    module: str | None = None


class Graph:
    """Nodes in order, and the values that come in and go out.

    Attributes:
        root: the model, in which calls find their modules.
        nodes: in the order that they run.
        inputs: the model's arguments, by position.
        names: what the model calls them.
        output: what the model gives: values in whatever it packs them in.
        notes: what is not as it should be, in words: parts that could not be traced.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self.names: list[str] = []
        self.output: Any = None
        self.notes: list[str] = []

    def add(
        self,
        op: str,
        name: str,
        inputs: Sequence[Value],
        output: Value,
        *,
        before: Node | None = None,
        after: Node | None = None,
        **rest: Any,
    ) -> Node:
        """Adds a node, at the end or beside another one."""
        node = Node(op, name, list(inputs), output, **rest)
        output.producer = node
        for value in node.inputs:
            value.users.append(node)
        place = len(self.nodes)
        if before is not None:
            place = self.nodes.index(before)
        if after is not None:
            place = self.nodes.index(after) + 1
        self.nodes.insert(place, node)
        return node

    def outputs(self) -> list[Value]:
        """The values that go out."""
        found: list[Value] = []
        mapped(self.output, Value, found.append)
        return found

    def only_user(self, value: Value) -> Node | None:
        """The one node that reads a value, if nothing else needs it."""
        alone = len(value.users) == 1 and all(value is not out for out in self.outputs())
        return value.users[0] if alone else None

    def replace(self, old: Value, new: Value) -> None:
        """Everything that uses `old` uses `new`."""
        for user in old.users:
            user.inputs = [new if value is old else value for value in user.inputs]
        new.users += old.users
        old.users = []
        self.output = mapped(self.output, Value, lambda value: new if value is old else value)

    def reread(self, node: Node, inputs: Sequence[Value]) -> None:
        """Gives a node other inputs."""
        for value in node.inputs:
            value.users.remove(node)
        node.inputs = list(inputs)
        for value in node.inputs:
            value.users.append(node)

    def erase(self, node: Node) -> None:
        """Takes out a node whose output nothing uses."""
        used = node.output.users or any(node.output is value for value in self.outputs())
        assert not used, f"{node.name} is still used"
        for value in node.inputs:
            value.users.remove(node)
        self.nodes.remove(node)

    def copy(self) -> "Graph":
        """Another graph of the same model and tensors, to be changed by passes."""
        twin = Graph(self.root)
        twin.names, twin.notes = list(self.names), list(self.notes)
        new: dict[int, Value] = {}

        def own(value: Value) -> Value:
            if id(value) not in new:
                new[id(value)] = Value(*_about(value))
            return new[id(value)]

        twin.inputs = [own(value) for value in self.inputs]
        for node in self.nodes:
            twin.add(
                node.op,
                node.name,
                [own(value) for value in node.inputs],
                own(node.output),
                attributes=dict(node.attributes),
                parameters=dict(node.parameters),
                call=node.call,
                module=node.module,
            )
        twin.output = mapped(self.output, Value, own)
        return twin

    def __reduce__(self) -> Any:
        """As tables, one beside the other: the chain of nodes is longer than recursion may go."""
        values = [*self.inputs, *(node.output for node in self.nodes)]
        number = {id(value): i for i, value in enumerate(values)}
        nodes = [
            (
                node.op,
                node.name,
                [number[id(value)] for value in node.inputs],
                node.attributes,
                node.parameters,
                node.call,
                node.module,
            )
            for node in self.nodes
        ]
        output = mapped(self.output, Value, lambda value: Place(number[id(value)]))
        plain = [_about(value) for value in values]
        return _rebuilt, (self.root, plain, nodes, self.names, output, self.notes)

    def verify(self) -> "Graph":
        """The graph itself; AssertionError if it is not one."""
        seen = {id(value) for value in self.inputs}
        names: set[str] = set()
        for node in self.nodes:
            assert node.name not in names, f"two nodes are called {node.name}"
            assert node.output.producer is node, f"{node.name} does not know its output"
            for value in node.inputs:
                assert id(value) in seen, f"{node.name} reads what is not there yet"
                count = sum(other is value for other in node.inputs)
                assert count == sum(user is node for user in value.users), (
                    f"{node.name} is not rightly among the users of what it reads"
                )
            seen.add(id(node.output))
            names.add(node.name)
        for value in self.outputs():
            assert id(value) in seen, "the model gives what is not there"
        return self

    def named(self, name: str) -> Node:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)

    def __iter__(self) -> Iterator[Node]:
        return iter(tuple(self.nodes))

    def __str__(self) -> str:
        number = {id(v): i for i, v in enumerate([*self.inputs, *(n.output for n in self.nodes)])}
        lines = []
        for node in self.nodes:
            inputs = ", ".join(f"%{number[id(value)]}" for value in node.inputs)
            about = " ".join(f"{k}={v}" for k, v in node.attributes.items())
            lines.append(
                f"%{number[id(node.output)]} {node.output.shape} = {node.op}({inputs}) "
                f"{node.name} {about}".rstrip()
            )
        return "\n".join(lines)


def _about(value: Value) -> tuple[Any, ...]:
    """What a value is, without the nodes about it."""
    return value.shape, value.dtype, value.plain, None, [], value.of_batch, value.is_asked


def _rebuilt(
    root: nn.Module,
    plain: list[tuple[Any, ...]],
    nodes: list[tuple[Any, ...]],
    names: list[str],
    output: Any,
    notes: list[str],
) -> Graph:
    """What `Graph.__reduce__` said."""
    graph = Graph(root)
    graph.names, graph.notes = names, notes
    values = [Value(*each) for each in plain]
    count = len(values) - len(nodes)
    graph.inputs = values[:count]
    for (op, name, inputs, attributes, parameters, call, module), out in zip(
        nodes, values[count:], strict=True
    ):
        graph.add(
            op,
            name,
            [values[i] for i in inputs],
            out,
            attributes=attributes,
            parameters=parameters,
            call=call,
            module=module,
        )
    graph.output = mapped(output, Place, lambda place: values[place.input])
    return graph
