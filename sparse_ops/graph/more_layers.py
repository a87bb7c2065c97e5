"""Layers that programs do not run: convolutions of one and three dimensions, and transposed."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sparse_ops.graph.ir import Node
from sparse_ops.graph.layers import given_like, plain_parameters
from sparse_ops.graph.spelling import Meaning, Op, Spelled, Unlike, Way, tensor
from sparse_ops.nn import CSRConvTranspose2d
from sparse_ops.nn._phases import Axis, Phases
from sparse_ops.ops._activation import add_and_activate

_CONVOLVE: dict[str, Callable[..., Tensor]] = {"conv1d": F.conv1d, "conv3d": F.conv3d}


def _read(rank: int) -> Callable[[Spelled], Meaning]:
    def read(call: Spelled) -> Meaning:
        conv: Any = call.module
        x = tensor(call.given(["input"], {})["input"])
        if x.rank != rank:
            raise Unlike(f"its input has {x.rank} dimensions")
        about = _about(conv, tuple(conv.weight.shape))
        outer = list(conv._reversed_padding_repeated_twice)
        about |= {"outer": outer if any(outer) else [], "padding_mode": conv.padding_mode}
        return Meaning([x], about, plain_parameters(conv, "weight", "bias"))

    return read


def _about(conv: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    return {
        "shape": shape,
        "stride": tuple(conv.stride),
        "dilation": tuple(conv.dilation),
        "groups": conv.groups,
        "residual": False,
        "activation": None,
        "packed": None,
    }


def _evaluate(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    about, x = node.attributes, inputs[0]
    if about["outer"]:
        mode = "constant" if about["padding_mode"] == "zeros" else about["padding_mode"]
        x = F.pad(x, about["outer"], mode=mode)
    steps = about["stride"], 0, about["dilation"], about["groups"]
    weight, bias = _tensors(node, x)
    return _CONVOLVE[node.op](x, weight, bias, *steps)


def _tensors(node: Node, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    return given_like(x, node.parameters["weight"]), given_like(x, node.parameters.get("bias"))


def _read_transposed(call: Spelled) -> Meaning:
    conv: Any = call.module
    x = tensor(call.given(["input"], {})["input"])
    if x.rank != 4:
        raise Unlike(f"its input has {x.rank} dimensions")
    packed = isinstance(conv, CSRConvTranspose2d)
    whole = conv.in_channels, conv.out_channels, *conv.kernel_size
    about = _about(conv, whole if packed else tuple(conv.weight.shape))
    about |= {"padding": tuple(conv.padding), "output_padding": tuple(conv.output_padding)}
    if packed:
        about |= {"activation": conv.activation, "packed": conv.weight}
        return Meaning([x], about, plain_parameters(conv, "values", "bias"))
    return Meaning([x], about, plain_parameters(conv, "weight", "bias"))


def phases_of(node: Node) -> Phases:
    """Those of a transposed convolution."""
    about = node.attributes
    names = "stride", "padding", "output_padding", "dilation"
    high, wide = zip(about["shape"][2:], *(about[name] for name in names), strict=True)
    return Phases((Axis(*high), Axis(*wide)))


def _evaluate_transposed(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    about, x = node.attributes, inputs[0]
    sizes = about["stride"], about["padding"], about["output_padding"]
    packed, bias = about["packed"], given_like(x, node.parameters.get("bias"))
    own = node.parameters["weight"] if packed is None else phases_of(node).joined(packed.to_dense())
    weight = given_like(x, own)
    assert weight is not None
    y = F.conv_transpose2d(x, weight, bias, *sizes, about["groups"], about["dilation"])
    return add_and_activate(y, None, about["activation"])


OPS: dict[str, Op] = {
    "conv1d": Op(_evaluate, Way(_read(3), (nn.Conv1d,))),
    "conv3d": Op(_evaluate, Way(_read(5), (nn.Conv3d,))),
    "conv_transpose2d": Op(
        _evaluate_transposed,
        Way(_read_transposed, (nn.ConvTranspose2d, CSRConvTranspose2d)),
    ),
}
