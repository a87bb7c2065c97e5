"""Layout: which nodes a program can run, and in which orders their values may lie."""

from collections.abc import Mapping
from typing import Any

import torch

from sparse_ops.graph.ir import Graph, Node, Value
from sparse_ops.ops._program_code import CHANNELS, FUNCTIONS, IMAGES, LANES, OPERATORS, PLANAR

# Node of a graph -> the order of what it gives.
Orders = Mapping[str, int]
# Images are put innermost if the blocks hold at most this many times as many.
ROOM = 1.5
UNPACKED = "programs run transposed convolutions only packed"
# A convolution of so few channels reads images as they come, and gives channels innermost.
FEW_CHANNELS = 4


def refuses(node: Node) -> str | None:
    """Why a program cannot run a node, or None if it can."""
    for value in (*node.inputs, node.output):
        if value.shape is None:
            return "it is given, or gives, something else than a tensor"
        if value.dtype is not torch.float32:
            return f"it works on {value.dtype}, not float32"
        if value.rank not in (2, 4):
            return f"it works on {value.rank} dimensions, not 2 or 4"
    if any(not value.of_batch for value in node.inputs) and not _reads_gate(node):
        return "it reads a tensor of the model's own, which is the same for every batch"
    for held in node.parameters.values():
        if held.dtype is not torch.float32 or not held.is_cpu:
            return f"its weights are {held.dtype} on {held.device.type}"
    own = _REFUSES.get(node.op)
    return "it is not known to programs" if own is None else own(node)


def may_be_packed(node: Node) -> bool:
    """Whether a program cannot run a node as it is, and could once it is packed."""
    if node.op != "conv_transpose2d" or node.attributes["packed"] is not None:
        return False
    return refuses(node) == UNPACKED


def _reads_gate(node: Node) -> bool:
    """Whether all that is the same for every batch is one number a plane."""
    if node.op != "binary":
        return False
    gate = gate_of(node)
    return gate is not None and node.inputs[1 - gate].of_batch


def _nothing(node: Node) -> str | None:
    return None


def _conv(node: Node) -> str | None:
    about = node.attributes
    if about["outer"] and about["padding_mode"] != "zeros":
        return f"padding of mode {about['padding_mode']} is not known to programs"
    if any(size < 1 for size in node.output.shape or ()):
        return "nothing comes out of it"
    return None


def _transposed(node: Node) -> str | None:
    if node.attributes["groups"] != 1:
        return f"its groups are {node.attributes['groups']}, not 1"
    if any(size < 1 for size in node.output.shape or ()):
        return "nothing comes out of it"
    return UNPACKED if node.attributes["packed"] is None else None


def _linear(node: Node) -> str | None:
    if node.output.rank != 2:
        return f"it works on {node.output.rank} dimensions"
    return None


def _constant(node: Node) -> str | None:
    geometry = node.attributes["geometry"]
    if geometry is None:
        return _linear(node)
    return "its padding differs from side to side" if any(p % 2 for p in geometry[0]) else None


def _unary(node: Node) -> str | None:
    function = node.attributes["function"]
    return None if function in FUNCTIONS else f"{function} is not known to programs"


def _binary(node: Node) -> str | None:
    if node.attributes["operator"] not in OPERATORS:
        return f"{node.attributes['operator']} is not known to programs"
    if gate_of(node) is None and node.inputs[0].shape != node.inputs[1].shape:
        shapes = " and ".join(str(value.shape) for value in node.inputs)
        return f"tensors of {shapes} are put together"
    return None


def gate_of(node: Node) -> int | None:
    """Which input of a binary node is one number a plane of the other; None if they are alike."""
    left, right = node.inputs
    for gate, whole in ((1, left), (0, right)):
        small = node.inputs[gate]
        if small.rank != 4 or whole.rank != 4 or small.shape == whole.shape:
            continue
        plane = small.shape[2:] == (1, 1) and small.shape[1] == whole.shape[1]  # type: ignore[index]
        alike = small.shape[0] in (1, whole.shape[0])  # type: ignore[index]
        swapped = gate == 0 and node.attributes["operator"] in ("sub", "div")
        if plane and alike and whole.shape == node.output.shape and not swapped:
            return gate
    return None


def _images(node: Node) -> str | None:
    return None if node.inputs[0].rank == 4 else f"it works on {node.inputs[0].rank} dimensions"


_REFUSES: dict[str, Any] = {
    "conv2d": _conv,
    "conv_transpose2d": _transposed,
    "linear": _linear,
    "constant": _constant,
    "batch_norm": _nothing,
    "prelu": _nothing,
    "unary": _unary,
    "binary": _binary,
    "pool": _images,
    "adaptive_pool": _images,
    "mean": _images,
    "flatten": _images,
    "concat": _nothing,
    "pad": _images,
    "upsample": _images,
    "softmax": _nothing,
    "slice": _nothing,
    "shuffle": _images,
}


def allowed(node: Node) -> tuple[int, ...]:
    """The orders that what a node gives may have, if a program can run it."""
    if node.output.rank != 4:
        return (PLANAR,)
    orders = [PLANAR, CHANNELS]
    if has_room(node.output):
        orders.append(IMAGES)
    if node.op == "constant":
        return (PLANAR,)
    if node.op == "conv_transpose2d":
        orders.remove(CHANNELS)
    if node.op == "conv2d":
        about = node.attributes
        if about["packed"] is not None or not _groups_fill_lanes(node):
            orders.remove(CHANNELS)
        if about["stride"][1] > 2 and IMAGES in orders:
            orders.remove(IMAGES)
    return tuple(orders)


def has_room(value: Value) -> bool:
    """Whether blocks of 16 images hold few that are none."""
    batch = value.shape[0] if value.shape else 0
    return 0 < -(-batch // LANES) * LANES <= ROOM * batch


def _groups_fill_lanes(node: Node) -> bool:
    """Whether each group's channels are whole lanes, or the convolution is depthwise."""
    filters, per_group = node.attributes["shape"][:2]
    groups = node.attributes["groups"]
    if groups == 1 or (per_group == 1 and filters == groups):
        return True
    return per_group % LANES == 0 and filters // groups % LANES == 0


def reads(node: Node, order: int) -> int:
    """The order in which a node that gives this order reads images."""
    if node.op in ("conv2d", "constant"):
        few = node.inputs[0].shape is not None and node.inputs[0].shape[1] <= FEW_CHANNELS
        if order == CHANNELS and few and node.attributes.get("groups") == 1:
            return PLANAR
    return order


def uniform(graph: Graph, order: int) -> dict[str, int]:
    """Every node in this order that may be, the others planar."""
    return {
        node.name: order if order in allowed(node) else PLANAR
        for node in graph.nodes
        if refuses(node) is None
    }
