"""Profiling: where the time of a model that runs as programs goes, step by step."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.graph import ops
from sparse_ops.graph.inputs import calling
from sparse_ops.nn import SparseLayer
from sparse_ops.ops import program as programs
from sparse_ops.planning.cache import Cache, folder
from sparse_ops.planning.columns import (
    Column,
    milliseconds,
    percent,
    size,
    table,
    wrapped,
)
from sparse_ops.planning.floors import Floors, floors
from sparse_ops.planning.masked import example_tuple
from sparse_ops.planning.measure import denormals_flushed, quantile
from sparse_ops.planning.work import kind_of, order_of, pieces_of, shapes_of, work
from sparse_ops.program.model import Programs, programs_of
from sparse_ops.program.network import ProgramModel
from sparse_ops.program.segments import Item, Segment


@dataclass(frozen=True)
class ProfileRow:
    """A step of a program, or a node between programs that PyTorch runs.

    Attributes:
        name: of the layer or node that it comes from.
        kind: what it does: "conv csr", "max pool", "add + relu".
        order: how what it gives lies in memory: "planar", "c16", "n16"; "" where that is not told.
        shape: of what it gives, the whole batch; () where that is not told.
        ms: median of one call, all pieces of the batch together.
        floor_ms: the least that the machine could take, by `convert.roofline`; None: not known.
        share: of all steps' time.
        bytes: that it has to read and write: values, weights and indices; None: not known.
        macs: its multiply-accumulates, with the kept weights; None: not known.
    """

    name: str
    kind: str
    order: str
    shape: tuple[int, ...]
    ms: float
    floor_ms: float | None = None
    share: float = 0.0
    bytes: int | None = None
    macs: int | None = None


@dataclass(frozen=True)
class Profile:
    """What `profile` found.

    Attributes:
        rows: the steps, in the order that they run; none if the model does not run as programs.
        call_ms: median of one call of the model, in the same run; None likewise.
        reason: why there are no rows, in words; "" if there are.
        floors: what the machine can do, of which the rows' floors come; None if there are no rows.
    """

    rows: tuple[ProfileRow, ...] = ()
    call_ms: float | None = None
    reason: str = ""
    floors: Floors | None = field(default=None, repr=False)

    def __str__(self) -> str:
        if self.reason:
            return "\n".join(wrapped(self.reason))
        rows = self.rows
        columns = [
            Column("kind", [row.kind for row in rows], right=False),
            Column("order", [row.order for row in rows], right=False),
            Column("shape", ["×".join(map(str, row.shape)) for row in rows], right=False),
            Column("ms", [milliseconds(row.ms) for row in rows]),
            Column("floor\nms", [milliseconds(row.floor_ms) for row in rows]),
            Column("share", [percent(row.share) for row in rows]),
            Column("bytes", ["" if row.bytes is None else size(row.bytes) for row in rows]),
        ]
        lines = table(Column("step", [row.name for row in rows], right=False), columns)
        total, floor = sum(row.ms for row in rows), sum(row.floor_ms or 0.0 for row in rows)
        end = (
            f"{len(rows)} steps take {milliseconds(total)} ms, a call {milliseconds(self.call_ms)} "
            f"ms; their floors are {milliseconds(floor)} ms"
        )
        return "\n".join([*lines, "", *wrapped(end)])


def profile(model: nn.Module, x: Any, repeats: int = 20) -> Profile:
    """How long each step of a converted model takes, and how long it had to.

    All steps run once in each repetition, in their order, between two calls of the whole model, so
    that each finds the caches as the ones before leave them.

    Args:
        model: what `Plan.apply` or `load` gave, with or without its class, in eval mode; not
            changed.
        x: its input, a tensor or a tuple.
        repeats: how often everything runs, after a first time that does not count.

    Raises:
        ValueError: repeats is below 1, or x is no input.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be 1 or more, got {repeats}")
    inputs = example_tuple(x, model=model)
    with torch.inference_mode():
        reason = _refuses(model, inputs)
        if reason is not None:
            return Profile(reason=f"the model does not run as a program here: {reason}")
        items, given = _running(model, inputs)
        cache = Cache(folder())
        floors_ = floors(cache)
        cache.write()
        with denormals_flushed():
            return _profiled(model, items, given, inputs, repeats, floors_)


def _refuses(model: nn.Module, inputs: tuple[Any, ...]) -> str | None:
    """Why a call does not run as a program, or None if it does."""
    if isinstance(model, ProgramModel):
        return model.refuses(inputs)
    own = programs_of(model)
    if own is None:
        if any(isinstance(module, SparseLayer) for module in model.modules()):
            return "it was converted layer by layer; the notes of its plan say why"
        return "it is not converted; sparse_ops.sparsify(model, x) does that"
    if model.training:
        return "it is in training mode: call model.eval() first"
    fits = own.fits(model, inputs)
    if own.hooked():
        return "there are new hooks on its modules, which a program would not call"
    if fits:
        return None
    if not own.live.holds(model):
        return "its modules, or attributes of them, are others than when it was planned"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    got = [_about(x) for x in inputs]
    wanted = [f"float32 {shape} on cpu" for shape in own.shapes]
    size_ = "images as large" if own.is_fixed else "as many channels"
    return (
        f"it was planned for {', '.join(wanted)}, another batch size or not, with {size_}; "
        f"got {', '.join(got)}"
    )


def _about(x: Any) -> str:
    if not isinstance(x, Tensor):
        return type(x).__name__
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)} on {x.device.type}"


def _running(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Sequence[Item], list[list[Any]]]:
    """What a call runs, and what each of it is given."""
    batch = inputs[0].shape[0]
    if isinstance(model, ProgramModel):
        number = model.network.part_for(batch)
        program, encoded = model.compiled(number)
        whole = Segment(program, encoded, [], [], model.network.parts[number].formulas)
        return [whole], [[inputs[i] for i in model.network.inputs]]
    own = programs_of(model)
    assert own is not None
    items = own.items(model, batch)
    return items, _given(items, own, model, inputs)


def _profiled(
    model: nn.Module,
    items: Sequence[Item],
    given: Sequence[list[Any]],
    inputs: tuple[Any, ...],
    repeats: int,
    floors_: Floors,
) -> Profile:
    rows: list[ProfileRow] = []
    for item, its in zip(items, given, strict=True):
        rows += _rows(item, its, floors_)
    call, calls, steps = calling(model, inputs), [], []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        call()
        calls.append(1e3 * (time.perf_counter() - begun))
        steps.append(
            [ms for i, its in zip(items, given, strict=True) for ms in _time(i, model, its)]
        )
    medians = [quantile(list(column), 0.5) for column in zip(*steps[1:], strict=True)]
    total = max(sum(medians), 1e-9)
    found = [replace(row, ms=ms, share=ms / total) for row, ms in zip(rows, medians, strict=True)]
    return Profile(tuple(found), quantile(calls[1:], 0.5), floors=floors_)


def _given(
    items: Sequence[Item], own: Programs, model: nn.Module, inputs: tuple[Any, ...]
) -> list[list[Any]]:
    """What each item is given."""
    known: dict[int, Any] = dict(zip(map(id, own.graph.inputs), inputs, strict=True))
    found = []
    for item in items:
        found.append([known[id(value)] for value in item.inputs])
        if isinstance(item, Segment):
            known |= zip(map(id, item.outputs), item(found[-1], model), strict=True)
        else:
            known[id(item.output)] = ops.evaluate(item, model, found[-1])
    return found


def _time(item: Item, model: nn.Module, given: Sequence[Any]) -> list[float]:
    """Milliseconds of each step of an item."""
    if isinstance(item, Segment):
        given = [x if x.dim() == 4 else x.contiguous() for x in given]
        table_ = programs.profile(given, item.encoded, item.program.constants, 1)
        return [float(ms) for ms in table_[0]]
    begun = time.perf_counter()
    ops.evaluate(item, model, given)
    return [1e3 * (time.perf_counter() - begun)]


def _rows(item: Item, given: Sequence[Any], floors_: Floors) -> list[ProfileRow]:
    """The rows of an item, without times."""
    if not isinstance(item, Segment):
        return [ProfileRow(item.name, f"{item.op} in PyTorch", "", (), 0.0)]
    program, shapes = item.program, [tuple(x.shape) for x in given]
    whole = shapes_of(program, shapes)
    pieces = [(count, shapes_of(program, each)) for count, each in pieces_of(program, shapes)]
    rows = []
    for step in program.steps:
        floor, moved, done = 0.0, 0, 0
        for count, all_shapes in pieces:
            macs, bytes_ = work(program, step, all_shapes)
            floor += count * floors_.milliseconds(macs, bytes_) if macs or bytes_ else 0.0
            moved += count * bytes_
            done += count * macs
        kind, order = kind_of(program, step, whole[step.out]), order_of(program, step, whole)
        row = ProfileRow(step.name, kind, order, whole[step.out], 0.0, floor, 0.0, moved, done)
        rows.append(row)
    return rows
