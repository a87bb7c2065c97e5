"""Capture: from a model and an example to a Graph, by one trace and one run.

torch.fx traces; a module that it cannot trace is one node. What the model's code writes in place
becomes a new value here, where it can be told what else sees it; else there is no graph.
"""

import operator
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sparse_ops.graph.ir import Call, Graph, Node, Place, Value, attribute_of, mapped
from sparse_ops.graph.kept import keepers, touched
from sparse_ops.graph.ops import OPS, meaning_of
from sparse_ops.graph.reads import reads_of
from sparse_ops.graph.running import (
    Run,
    copied_example,
    drawing,
    first_run,
    kept_as_it_is,
    on_other_buffers,
    same_outputs,
    seeded,
)
from sparse_ops.graph.shuffles import join_shuffles
from sparse_ops.graph.spelling import Spelled, exchanged
from sparse_ops.graph.stand_ins import asked
from sparse_ops.graph.trace import trace
from sparse_ops.graph.uncaptured import (
    Uncaptured,
    check_arguments,
    check_hooks,
    is_hooked,
    keep_constants_,
)
from sparse_ops.nn import SparseLayer
from sparse_ops.nn._folded import Folded

__all__ = ["LEAVES", "Uncaptured", "capture", "erase_unused_"]

LEAVES = (SparseLayer, Folded)
# What gives its input, in eval mode.
_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, torch.dropout)
_SAME_METHODS = ("contiguous", "clone", "detach")
# What only asks, or cuts: of no use once nobody uses what it gives.
_PURE = (
    "size", "dim", "chunk", "split", "split_with_sizes", "getattr", "getitem", "view",
    "reshape", "transpose", "permute", "swapaxes",
)  # fmt: skip
# What gives a tensor that is nobody else's.
_FRESH = (
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
    F.linear, F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm, torch.matmul, torch.bmm,
    torch.cat, torch.stack, torch.einsum,
)  # fmt: skip
_CHANGING = ("iadd", "isub", "imul", "itruediv", "setitem")
_SETTING = ("setitem", "__setitem__")


class _Recorder(fx.Interpreter):
    """Runs a graph and remembers what each node gave, but for the tensors themselves."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Value] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.values[n] = _about(result)
        return result


def _about(result: Any) -> Value:
    if isinstance(result, Tensor):
        return Value(tuple(result.shape), result.dtype)
    if isinstance(result, tuple | list) and result and all(isinstance(r, Tensor) for r in result):
        return Value(None, None, tuple(tuple(r.shape) for r in result))
    plain = isinstance(result, int | float | str | tuple | list | torch.Size)
    return Value(None, None, result if plain else None)


def capture(
    model: nn.Module,
    example: Sequence[Any],
    known: Run | None = None,
    *,
    keep_unused: bool = False,
) -> Graph:
    """The graph of a model in eval mode.

    Args:
        model: not changed; the graph's layers have its tensors.
        example: its positional arguments.
        known: a run of the model with them; without, it runs once more.
        keep_unused: whether what the model's code works out and does not use is in the graph, too:
            it runs all the same, and has to when layers have other widths.

    Raises:
        Uncaptured: it cannot be traced, or its graph does not run or gives something else.
    """
    known = known or first_run(model, example)
    own = keepers(model, known.kept)
    if own is None:
        raise Uncaptured(f"its forward keeps something from call to call: {known.kept[0]}")
    with (
        kept_as_it_is(model) as changed,
        on_other_buffers(model),
        drawing() as drawn,
        reads_of(model) as reads,
    ):
        traced, note = trace(model, LEAVES, example, own)
        if traced is None:
            raise Uncaptured(str(note))
        if drawn():
            raise Uncaptured("its forward draws random numbers that a trace would keep")
        runnable = fx.GraphModule(model, traced)
    if (name := touched(own, reads, changed)) is not None:
        raise Uncaptured(f"its forward keeps something from call to call: {name}")
    keep_constants_(model, traced, runnable)
    recorder = _Recorder(runnable)
    with seeded(), kept_as_it_is(model), on_other_buffers(model):
        try:
            given = recorder.run(*copied_example(example))
        except Exception as error:
            raise Uncaptured(f"the model's graph does not run ({error!r:.200})") from error
    if not same_outputs(given, known.output):
        raise Uncaptured("the model's code does something else when it is traced")
    check_arguments(traced)
    check_hooks(model, traced)
    graph = _Building(model, traced, recorder.values, len(example), known.output).graph
    erase_unused_(graph, tensors=not keep_unused)
    graph.notes += [note] if note else []
    if own:
        names = ", ".join(own)
        graph.notes.append(f"keeps something from call to call, so its own code runs: {names}")
    return graph.verify()


class _Building:
    """A graph in the making, and what is known of the memory of its values."""

    def __init__(
        self,
        model: nn.Module,
        traced: fx.Graph,
        values: dict[fx.Node, Value],
        given: int,
        output: Any,
    ) -> None:
        self.graph, self.model, self.values, self.count = Graph(model), model, values, given
        # Values; and of arguments that are left out, what they are then.
        self.env: dict[fx.Node, Any] = {}
        # What memory a value may be in: numbers, those of views are their owners'.
        self.memory: dict[int, set[int]] = {}
        self.given: set[int] = set()
        self.names: set[str] = set()
        self.last_use = {node: i for i, n in enumerate(traced.nodes) for node in n.all_input_nodes}
        for place, node in enumerate(traced.nodes):
            if node.op == "output":
                self.graph.output = self._output(node.args[0], output)
            else:
                self._add(node, place)
        join_shuffles(self.graph)
        # What is the same in each call stands first: it is in nobody's way.
        self.graph.nodes.sort(key=lambda node: node.output.of_batch)

    def _add(self, node: fx.Node, place: int) -> None:
        value = self.values[node]
        if node.op == "placeholder" and len(self.graph.inputs) == self.count:
            # The example leaves it out: calls that give it are others.
            self.env[node] = value.plain
        elif node.op == "placeholder":
            self.graph.inputs.append(value)
            self.graph.names.append(str(node.target))
            self._own(node, value)
            self.given.add(id(value))
        elif node.op == "get_attr":
            held = attribute_of(self.model, str(node.target))
            own = {"value": held} if isinstance(held, Tensor) else {}
            call = Call("attribute", node.target)
            self.graph.add("call", self._name(node), [], value, call=call, parameters=own)
            value.of_batch = False
            self._own(node, value)
            self.given.add(id(value))
        else:
            self._call(node, value, place)

    def _output(self, traced: Any, given: Any) -> Any:
        """What the model gives, in the kinds of lists and tables in which it gave it.

        Raises:
            Uncaptured: there is one of another kind.
        """
        if isinstance(traced, fx.Node):
            return self.env[traced]
        if type(given) in (dict, OrderedDict) and isinstance(traced, dict):
            return type(given)((key, self._output(traced[key], given[key])) for key in given)
        pairs = zip(traced, given, strict=True) if isinstance(traced, list | tuple) else ()
        inner = [self._output(*pair) for pair in pairs]
        if type(given) in (list, tuple) and isinstance(traced, list | tuple):
            return type(given)(inner)
        if isinstance(given, tuple) and hasattr(given, "_fields") and type(given) is type(traced):
            return type(given)(*inner)
        if isinstance(traced, list | tuple | dict):
            raise Uncaptured(f"it gives a {type(given).__name__}, which a trace does not keep")
        return traced

    def _own(self, node: fx.Node, value: Value) -> None:
        self.env[node] = value
        self.memory[id(value)] = {id(value)}

    def _name(self, node: fx.Node) -> str:
        name = str(node.target) if node.op == "call_module" else node.name
        while name in self.names:
            name += "'"
        self.names.add(name)
        return name

    def _call(self, node: fx.Node, value: Value, place: int) -> None:
        if node.target is asked:
            self._mark_asked(node)
            return
        module = self.model.get_submodule(str(node.target)) if node.op == "call_module" else None
        written = _written(node, module)
        if written is not None:
            self._check_written(node, written, place)
        if _does_nothing(node, module):
            first = node.args[0]
            assert isinstance(first, fx.Node)
            self.env[node] = self.env[first]
            return
        made = self._node(node, module, value)
        value.of_batch = any(read.of_batch for read in made.inputs)
        owners = (
            set()
            if (made.op in OPS and not OPS[made.op].is_view) or node.target in _FRESH
            else {owner for read in made.inputs for owner in self.memory[id(read)]}
        )
        self.memory[id(value)] = owners | {id(value)}
        self.env[node] = value
        if written is not None:
            old = self.env[written]
            self.memory[id(value)] |= self.memory[id(old)]
            for other, known in self.env.items():
                if known is old:
                    self.env[other] = value

    def _node(self, node: fx.Node, module: nn.Module | None, value: Value) -> Node:
        args = mapped(node.args, fx.Node, lambda n: self.env[n])
        kwargs = mapped(node.kwargs, fx.Node, lambda n: self.env[n])
        target = None if module is not None else node.target
        name = self._name(node)
        where = str(node.target) if module is not None else None
        if isinstance(module, Folded) and module.act is not None and not is_hooked(module):
            # What it still does.
            module, where = module.act, f"{where}.act"
        hooked = module is not None and is_hooked(module)
        found = None if hooked else meaning_of(Spelled(module, target, args, kwargs, value.shape))
        if found is not None and value.shape is not None:
            op, meaning = found
            evaluated = OPS[op].evaluate is not None
            return self.graph.add(
                op,
                name,
                meaning.inputs,
                value,
                attributes=dict(meaning.attributes),
                parameters=dict(meaning.parameters),
                call=None if evaluated else _calling(node, [*meaning.inputs], self.env),
                module=where,
            )
        inputs = [v for n in node.all_input_nodes if isinstance(v := self.env[n], Value)]
        inputs = list({id(v): v for v in inputs}.values())
        return self.graph.add(
            "call", name, inputs, value, call=_calling(node, inputs, self.env), module=where
        )

    def _mark_asked(self, node: fx.Node) -> None:
        """Marks the tensors whose sizes decided what the model's code does."""
        left = [self.env[each] for each in node.all_input_nodes]
        while left:
            value = left.pop()
            if not isinstance(value, Value):
                continue
            value.is_asked = value.shape is not None
            if value.shape is None and value.producer is not None:
                left += value.producer.inputs

    def _check_written(self, node: fx.Node, written: fx.Node, place: int) -> None:
        """Raises Uncaptured unless nothing else may see what a node changes in place."""
        old = self.env[written]
        where = f"{node.name} changes what it is given in place"
        if str(getattr(node.target, "__name__", node.target)) in _SETTING:
            raise Uncaptured(f"{where}, in part")
        if self.memory[id(old)] & self.given:
            raise Uncaptured(f"{where}: an input of the model, or a tensor that it holds")
        for other, known in self.env.items():
            if not isinstance(known, Value):
                continue
            shares = known is not old and self.memory[id(known)] & self.memory[id(old)]
            if shares and self.last_use.get(other, -1) > place:
                raise Uncaptured(f"{where}, which {other.name} may share")


def _calling(node: fx.Node, inputs: list[Value], env: dict[fx.Node, Any]) -> Call:
    """The call that a node of torch.fx is, with places for these inputs."""
    numbers = {id(value): number for number, value in enumerate(inputs)}

    def placed(n: fx.Node) -> Any:
        return Place(numbers[id(env[n])]) if isinstance(env[n], Value) else env[n]

    args, kwargs = mapped(node.args, fx.Node, placed), mapped(node.kwargs, fx.Node, placed)
    return Call(node.op.removeprefix("call_"), node.target, tuple(args), dict(kwargs))


def _name_of(target: Any) -> str:
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"


def _does_nothing(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node gives its first argument as it is."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    if module is not None:
        if isinstance(module, Folded) and isinstance(module.act, Folded):
            # Layers do both.
            return module.act.act is None and not is_hooked(module.act)
        if isinstance(module, Folded):
            return module.act is None
        if exchanged(module) is not None:
            return False
        return type(module) in _IDENTITIES and not module.training and not is_hooked(module)
    if node.op == "call_method":
        return node.target in _SAME_METHODS
    if _name_of(node.target) == "torchvision.ops.stochastic_depth.stochastic_depth":
        given = dict(zip(("p", "mode", "training"), node.args[1:], strict=False))
        return (given | dict(node.kwargs)).get("training", True) is False
    if node.target in _DROPOUTS:
        given = dict(zip(("p", "training"), node.args[1:], strict=False)) | dict(node.kwargs)
        return given.get("training", given.get("train", True)) is False
    return False


def _written(node: fx.Node, module: nn.Module | None) -> fx.Node | None:
    """What a node changes in place; None if that is nothing.

    Raises:
        Uncaptured: it writes to something that is named otherwise.
    """
    if node.kwargs.get("out") is not None:
        raise Uncaptured(f"{node.name} writes to a tensor that it is given")
    name = str(getattr(node.target, "__name__", node.target))
    if module is not None:
        writes = bool(getattr(module, "inplace", False)) and type(module) not in _IDENTITIES
    else:
        method = name.endswith("_") and not name.endswith("__")
        name = name.strip("_") if name.startswith("__") else name
        inplace = bool(node.kwargs.get("inplace"))
        writes = (name in _CHANGING or method or inplace) and node.target not in _DROPOUTS
    if not writes:
        return None
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) else None


def erase_unused_(graph: Graph, tensors: bool = True) -> None:
    """Takes out of a graph what only asks, or works out something, and nothing uses.

    Args:
        tensors: whether what gives tensors goes, too.
    """
    outputs = {id(value) for value in graph.outputs()}
    for node in reversed(graph.nodes.copy()):
        target = node.call.target if node.call is not None else ""
        name = str(getattr(target, "__name__", target))
        arithmetic = node.output.plain is not None and getattr(operator, name, None) is target
        known = node.op in OPS or name in _PURE or arithmetic
        pure = known or (node.call and node.call.kind == "attribute")
        pure = pure and (tensors or node.output.shape is None)
        if pure and not node.output.users and id(node.output) not in outputs:
            graph.erase(node)
