"""Lowering: from nodes of a graph to a Program."""

import secrets
from collections.abc import Mapping, Sequence

from torch import Tensor

from sparse_ops.graph.ir import Node, Value
from sparse_ops.graph.more_layers import phases_of
from sparse_ops.ops import _program_code as code
from sparse_ops.ops._program_code import CHANNELS, LANES, PLANAR, Program, Step
from sparse_ops.passes.layout import reads
from sparse_ops.program.emit import EMIT


def lower(
    nodes: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    orders: Mapping[str, int],
    piece: int = 0,
) -> Program:
    """The program of some nodes, all of which programs can run.

    Args:
        nodes: in order.
        inputs: what they read and none of them gives; tensors in torch's layout.
        outputs: what is given out.
        orders: node -> the order of what it gives.
        piece: images at a time; 0: all.
    """
    lowering = _Lowering(nodes, orders, outputs)
    for value in inputs:
        lowering.new(value, PLANAR)
    for node in nodes:
        lowering.add(node)
    given = tuple(lowering.value(value, PLANAR) for value in outputs)
    return lowering.program(len(inputs), given, piece)


class _Lowering:
    def __init__(
        self, nodes: Sequence[Node], orders: Mapping[str, int], outputs: Sequence[Value]
    ) -> None:
        self.orders = orders
        self.values: list[code.Value] = []
        self.steps: list[Step] = []
        self.constants: list[Tensor] = []
        self.known: dict[tuple[int, int], int] = {}
        self.given: dict[int, int] = {}
        self.halos = _halos(nodes, orders)
        self.places = _places(nodes, orders)
        self.prelus = _prelus(nodes, orders, outputs)
        self.done = {id(prelu) for prelu in self.prelus.values()}
        # A concatenation's output is numbered with its first part.
        self.wholes: dict[int, int] = {}

    def program(self, inputs: int, outputs: tuple[int, ...], piece: int) -> Program:
        number = secrets.randbits(62)
        values, steps = tuple(self.values), tuple(self.steps)
        return Program(inputs, outputs, values, steps, tuple(self.constants), number, piece)

    def new(self, value: Value, order: int, whole: int = -1, first: int = -1) -> int:
        """The number of a value that is not there yet."""
        halo = 0 if order == PLANAR else self.halos.get((id(value), order), 0)
        self.values.append(code.Value(order, halo, whole, first))
        number = self.known[id(value), order] = len(self.values) - 1
        self.given.setdefault(id(value), number)
        return number

    def value(self, value: Value, order: int) -> int:
        """The number of a value in this order; it is converted if it is in another one."""
        if value.rank != 4:
            order = PLANAR
        if (id(value), order) not in self.known:
            source = self.given[id(value)]
            number = self.new(value, order)
            self.steps.append(Step("convert", number, (source,), name="convert"))
        return self.known[id(value), order]

    def has(self, value: Value, order: int) -> bool:
        """Whether a value is there in this order."""
        return (id(value), order) in self.known

    def source_order(self, value: Value) -> int:
        """The order that a value is in already."""
        return self.values[self.given[id(value)]].order

    def constant(self, tensor: Tensor | None) -> int:
        if tensor is None:
            return -1
        for number, known in enumerate(self.constants):
            if known is tensor:
                return number
        self.constants.append(tensor)
        return len(self.constants) - 1

    def add(self, node: Node) -> None:
        if id(node) not in self.done:
            EMIT[node.op](self, node, _order(node, self.orders))

    def out(self, node: Node, order: int) -> int:
        """The number of what a node gives, as a part of a concatenation where it can be one."""
        place = self.places.get(id(node.output))
        if place is None:
            if id(node.output) in self.wholes:
                number = self.wholes[id(node.output)]
                self.known[id(node.output), order] = number
                self.given[id(node.output)] = number
                return number
            return self.new(node.output, order)
        whole, first = place
        if id(whole) not in self.wholes:
            self.wholes[id(whole)] = self.new(whole, order)
            del self.known[id(whole), order], self.given[id(whole)]
        return self.new(node.output, order, self.wholes[id(whole)], first)

    def step(
        self,
        kind: str,
        node: Node,
        order: int,
        inputs: Sequence[int],
        constants: Sequence[Tensor | None] = (),
        /,
        **attributes: int,
    ) -> None:
        last = self.prelus.get(id(node), node)
        if last is not node:
            attributes["activation"] = code.FUSED_PRELU
            constants = (*constants, last.parameters["weight"])
        numbers = tuple(int(attributes[name]) for name in code.KINDS[kind].attributes)
        held = tuple(self.constant(tensor) for tensor in constants)
        out = self.out(last, order)
        self.steps.append(Step(kind, out, tuple(inputs), held, numbers, node.name))

    def between(
        self,
        kind: str,
        value: Value,
        order: int,
        source: int,
        name: str,
        constants: Sequence[Tensor | None] = (),
        /,
        **attributes: int,
    ) -> int:
        """A step whose output no node gives."""
        numbers = tuple(int(attributes[key]) for key in code.KINDS[kind].attributes)
        held = tuple(self.constant(tensor) for tensor in constants)
        halo = 0 if order == PLANAR else self.halos.get((id(value), order), 0)
        self.values.append(code.Value(order, halo))
        out = len(self.values) - 1
        self.steps.append(Step(kind, out, (source,), held, numbers, name))
        return out


def _order(node: Node, orders: Mapping[str, int]) -> int:
    return orders[node.name] if node.output.rank == 4 else PLANAR


def _prelus(
    nodes: Sequence[Node], orders: Mapping[str, int], outputs: Sequence[Value]
) -> dict[int, Node]:
    """Layer -> the PReLU of one slope that is all that follows it: their step is one."""
    read = [id(value) for node in nodes for value in node.inputs] + [id(v) for v in outputs]
    layers = {id(node.output): node for node in nodes if node.op in ("conv2d", "linear")}
    found = {}
    for node in nodes:
        layer = layers.get(id(node.inputs[0])) if node.op == "prelu" else None
        if layer is None or node.parameters["weight"].numel() != 1:
            continue
        alone = read.count(id(layer.output)) == 1 and layer.attributes["activation"] is None
        if alone and _order(node, orders) == _order(layer, orders):
            found[id(layer)] = node
    return found


def _halos(nodes: Sequence[Node], orders: Mapping[str, int]) -> dict[tuple[int, int], int]:
    """(value, order) -> the widest padding that a convolution reads around it."""
    halos: dict[tuple[int, int], int] = {}
    for node in nodes:
        if node.op not in ("conv2d", "conv_transpose2d") or node.output.rank != 4:
            continue
        key = id(node.inputs[0]), reads(node, orders[node.name])
        transposed = node.op == "conv_transpose2d"
        padding = phases_of(node).padding if transposed else node.attributes["padding"]
        halos[key] = max(halos.get(key, 0), *padding)
    # The parts of a concatenation, and all of it, have the same.
    for node in reversed(nodes):
        if node.op == "concat" and node.output.rank == 4:
            order = orders[node.name]
            keys = [(id(value), order) for value in (node.output, *node.inputs)]
            widest = max(halos.get(key, 0) for key in keys)
            halos.update(dict.fromkeys(keys, widest))
    return halos


def _places(nodes: Sequence[Node], orders: Mapping[str, int]) -> dict[int, tuple[Value, int]]:
    """Value -> the concatenation that it is written into, and its first channel there."""
    producers = {id(node.output): node for node in nodes}
    places: dict[int, tuple[Value, int]] = {}
    wholes: set[int] = set()
    for node in nodes:
        if node.op != "concat":
            continue
        order, first = orders.get(node.name, PLANAR), 0
        for value in node.inputs:
            maker = producers.get(id(value))
            shape = value.shape or ()
            good = (
                maker is not None
                and maker.op not in ("concat", "flatten", "mean")
                and orders.get(maker.name, PLANAR) == order
                and id(value) not in places
                and sum(other is value for other in node.inputs) == 1
                and (order != CHANNELS or first % LANES == 0)
                and value.rank == node.output.rank
            )
            # Behind a part that ends within lanes, the last lanes are written by two.
            last = value is node.inputs[-1]
            if good and (order != CHANNELS or last or shape[1] % LANES == 0):
                places[id(value)] = node.output, first
                wholes.add(id(node.output))
            first += shape[1]
    return places
