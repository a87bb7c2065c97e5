"""Stand-ins: what a model's code may ask of a tensor while it is traced, and is answered.

torch.fx hands stand-ins to a model's code, which know nothing of what they stand for. Here the
graph, as far as it has come, runs on tensors without memory, of the example's sizes and of others.
What is the same for all, as how many pieces a tensor is split into, is an answer for all calls.
"""

import logging
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sparse_ops.graph.ir import attribute_of

# What numbers are compared and worked out by.
_ARITHMETIC = (
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.add,
    operator.sub, operator.mul, operator.floordiv, operator.mod, operator.truediv, operator.and_,
    operator.or_, operator.not_,
)  # fmt: skip


def asked(answer: Any) -> Any:
    """Stands in a graph where the model's code has branched by an answer."""
    return answer


def is_of_nested(node: fx.Node) -> bool:
    """Whether a node asks a tensor whether it is a nested one."""
    return node.target is getattr and len(node.args) > 1 and node.args[1] == "is_nested"


class StandIn(fx.Proxy):
    """torch.fx's, which knows how many there are of it, if that is the same for all calls."""

    def __len__(self) -> int:
        tracer: Any = self.tracer
        count: int | None = tracer.count(self.node)
        return super().__len__() if count is None else count


class Answers:
    """What is known of a graph in the making for all calls.

    Args:
        model: which it is traced from.
        example: its positional arguments.
    """

    def __init__(self, model: nn.Module, example: Sequence[Any]) -> None:
        self._run = _Sizes(model, example)
        self._others = [_Sizes(model, other) for other in _other_sizes(example)]

    def count(self, node: fx.Node) -> int | None:
        """How many there are of what a node gives; None if that is not sure."""
        return self._same(node, lambda value: len(value) if isinstance(value, tuple | list) else 0)

    def truth(self, node: fx.Node) -> bool | None:
        """Whether what a node gives holds in all calls, or in none; None if that is not sure."""
        value = self._run.value(node)
        return value if type(value) is bool and self._is_fixed(node) else None

    def _same(self, node: fx.Node, of: Any) -> Any:
        """What is asked of a node's value, if it is the same for all sizes; else None."""
        wanted = of(self._run.value(node))
        found = [other.value(node) for other in self._others]
        # Sizes that the model does not take say nothing.
        known = [of(value) for value in found if value is not None]
        return (wanted or None) if known and all(each == wanted for each in known) else None

    def _is_fixed(self, node: Any) -> bool:
        """Whether a number is made of sizes that are the same in all calls."""
        if not isinstance(node, fx.Node):
            return True
        if node.op == "call_function" and node.target in _ARITHMETIC:
            return all(map(self._is_fixed, node.args))
        return self._same(node, lambda value: value if type(value) is int else None) is not None


class _Sizes:
    """A graph in the making, run on tensors that have no memory."""

    def __init__(self, model: nn.Module, example: Sequence[Any]) -> None:
        self.model, self.example = model, example
        self.known: dict[fx.Node, Any] = {}

    @cached_property
    def mode(self) -> FakeTensorMode:
        """What makes tensors without memory: most models never ask, and it takes long."""
        return FakeTensorMode(allow_non_fake_inputs=True)

    def value(self, node: fx.Node) -> Any:
        """What a node gives; None if it gives that, or cannot run."""
        with self.mode, torch.no_grad(), _unlogged():
            for other in node.graph.nodes:
                if other not in self.known:
                    self.known[other] = self._result(other)
                if other is node:
                    break
        result = self.known[node]
        return None if isinstance(result, _Failed) else result

    def _result(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            place = sum(1 for each in self.known if each.op == "placeholder")
            if place < len(self.example):
                return tree_map_only(Tensor, self.mode.from_tensor, self.example[place])
            return node.args[0] if node.args else _Failed()
        if node.op == "get_attr":
            return attribute_of(self.model, str(node.target))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.known.__getitem__)
        if any(isinstance(self.known[each], _Failed) for each in node.all_input_nodes):
            return _Failed()
        # It runs somebody's code on sizes that may be none for it.
        try:
            if node.op == "call_module":
                return self.model.get_submodule(str(node.target))(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception:
            return _Failed()


@contextmanager
def _unlogged() -> Iterator[None]:
    """Inside, sizes that a model does not take are no errors that torch logs."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


class _Failed:
    """A value that could not be worked out."""


def _other_sizes(example: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Examples with one more in the batch, and all other sizes but that of channels doubled.

    Of tensors of three dimensions, channels may be the second or the last.
    """

    def larger(x: Tensor, axis: int) -> Tensor:
        sizes = [x.shape[0] + 1, *(2 * size for size in x.shape[1:])] if x.dim() else []
        if x.dim() > 1:
            sizes[axis] = x.shape[axis]
        # One number, however large: only the sizes are looked at.
        return x.new_zeros(()).expand(sizes)

    ranks = [x.dim() for x in tree_leaves(tuple(example)) if isinstance(x, Tensor)]
    axes = (1, -1) if 3 in ranks else (1,)
    return [tree_map_only(Tensor, partial(larger, axis=axis), tuple(example)) for axis in axes]
