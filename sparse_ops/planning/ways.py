"""Ways: a masked model as it is, or without the channels that nothing needs, BatchNorm folded.

Each is a graph, made from the one that was captured, and a copy of the model with what the graph's
layers have now; tensors that did not change are the model's.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from sparse_ops.graph.capture import erase_unused_
from sparse_ops.graph.ir import Graph
from sparse_ops.graph.layers import activation_name
from sparse_ops.graph.ops import SLICED
from sparse_ops.graph.reads import reads_of
from sparse_ops.graph.running import first_run
from sparse_ops.nn._folded import Folded
from sparse_ops.ops._activation import slope_of
from sparse_ops.passes.fold_norms import fold_norms
from sparse_ops.passes.shrink import Shrinking, shrink
from sparse_ops.passes.sort import sort
from sparse_ops.passes.write_back import write_back_
from sparse_ops.patterns import Periodic
from sparse_ops.planning.columns import some
from sparse_ops.planning.copies import sharing_copy
from sparse_ops.planning.fold import Folding, without_norm
from sparse_ops.planning.masked import MARK, keeps_dense, replaced
from sparse_ops.planning.resize import own_sizes
from sparse_ops.planning.verify_model import Reference, check_against

# What widths are tried rounded up to, where layers run one by one.
MULTIPLES = (8, 16)
# The devices whose kernels gain by sorted channels.
SORTING = "cuda"
# The layers whose packed ones do the activation after them.
ACTIVATED = ("conv2d", "linear", "conv_transpose2d")
# What layers say of their sizes.
SIZES = {
    "in_channels", "out_channels", "in_features", "out_features", "num_features", "num_channels",
    "normalized_shape",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Way:
    """A masked model, shrunk in one way or not at all.

    Attributes:
        model: what came out.
        graph: of it, if it could be captured.
        shrinking: what was done, and the masks of what came out.
        folding: what is folded in it, and which activations may be.
        sorts: whether channels were put in another order, too (`passes.sort`).
        pieces: whether parts of it were planned by themselves and are fast already.
        failed: what was raised where something was removed and the model did not run without it, or
            computed something else; else None.
        split: whether attentions in it have their projections apart.
    """

    model: nn.Module
    graph: Graph | None
    shrinking: Shrinking
    folding: Folding = field(default_factory=Folding)
    sorts: bool = False
    pieces: bool = False
    failed: Exception | None = None
    split: bool = False

    @property
    def changes(self) -> bool:
        """Whether the model is another than the masked one, but for folding."""
        return self.sorts or self.pieces or self.split or self.shrinking.changes


def plain_way(
    masked: nn.Module, graph: Graph | None, masks: Mapping[str, Tensor], fold: bool
) -> Way:
    """The masked model with all its channels."""
    if graph is None:
        return Way(masked, None, Shrinking(masks=masks))
    return _written(masked, graph.copy(), Shrinking(masks=masks), fold)


def shrunk_way(
    masked: nn.Module,
    graph: Graph,
    masks: Mapping[str, Tensor],
    example: tuple[Any, ...],
    fold: bool,
    *,
    multiple: int = 1,
    untouched: Iterable[str] = (),
    sorts: bool = False,
    verify: bool = True,
    known: Reference | None = None,
) -> Way:
    """The masked model without channels, or with them sorted; `shrinking.note` if nothing was
    done.

    Args:
        known: what the masked model gives.
    """
    own = graph.copy()
    done = shrink(own, masks, multiple=multiple, untouched=untouched)
    if not done.changes:
        own, done = graph.copy(), replace(done, masks=masks)
    if sorts:
        new_masks = sort(own, done.masks)
        if new_masks is None:
            sorts = False
        else:
            done = replace(done, masks=new_masks)
    if not sorts and not done.changes:
        return Way(masked, None, done)
    try:
        way = replace(_written(masked, own, done, fold), sorts=sorts)
        if verify:
            check_against(known or Reference(masked, example), way.model)
    except Exception as error:
        # The model's own code works with the widths of its layers, say, and raises whatever it
        # does then; or a `Mismatch`.
        note = f"no channel was removed: the model does not run without them ({error})"
        return Way(masked, None, Shrinking(masks=masks, note=note), failed=error)
    return way


def _asked_sizes(masked: nn.Module, example: tuple[Any, ...]) -> tuple[str, ...]:
    """The layers whose sizes the model's code asks for, which are others once they are shrunk."""
    with reads_of(masked) as reads:
        first_run(masked, example)
    return tuple(name for name, own in reads.items() if not SIZES.isdisjoint(own))


def _written(masked: nn.Module, graph: Graph, done: Shrinking, fold: bool) -> Way:
    """The way that a graph is, written to a copy of the model; the graph is folded."""
    before = {name: _size(module) for name, module in masked.named_modules()}
    folding = Folding()
    if fold:
        skipped = _kept_norms(masked, graph)
        norms = fold_norms(graph, skipped)
        folding = Folding(norms, _activations(masked, graph))
    model = sharing_copy(masked)
    write_back_(model, graph)
    erase_unused_(graph)
    for node in graph.nodes:
        # The model has it now.
        node.attributes.pop(SLICED, None)
    for name, norm in folding.batch_norms.items():
        replaced(model, norm, without_norm(model.get_submodule(norm), name))
    if done.changes:
        _mark(model, before, done)
    graph.root = model
    return Way(model, graph, done, folding)


def _kept_norms(masked: nn.Module, graph: Graph) -> set[str]:
    """The layers that nothing may be folded into."""
    names = {node.module for node in graph.nodes if node.op in ("conv2d", "linear")}
    return {name for name in names if name is not None and keeps_dense(masked, name) is not None}


def _size(module: nn.Module) -> tuple[Any, ...] | None:
    """What of a module is another one once it was shrunk: its size, and whether it has a bias."""
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return (module.num_features,), True
    weight = module._parameters.get("weight")
    if isinstance(module, nn.Conv2d | nn.Linear):
        return None if weight is None else (tuple(weight.shape), module.bias is not None)
    return own_sizes(module), True


def _mark(model: nn.Module, before: Mapping[str, Any], done: Shrinking) -> None:
    """Marks the modules that have another size now, or have got a bias, or became constants."""
    for name, module in model.named_modules():
        known = before.get(name)
        cut = done.cuts.get(name)
        if known is None or isinstance(module, Folded):
            continue
        if cut is None and isinstance(module, nn.Conv2d | nn.Linear):
            continue
        constant = cut is not None and cut.constant
        if constant or _size(module) != known:
            setattr(module, MARK, known[0])


def _activations(masked: nn.Module, graph: Graph) -> dict[str, tuple[str, str]]:
    """Layer -> (the activation module after it, its name), each called once."""
    called: dict[str, int] = {}
    for node in graph.nodes:
        if node.module is not None:
            called[node.module] = called.get(node.module, 0) + 1
    found = {}
    for node in graph.nodes:
        after = graph.only_user(node.output) if node.op in ACTIVATED else None
        if after is None or after.op != "unary" or after.module is None or node.module is None:
            continue
        name = activation_name(masked.get_submodule(after.module))
        # A slope may be set anew afterwards: only programs, which look at it in each call, take it.
        if slope_of(name) is not None:
            continue
        alone = called[node.module] == called[after.module] == 1
        if name is not None and alone and keeps_dense(masked, node.module) is None:
            found[node.module] = (after.module, name)
    return found


def find_ways(
    plain: Way,
    masked: nn.Module,
    graph: Graph,
    masks: Mapping[str, Tensor],
    example: tuple[Any, ...],
    fold: bool,
    faster: Callable[[Way, Way], bool] | None,
    tell: Callable[[str, Exception], None],
    seconds: float = float("inf"),
) -> tuple[list[Way], str | None]:
    """The ways to shrink a model that are worth planning, and why it could not be, or None.

    Where a periodic layer would lose its pattern there is a second one in which such layers keep
    their channels. On a GPU, each with its channels sorted, too.

    Args:
        plain: the way that removes nothing.
        example: what the ways are compared with the masked model on.
        faster: tells whether the second way is; None: widths are not tried rounded up.
        tell: is told what failed, and of what was raised then.
        seconds: where it takes longer to remove channels, no rounded widths are tried.
    """
    known, begun = Reference(masked, example), time.perf_counter()
    exact = shrunk_way(masked, graph, masks, example, fold, known=known)
    found, note = [exact], None
    asked = _asked_sizes(masked, example) if exact.failed else ()
    if asked:
        exact = shrunk_way(masked, graph, masks, example, fold, untouched=asked, known=known)
        note = f"the model's code asks {some(asked)} for sizes: no channels go there"
    if exact.failed is not None:
        tell("the model without channels that nothing needs", exact.failed)
    if not exact.shrinking.changes:
        found, note = [plain], exact.shrinking.note or note
    else:
        best = exact
        late = faster is not None and time.perf_counter() - begun > seconds
        late_note = "left out for want of time: to try widths rounded up" if late else ""
        note = "; ".join(filter(None, (note, late_note))) or None
        for multiple in MULTIPLES if faster is not None and not late else ():
            other = shrunk_way(
                masked, graph, masks, example, fold,
                multiple=multiple, untouched=asked, verify=False,
            )  # fmt: skip
            if not other.shrinking.changes:
                other = plain
            same = other.shrinking.same_as(best.shrinking)
            try:
                if not same and faster is not None and faster(best, other):
                    best = other
            except Exception:
                # The model's own code, which may write sizes down, runs with these widths.
                continue
        if best is not exact:
            try:
                check_against(known, best.model)
            except Exception as error:
                # A `Mismatch` is told of; else a clock that runs nothing has let through what the
                # model's own code does not run with.
                tell("the model with widths rounded up", error)
                best, note = exact, f"widths were not rounded up: {error}"
        found = [best]
        if lost := _lost_patterns(masks, best.shrinking):
            left = (*asked, *lost)
            kept = shrunk_way(masked, graph, masks, example, fold, untouched=left, known=known)
            found.append(kept if kept.shrinking.changes else plain)
    if any(isinstance(x, Tensor) and x.device.type == SORTING for x in example):
        for way in [*found]:
            other = again(masked, graph, masks, example, fold, way.shrinking, sorts=True)
            found += [other] if other.sorts else []
    return found, note


def again(
    masked: nn.Module,
    graph: Graph,
    masks: Mapping[str, Tensor],
    example: tuple[Any, ...],
    fold: bool,
    done: Shrinking,
    sorts: bool,
) -> Way:
    """The way that removes, from this model, what was removed from another one.

    Raises:
        ValueError: other channels are not needed in this model.
    """
    if not done.changes and not sorts:
        return plain_way(masked, graph, masks, fold)
    if not done.changes:
        # Nothing but another order.
        everything = tuple(node.module for node in graph.nodes if node.module is not None)
        done = replace(done, untouched=everything)
    way = shrunk_way(
        masked,
        graph,
        masks,
        example,
        fold,
        multiple=done.multiple,
        untouched=done.untouched,
        sorts=sorts,
    )
    if done.changes and not way.shrinking.same_as(done):
        raise ValueError(
            "the plan removes channels that nothing needs in the model that it was made for; "
            "in this one they are others: plan it anew"
        )
    return way


def _lost_patterns(masks: Mapping[str, Tensor], shrinking: Shrinking) -> list[str]:
    """The layers whose zeros are periodic, and no longer are after shrinking."""
    lost = []
    for name, cut in shrinking.cuts.items():
        weight = f"{name}.weight" if name else "weight"
        before, after = masks.get(weight), shrinking.masks.get(weight)
        if before is None or cut.constant or cut.shape == cut.before or not bool(before.any()):
            continue
        if after is None or bool(after.all()):
            continue
        if Periodic.recognise(before) and not Periodic.recognise(after):
            lost.append(name)
    return lost
