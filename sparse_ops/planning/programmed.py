"""A converted model that runs as programs, as it was decided."""

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.graph.capture import Uncaptured, capture
from sparse_ops.graph.inputs import Inputs, calling
from sparse_ops.graph.kept import forget_, keepers
from sparse_ops.graph.reads import reads_of
from sparse_ops.graph.running import copied_example, first_run, kept_as_it_is, same_outputs, seeded
from sparse_ops.ops._program_code import CHANNELS, IMAGES, PLANAR
from sparse_ops.passes.fuse import fuse
from sparse_ops.passes.winograd import allow_tiles
from sparse_ops.planning.blame import REPORT, wrong_alone
from sparse_ops.planning.decisions import Decisions
from sparse_ops.program.live import Live
from sparse_ops.program.model import Programs, Route, attach_

ORDER_NAMES = {
    PLANAR: "as torch has them",
    CHANNELS: "16 channels innermost",
    IMAGES: "16 images innermost",
}

SHORT_ORDERS = {PLANAR: "planar", CHANNELS: "c16", IMAGES: "n16"}


def with_programs_(
    model: nn.Module,
    decisions: Decisions,
    example: tuple[Any, ...],
    shapes: tuple[tuple[int, ...], ...] | None = None,
    given_out: bool = False,
) -> nn.Module:
    """Has a packed model run as decided, in place; returns it.

    Args:
        model: in eval mode.
        example: what it is traced with.
        shapes: of the inputs that it was planned for; default: the example's.
        given_out: whether it is more than a candidate: then it is run at other sizes, too, and
            takes only its own where that gives something else.

    Raises:
        ValueError: the decisions are not for this model.
    """
    with reads_of(model) as reads:
        known = first_run(model, example)
    forget_(reads, keepers(model, known.kept) or {})
    live = Live.of(model, reads)
    try:
        graph = capture(model, example, known)
    except Uncaptured as error:
        raise ValueError(f"the model cannot run as a program: {error}") from error
    fuse(graph)
    allow_tiles(graph, decisions.winograd)
    orders = dict(decisions.orders)
    names = {node.name for node in graph.nodes}
    if missing := sorted(orders.keys() - names):
        raise ValueError(f"the decisions are for a model with {missing[0]}, which is not here")
    shapes = shapes or tuple(tuple(x.shape) for x in example)
    routes = Route(orders, decisions.piece), Route(dict(decisions.small))
    attach_(model, programs := Programs(graph, *routes, shapes, live))
    if given_out:
        programs.sizes_fixed = not _same_at_other_sizes(model, programs, example)
    return model


def _same_at_other_sizes(model: nn.Module, programs: Programs, example: tuple[Any, ...]) -> bool:
    """Whether the programs give what the model's own forward gives, for another batch and image."""
    for pixels in (MORE_PIXELS, (0, 0)):
        inputs: Any = tuple(_resized(x, pixels) for x in example)
        inputs = example.like(inputs) if isinstance(example, Inputs) else inputs
        try:
            with seeded(), kept_as_it_is(model):
                own = partial(type(model).forward, model)
                expected = calling(own, copied_example(inputs))()
                if not programs.fits(model, inputs):
                    continue
        except Exception:
            # The model does not take such images.
            continue
        try:
            with seeded(), kept_as_it_is(model):
                same = same_outputs(programs(model, inputs), expected)
                wrong = None if same else wrong_alone(model, inputs)
            if wrong is not None:
                words = "at other sizes than the example's, which are left to the model's own code"
                warnings.warn(f"the program is wrong {words}: {wrong}; {REPORT}", stacklevel=2)
            return same
        except RuntimeError:
            return False
    return True


def _resized(x: Tensor, pixels: tuple[int, int]) -> Tensor:
    """Random numbers like an input, of another batch, and so many pixels more if it is images."""
    batch = OTHER_BATCHES[x.shape[0] == OTHER_BATCHES[0]]
    if x.dim() == 4 and min(x.shape[2:]) < SMALL:
        # Many times as large: attention over pixels would take gigabytes.
        pixels = (pixels[0] // 4, pixels[1] // 4)
    size = [n + more for n, more in zip(x.shape[2:], pixels, strict=False)]
    return torch.rand(batch, x.shape[1], *(size if x.dim() == 4 else x.shape[2:]))


# More than any network halves, so that most that take other sizes take this one.
MORE_PIXELS = (32, 64)
SMALL = 24
OTHER_BATCHES = (2, 3)
