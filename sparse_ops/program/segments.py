"""Segments: a graph cut into programs, and nodes between them that PyTorch runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.graph import ops
from sparse_ops.graph.ir import Graph, Node, Value, mapped
from sparse_ops.ops import _native
from sparse_ops.ops import program as programs
from sparse_ops.ops._program_code import Program
from sparse_ops.passes.layout import refuses
from sparse_ops.program.lower import lower
from sparse_ops.program.watch import tensor_at

LAYERS = ("conv2d", "linear", "conv_transpose2d", "constant")
_COMPILED = _native.compiled_operators("run_program").get("auto")
# By the program's number alone: no constants go through the dispatcher.
_AGAIN = _native.compiled_operators("rerun_program").get("auto")


@dataclass(eq=False)
class Segment:
    """Nodes that are one program.

    Attributes:
        program: what runs.
        encoded: the same as one tensor.
        inputs, outputs: the values that it is given, and gives.
        shapes: what torch.compile has to know of its outputs.
        name, constants: where the model has the encoded program and the constants, of which
            torch.compile and torch.export take no copy then; empty: nowhere.
    """

    program: Program
    encoded: Tensor
    inputs: list[Value]
    outputs: list[Value]
    shapes: Sequence[int]
    name: str = ""
    constants: tuple[str, ...] = ()

    def __call__(self, inputs: Sequence[Tensor], root: nn.Module) -> list[Tensor]:
        given = [x.contiguous() if x.dim() != 4 else x for x in inputs]
        if _COMPILED is not None and _AGAIN is not None and not torch.compiler.is_compiling():
            found: list[Tensor] = _AGAIN(given, self.program.number)
            return found or _COMPILED(given, self.encoded, self.program.constants, ())
        encoded: Tensor = self.encoded
        constants: Sequence[Tensor] = self.program.constants
        if self.name:
            encoded = tensor_at(root, self.name)
            constants = [tensor_at(root, name) for name in self.constants]
        return programs.run(given, encoded, constants, shapes=self.shapes)


Item = Segment | Node


def cut(graph: Graph, orders: Mapping[str, int], piece: int = 0) -> list[Item]:
    """The graph as programs, each as long as it can be, and the nodes between.

    Args:
        orders: node -> the order of what it gives, of all that programs can run.
    """
    runs: list[list[Node]] = [[]]
    items: list[list[Node] | Node] = []
    for node in graph.nodes:
        if node.name in orders and refuses(node) is None:
            runs[-1].append(node)
            continue
        items += [runs[-1], node]
        runs.append([])
    items.append(runs[-1])
    found: list[Item] = []
    for item in items:
        if isinstance(item, Node):
            found.append(item)
        elif any(node.op in LAYERS for node in item):
            found.append(_segment(graph, item, orders, piece))
        else:
            found += item
    return found


def _segment(graph: Graph, nodes: list[Node], orders: Mapping[str, int], piece: int) -> Segment:
    own = {id(node.output) for node in nodes}
    inside = {id(node) for node in nodes}
    given: dict[int, Value] = {}
    for node in nodes:
        for value in node.inputs:
            if id(value) not in own:
                given[id(value)] = value
    out = {id(value) for value in graph.outputs()}
    outputs = [
        node.output
        for node in nodes
        if id(node.output) in out or any(id(user) not in inside for user in node.output.users)
    ]
    inputs = list(given.values())
    # What reads a batch of one for all images cannot run in pieces.
    whole = any(value.shape and value.shape[0] != _batch(graph) for value in inputs)
    program = lower(nodes, inputs, outputs, orders, 0 if whole else piece)
    ranks = [value.rank for value in inputs]
    return Segment(program, program.encoded(), inputs, outputs, programs.formulas(program, ranks))


def _batch(graph: Graph) -> int:
    return next((value.shape[0] for value in graph.inputs if value.shape), 0)


def run(items: Sequence[Item], graph: Graph, root: nn.Module, inputs: Sequence[Any]) -> Any:
    """What the model gives, by its programs and the nodes between."""
    if len(items) == 1 and isinstance(items[0], Segment) and type(graph.output) is Value:
        # One program, one output: nothing is to be looked up.
        whole = items[0]
        if whole.outputs == [graph.output] and whole.inputs == graph.inputs:
            return whole(inputs, root)[0]
    known: dict[int, Any] = {id(value): x for value, x in zip(graph.inputs, inputs, strict=True)}
    for item in items:
        if isinstance(item, Segment):
            found = item([known[id(value)] for value in item.inputs], root)
            for value, y in zip(item.outputs, found, strict=True):
                known[id(value)] = y
        else:
            given = [known[id(value)] for value in item.inputs]
            known[id(item.output)] = ops.evaluate(item, root, given)
    return mapped(graph.output, Value, lambda value: known[id(value)])


def release_all(items: Sequence[Item]) -> None:
    """Forgets what is prepared of these programs."""
    for item in items:
        if isinstance(item, Segment):
            programs.release(item.program.number)
