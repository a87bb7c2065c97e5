"""Writing back: the modules of a model get the tensors and sizes that the nodes of a graph have."""

from typing import Any

from torch import Tensor, nn

from sparse_ops.graph.channel_layers import name_of
from sparse_ops.graph.ir import Graph, Node
from sparse_ops.graph.layers import LIKE, NORMS, split_padding
from sparse_ops.graph.ops import SLICED
from sparse_ops.nn._constant import Constant, geometry_of


class _Tensors:
    """Parameters for the tensors of nodes: of one tensor there is one, however often it is used."""

    def __init__(self) -> None:
        self._made: dict[int, nn.Parameter] = {}

    def parameter(self, tensor: Tensor | None) -> nn.Parameter | None:
        if tensor is None or isinstance(tensor, nn.Parameter):
            return tensor
        return self._made.setdefault(id(tensor), nn.Parameter(tensor, False))


def write_back_(model: nn.Module, graph: Graph) -> None:
    """Gives the modules of a model what the layers of a graph have now, in place.

    Nothing is written unless everything fits. What a model's code does beside its modules is its
    own: where it works with widths, only a comparison of outputs shows that. Modules whose results
    the code throws away are not in the graph, and left as they are.

    Args:
        model: with the modules that the graph was captured from, or copies of them; it may share
            their tensors, which are not written to.
        graph: of that model, shrunk or sorted.

    Raises:
        ValueError: a module and its node do not fit, or the model's code does not do what the
            graph does; says in what.
    """
    known: dict[str, Node] = {}
    for node in graph.nodes:
        if node.op not in _WRITE or node.attributes.get("packed") is not None:
            # What is packed keeps all it has.
            continue
        if node.module is None:
            raise ValueError(f"{node.name} ({node.op}) is no module of the model")
        _check_same(known.setdefault(node.module, node), node)
    modules = {name: _module(model, node) for name, node in known.items()}
    for name, node in known.items():
        _check_fits(modules[name], node)
    tensors = _Tensors()
    for name, node in known.items():
        _WRITE[node.op](model, modules[name], node, tensors)
    for node in graph.nodes:
        if node.attributes.get(SLICED):
            _write_attribute(model, node, tensors)


def _check_same(one: Node, other: Node) -> None:
    """Raises ValueError if two nodes of a module have not the same tensors."""
    names = one.parameters.keys() | other.parameters.keys()
    if one.op != other.op or any(
        one.parameters.get(name) is not other.parameters.get(name) for name in names
    ):
        raise ValueError(f"{name_of(one)} is called twice, with different weights in the graph")


def _module(model: nn.Module, node: Node) -> Any:
    try:
        return model.get_submodule(str(node.module))
    except AttributeError:
        raise ValueError(f"the model has no module {node.module!r}, which the graph has") from None


def _about(module: Any) -> dict[str, Any]:
    """What of a module no pass changes, as nodes have it."""
    if isinstance(module, nn.Conv2d):
        outer, inner = split_padding(module)
        return {
            "kernel": tuple(module.kernel_size),
            "stride": tuple(module.stride),
            "padding": inner,
            "outer": outer,
            "padding_mode": module.padding_mode,
            "dilation": tuple(module.dilation),
        }
    if isinstance(module, (*NORMS, nn.GroupNorm, nn.InstanceNorm2d)):
        return {"eps": module.eps}
    if isinstance(module, LIKE):
        return {"stride": tuple(module.stride), "dilation": tuple(module.dilation)}
    return {}


_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "conv2d": (nn.Conv2d,),
    "linear": (nn.Linear,),
    "conv1d": (nn.Conv1d,),
    "conv3d": (nn.Conv3d,),
    "conv_transpose2d": (nn.ConvTranspose2d,),
    "batch_norm": NORMS,
    "group_norm": (nn.GroupNorm,),
    "instance_norm": (nn.InstanceNorm2d,),
    "prelu": (nn.PReLU,),
    "constant": (nn.Conv2d, nn.Linear, Constant),
}


def _check_fits(module: Any, node: Node) -> None:
    """Raises ValueError if a module is not what its node could be written to."""
    name, about = name_of(node), node.attributes
    if not isinstance(module, _KINDS[node.op]):
        kinds = " or a ".join(kind.__name__ for kind in _KINDS[node.op])
        raise ValueError(f"{name} must be a {kinds}, got a {type(module).__name__}")
    if node.op == "constant":
        geometry = module.geometry if isinstance(module, Constant) else geometry_of(module)
        if geometry != about["geometry"]:
            raise ValueError(f"{name} must have the geometry {about['geometry']}, got {geometry}")
        if not name:
            raise ValueError("the model is itself the layer that became a constant")
        return
    if about.get("residual"):
        raise ValueError(f"{name} adds another tensor itself in the graph")
    if about.get("activation") is not None and node.op != "batch_norm":
        raise ValueError(f"{name} ends with {about['activation']} in the graph")
    wanted = about | {"kernel": tuple(about.get("shape", ())[2:])}
    for what, has in _about(module).items():
        if wanted[what] != has:
            raise ValueError(f"{name} must have {what}={wanted[what]}, got {has}")


def _write_layer(model: nn.Module, module: Any, node: Node, tensors: _Tensors) -> None:
    weight = tensors.parameter(node.parameters["weight"])
    module.weight, module.bias = weight, tensors.parameter(node.parameters.get("bias"))
    rows, columns = node.attributes["shape"][:2]
    if node.op == "linear":
        module.out_features, module.in_features = rows, columns
        return
    module.groups = node.attributes["groups"]
    if node.op == "conv_transpose2d":
        module.out_channels, module.in_channels = columns * module.groups, rows
    else:
        module.out_channels, module.in_channels = rows, columns * module.groups


def _write_norm(model: nn.Module, module: Any, node: Node, tensors: _Tensors) -> None:
    for name in ("weight", "bias"):
        setattr(module, name, tensors.parameter(node.parameters.get(name)))
    for name in ("running_mean", "running_var"):
        setattr(module, name, node.parameters[name])
    module.num_features = len(node.parameters["running_mean"])


def _write_group_norm(model: nn.Module, module: Any, node: Node, tensors: _Tensors) -> None:
    for name in ("weight", "bias"):
        setattr(module, name, tensors.parameter(node.parameters.get(name)))
    if node.op == "group_norm":
        module.num_groups = node.attributes["groups"]
        module.num_channels = node.attributes["channels"]
    else:
        module.num_features = node.attributes["channels"]


def _write_prelu(model: nn.Module, module: Any, node: Node, tensors: _Tensors) -> None:
    module.weight = tensors.parameter(node.parameters["weight"])
    module.num_parameters = len(module.weight)


def _write_attribute(model: nn.Module, node: Node, tensors: _Tensors) -> None:
    """A tensor that the model's code reads itself."""
    assert node.call is not None
    owner, _, name = str(node.call.target).rpartition(".")
    module, tensor = model.get_submodule(owner), node.parameters["value"]
    is_parameter = name in module._parameters
    setattr(module, name, tensors.parameter(tensor) if is_parameter else tensor)


def _write_constant(model: nn.Module, module: Any, node: Node, tensors: _Tensors) -> None:
    constant = module
    if not isinstance(module, Constant):
        constant = Constant(module).train(module.training)
        constant.groups = node.attributes.get("groups", constant.groups)
        owner, _, last = str(node.module).rpartition(".")
        setattr(model.get_submodule(owner), last, constant)
    constant.bias = tensors.parameter(node.parameters["bias"])
    constant.shape = node.attributes["shape"]


_WRITE = {
    "conv2d": _write_layer,
    "linear": _write_layer,
    "conv1d": _write_layer,
    "conv3d": _write_layer,
    "conv_transpose2d": _write_layer,
    "group_norm": _write_group_norm,
    "instance_norm": _write_group_norm,
    "prelu": _write_prelu,
    "batch_norm": _write_norm,
    "constant": _write_constant,
}
