"""A converted model that runs as programs, as it was decided."""

from typing import Any

from torch import nn

from sparse_ops.graph.capture import Uncaptured, capture
from sparse_ops.ops._program_code import CHANNELS, IMAGES, PLANAR
from sparse_ops.passes.fuse import fuse
from sparse_ops.planning.decisions import Decisions
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
) -> nn.Module:
    """Has a packed model run as decided, in place; returns it.

    Args:
        model: in eval mode.
        example: what it is traced with.
        shapes: of the inputs that it was planned for; default: the example's.

    Raises:
        ValueError: the decisions are not for this model.
    """
    try:
        graph = capture(model, example)
    except Uncaptured as error:
        raise ValueError(f"the model cannot run as a program: {error}") from error
    fuse(graph)
    orders = dict(decisions.orders)
    names = {node.name for node in graph.nodes}
    if missing := sorted(orders.keys() - names):
        raise ValueError(f"the decisions are for a model with {missing[0]}, which is not here")
    shapes = shapes or tuple(tuple(x.shape) for x in example)
    routes = Route(orders, decisions.piece), Route(dict(decisions.small))
    return attach_(model, Programs(graph, *routes, shapes))
