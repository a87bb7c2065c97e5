"""Concatenating in the graph: torch.cat([a(x), b(y), z], 1) without a copy of what layers give.

The first packed convolution makes the whole tensor, each writes its channels of it, and what comes
from elsewhere is copied there. As in `fuse`, the model becomes a torch.fx.GraphModule of the same
modules and parameter names.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from sparse_ops.graph.trace import rewritten, trace
from sparse_ops.nn._conv import SparseConv2d
from sparse_ops.nn._folded import Folded
from sparse_ops.nn._height_one import HeightOne
from sparse_ops.planning.fuse import LEAVES

FUNCTIONS = (torch.cat, torch.concat, torch.concatenate)
CHANNELS = (1, -3)


@dataclass(frozen=True)
class Concatenation:
    """A concatenation of channels that packed convolutions write to themselves.

    Attributes:
        parts: for each input in order, the name of the layer that it is the output of, and how many
            channels it has; None for what is copied.
    """

    parts: tuple[tuple[str | None, int], ...]

    @property
    def layers(self) -> tuple[str | None, ...]:
        return tuple(name for name, _ in self.parts)

    @property
    def firsts(self) -> tuple[int, ...]:
        """Where each part begins, and where the last one ends."""
        return tuple(accumulate((channels for _, channels in self.parts), initial=0))


@dataclass(frozen=True, eq=False)
class _Site:
    """A torch.cat in a graph, and for each input the nodes from its layer on; none if copied."""

    node: fx.Node
    chains: tuple[tuple[fx.Node, ...], ...]

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """As they are now: another rewriting may have changed them."""
        return tuple(self.node.args[0] if self.node.args else self.node.kwargs["tensors"])  # type: ignore[arg-type]

    @property
    def layers(self) -> tuple[str | None, ...]:
        return tuple(str(chain[0].target) if chain else None for chain in self.chains)


def find(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> list[Concatenation]:
    """What can be concatenated without a copy in a converted model.

    Args:
        model: not changed.
        shapes: node -> the shape of its result, as `fuse.shapes_of` has it; without, nothing is
            found.
    """
    graph, _ = trace(model, LEAVES)
    found = []
    for site in [] if graph is None else _sites(model, graph):
        sizes = [(shapes or {}).get(part.name, ()) for part in site.inputs]
        if all(len(size) == 4 for size in sizes):
            channels = [size[1] for size in sizes]
            found.append(Concatenation(tuple(zip(site.layers, channels, strict=True))))
    return found


def joined(model: nn.Module, concatenations: Sequence[Concatenation]) -> fx.GraphModule:
    """The model with these concatenations; its layers and tensors are those of `model`.

    Raises:
        ValueError: the model has no place for one of them.
    """
    graph, _ = trace(model, LEAVES)
    sites = {} if graph is None else {site.layers: site for site in _sites(model, graph)}
    for each in concatenations:
        site = sites.pop(each.layers, None)
        wide = all(
            cast(SparseConv2d, model.get_submodule(name)).shape[0] == channels
            for name, channels in each.parts
            if site is not None and name is not None
        )
        if site is None or not wide:
            raise ValueError(f"the model has no place for {each}")
        assert graph is not None
        _rewrite(graph, site, each)
    assert graph is not None
    return rewritten(model, graph)


def concatenations_of(model: nn.Module) -> list[Concatenation]:
    """The concatenations that a model was given by `joined`."""
    if not isinstance(model, fx.GraphModule):
        return []
    found = []
    for node in model.graph.nodes:
        total, _ = node.kwargs.get("into", (None, 0))
        if isinstance(total, int):
            parts = sorted(_parts(model, node, total))
            found.append(Concatenation(tuple((name, count) for _, name, count in parts)))
    return found


def put(whole: Tensor, part: Tensor, first: int, channels: int) -> Tensor:
    """`whole` (N, C, H, W) with `part` (N, channels, H, W) copied to its channels from `first` on.

    Raises:
        ValueError: the part has another number of channels.
    """
    if part.shape[1] != channels:
        raise ValueError(f"a part must have {channels} channels, got {tuple(part.shape)}")
    whole[:, first : first + channels].copy_(part)
    return whole


def _sites(model: nn.Module, graph: fx.Graph) -> Iterator[_Site]:
    uses: dict[Any, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            uses[node.target] = uses.get(node.target, 0) + 1
    for node in graph.nodes:
        if node.op != "call_function" or node.target not in FUNCTIONS:
            continue
        given = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
        parts = given.pop("tensors", None)
        dim = given.pop("dim", given.pop("axis", 0))
        if given or dim not in CHANNELS or not isinstance(parts, list | tuple):
            continue
        if not parts or not all(isinstance(part, fx.Node) for part in parts):
            continue
        chains = tuple(
            _chain(model, part, uses) if parts.count(part) == 1 else () for part in parts
        )
        if any(chains):
            yield _Site(node, chains)


def _chain(model: nn.Module, node: fx.Node, uses: Mapping[Any, int]) -> tuple[fx.Node, ...]:
    """From a packed convolution whose output is used only here to `node`; () if there is none."""
    nodes = [node]
    while len(node.users) == 1 and node.op == "call_module" and uses[node.target] == 1:
        module = model.get_submodule(str(node.target))
        if isinstance(module, SparseConv2d) and not isinstance(module, HeightOne):
            alone = len(node.args) == 1 and not node.kwargs.keys() - {"residual"}
            return tuple(reversed(nodes)) if alone else ()
        if not (isinstance(module, Folded) and module.act is None):
            return ()
        (before,) = node.args
        assert isinstance(before, fx.Node)
        node = before
        nodes.append(node)
    return ()


def _rewrite(graph: fx.Graph, site: _Site, concatenation: Concatenation) -> None:
    inputs = site.inputs
    order = {node: number for number, node in enumerate(graph.nodes)}
    firsts = concatenation.firsts
    whole: Any = firsts[-1]
    written = [(chain, firsts[i]) for i, chain in enumerate(site.chains) if chain]
    for chain, first in sorted(written, key=lambda each: order[each[0][0]]):
        layer, *nothing = chain
        with graph.inserting_before(layer):
            kwargs = {**layer.kwargs, "into": (whole, first)}
            whole = graph.call_module(str(layer.target), layer.args, kwargs)
            for node in nothing:
                whole = graph.call_module(str(node.target), (whole,))
    with graph.inserting_before(site.node):
        for i, (name, channels) in enumerate(concatenation.parts):
            if name is None:
                whole = graph.call_function(put, (whole, inputs[i], firsts[i], channels))
                # One node, too, where the graph is traced again: in copies and pickles.
                whole.meta["is_wrapped"] = True
    site.node.replace_all_uses_with(whole)
    graph.erase_node(site.node)
    for chain, _ in written:
        for node in reversed(chain):
            graph.erase_node(node)


def _parts(model: nn.Module, node: fx.Node, total: int) -> Iterator[tuple[int, str | None, int]]:
    """(first channel, layer, channels) of all that is written to what `node` makes."""
    left = total
    while True:
        if node.target is put:
            _, _, first, channels = cast(tuple[Any, Any, int, int], node.args)
            yield first, None, channels
            left -= channels
        elif "into" in node.kwargs:
            _, first = cast(tuple[Any, int], node.kwargs["into"])
            channels = cast(SparseConv2d, model.get_submodule(str(node.target))).shape[0]
            yield first, str(node.target), channels
            left -= channels
        if left <= 0:
            return
        (node,) = node.users
