"""Packing: layers get the weights that kernels read, as it was decided."""

from collections.abc import Mapping

from torch import Tensor

from sparse_ops.formats import CSRWeight, PackedWeight, PeriodicWeight
from sparse_ops.graph.ir import Graph, Node
from sparse_ops.graph.more_layers import phases_of

FORMS: dict[str, type[CSRWeight] | type[PeriodicWeight]] = {
    "periodic": PeriodicWeight,
    "csr": CSRWeight,
}
DENSE = "dense"
LAYERS = ("conv2d", "linear", "conv_transpose2d")


def pack(graph: Graph, forms: Mapping[str, str], masks: Mapping[str, Tensor]) -> None:
    """Packs the named layers, in place.

    Args:
        forms: name of a module -> a key of `FORMS`, or "dense".
        masks: parameter name -> mask; a layer without keeps all that is not zero.
    """
    packed: dict[tuple[int, str], PackedWeight] = {}
    for node in graph:
        form = forms.get(node.module or "", DENSE)
        if form == DENSE or node.op not in LAYERS:
            continue
        weight = node.parameters.get("weight")
        if weight is None:
            continue
        key = id(weight), form
        if key not in packed:
            packed[key] = packed_weight(node, form, masks.get(f"{node.module}.weight"))
        node.attributes["packed"] = packed[key]
        del node.parameters["weight"]
        node.parameters["values"] = packed[key].values


def packed_weight(node: Node, form: str, mask: Tensor | None) -> PackedWeight:
    """The weight of a layer in a form.

    Raises:
        ValueError: its mask has not that form.
    """
    weight = node.parameters["weight"]
    mask = weight != 0 if mask is None else mask.to(weight.device)
    if node.op == "conv_transpose2d":
        phases = phases_of(node)
        weight, mask = phases.split(weight), phases.split(mask)
    return FORMS[form].pack(weight, mask)
