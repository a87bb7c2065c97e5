"""Fusing: y = activation(layer(x) + residual) becomes one node.

Only where the sum is of two tensors of the same size for every batch: a parameter that is added to
all images, though it may be as large as the example, is left alone.
"""

from sparse_ops.graph.ir import Graph, Node, Value
from sparse_ops.ops._activation import is_activation, leaky_relu

LAYERS = ("conv2d", "linear")
# What can apply an activation to what it gives.
ACTIVATED = (*LAYERS, "conv_transpose2d", "binary", "batch_norm")


def fuse(graph: Graph) -> None:
    """Fuses all that can be, in place."""
    # The later of two layers that are added to each other takes the other one's output.
    for node in reversed(graph.nodes.copy()):
        if node.op in LAYERS:
            _take_residual(graph, node)
        if node.op in ACTIVATED:
            _take_activation(graph, node)


def _take_residual(graph: Graph, layer: Node) -> None:
    about = layer.attributes
    if about["residual"] or about["activation"] is not None:
        return
    sum_ = graph.only_user(layer.output)
    if sum_ is None or sum_.op != "binary" or sum_.attributes["operator"] != "add":
        return
    left, right = sum_.inputs
    other = right if left is layer.output else left
    same = other.shape == layer.output.shape and other is not layer.output
    if not same or not other.of_batch or not _is_there(graph, other, layer):
        return
    about["residual"], about["activation"] = True, sum_.attributes["activation"]
    graph.reread(layer, [layer.inputs[0], other])
    graph.replace(sum_.output, layer.output)
    graph.erase(sum_)


def _is_there(graph: Graph, value: Value, node: Node) -> bool:
    """Whether a value is there when a node runs."""
    if value.producer is None:
        return True
    return graph.nodes.index(value.producer) < graph.nodes.index(node)


def _take_activation(graph: Graph, node: Node) -> None:
    if node.attributes["activation"] is not None:
        return
    after = graph.only_user(node.output)
    if after is None or after.op != "unary":
        return
    function = after.attributes["function"]
    if function == "leaky_relu":
        function = leaky_relu(after.attributes["negative_slope"])
    if function is not None and is_activation(function):
        node.attributes["activation"] = function
        graph.replace(after.output, node.output)
        graph.erase(after)
