"""Emitting: which step of a program each operation of a graph is."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.graph.ir import Node, Value
from sparse_ops.graph.layers import scale_and_shift
from sparse_ops.graph.more_layers import phases_of
from sparse_ops.ops import _program_code as code
from sparse_ops.ops._activation import code_of
from sparse_ops.ops._program_code import PLANAR, bits
from sparse_ops.passes.layout import gate_of, reads

POOL_MODES = {"max": code.MAX, "average": code.AVERAGE}
UPSAMPLE_MODES = {"nearest": code.NEAREST, "bilinear": code.BILINEAR}


class Lowering(Protocol):
    """What `lower` gives to those who add steps."""

    def value(self, value: Value, order: int) -> int:
        """The number of a value in this order."""

    def source_order(self, value: Value) -> int:
        """The order that a value is in already."""

    def has(self, value: Value, order: int) -> bool:
        """Whether a value is there in this order."""

    def step(
        self,
        kind: str,
        node: Node,
        order: int,
        inputs: Sequence[int],
        constants: Sequence[Tensor | None] = (),
        /,
        **attributes: int,
    ) -> None:
        """Adds what gives the node's output."""

    def between(
        self,
        kind: str,
        value: Value,
        order: int,
        source: int,
        name: str,
        constants: Sequence[Tensor | None] = (),
        /,
        **attributes: int,
    ) -> int:
        """Adds a step whose output no node gives; returns that."""


def _activation(node: Node) -> int:
    return code_of(node.attributes["activation"])


def _add_conv(self: Lowering, node: Node, order: int) -> None:
    about = node.attributes
    source = self.value(node.inputs[0], reads(node, order))
    if about["outer"]:
        left, right, top, bottom = about["outer"]
        sides = {"left": left, "right": right, "top": top, "bottom": bottom, "value": bits(0.0)}
        read = reads(node, order)
        source = self.between("pad", node.inputs[0], read, source, node.name, **sides)
    inputs = [source] + ([self.value(node.inputs[1], order)] if about["residual"] else [])
    filters, channels, height, width = about["shape"]
    form, constants = _weights(node)
    self.step(
        "conv",
        node,
        order,
        inputs,
        constants,
        form=form,
        out_channels=filters,
        in_channels=channels * about["groups"],
        kernel_h=height,
        kernel_w=width,
        **_pair("stride", about["stride"]),
        **_pair("padding", about["padding"]),
        **_pair("dilation", about["dilation"]),
        groups=about["groups"],
        activation=_activation(node),
        residual=about["residual"],
        kernel=about.get("way", 0),
    )


def _pair(name: str, pair: Sequence[int]) -> dict[str, int]:
    return {f"{name}_h": pair[0], f"{name}_w": pair[1]}


def _weights(node: Node) -> tuple[int, list[Tensor | None]]:
    """The form of a layer's weight, and the constants that it is."""
    packed, bias = node.attributes["packed"], node.parameters.get("bias")
    if packed is None:
        return code.DENSE, [node.parameters["weight"], bias]
    values = node.parameters.get("values", packed.values)
    if isinstance(packed, CSRWeight):
        return code.ROWS, [packed.crow_indices, packed.col_indices, values, bias]
    if isinstance(packed, ChannelPrunedWeight):
        return code.ROWS, [*_rows_of(packed), values, bias]
    assert isinstance(packed, PeriodicWeight), f"{type(packed).__name__} is not lowered"
    return code.ROWS, [packed.class_crow_indices, packed.class_col_indices, values, bias]


def _rows_of(weight: ChannelPrunedWeight) -> tuple[Tensor, Tensor]:
    """(crow_indices, col_indices) under which its values are those of a sparse matrix, in order."""
    taps = weight.shape[2] * weight.shape[3]
    row = (weight.in_channels[:, None] * taps + torch.arange(taps, dtype=torch.int32)).flatten()
    lengths = torch.zeros(weight.shape[0] + 1, dtype=torch.int64)
    lengths[weight.out_channels.long() + 1] = row.numel()
    return lengths.cumsum(0).int(), row.repeat(weight.out_channels.numel())


def _add_linear(self: Lowering, node: Node, order: int) -> None:
    about = node.attributes
    inputs = [self.value(value, PLANAR) for value in node.inputs]
    form, constants = _weights(node)
    self.step(
        "linear",
        node,
        PLANAR,
        inputs,
        constants,
        form=form,
        out_features=about["shape"][0],
        in_features=about["shape"][1],
        activation=_activation(node),
        residual=about["residual"],
    )


def _add_transposed(self: Lowering, node: Node, order: int) -> None:
    """A convolution that gives its phases, and an image made of them."""
    about, phases = node.attributes, phases_of(node)
    rows, channels, height, width = about["packed"].shape
    form, constants = _weights(node)
    if constants[-1] is not None:
        constants[-1] = constants[-1].detach().repeat(phases.count)
    convolved = self.between(
        "conv",
        Value(None),
        order,
        self.value(node.inputs[0], order),
        node.name,
        constants,
        form=form,
        out_channels=rows,
        in_channels=channels,
        kernel_h=height,
        kernel_w=width,
        **_pair("stride", (1, 1)),
        **_pair("padding", phases.padding),
        **_pair("dilation", (1, 1)),
        groups=1,
        activation=_activation(node),
        residual=0,
        kernel=code.KERNELS["auto"],
    )
    cut = _pair("cut", phases.cut(about["output_padding"]))
    self.step("interleave", node, order, [convolved], **_pair("stride", about["stride"]), **cut)


def _add_constant(self: Lowering, node: Node, order: int) -> None:
    """A layer without weights."""
    shape, geometry = node.attributes["shape"], node.attributes["geometry"]
    nothing = torch.zeros(0, dtype=torch.int32), torch.zeros(0)
    bias = node.parameters["bias"]
    source = self.value(node.inputs[0], PLANAR)
    rest = {"form": code.ROWS, "activation": 0, "residual": 0}
    if geometry is None:
        crow = torch.zeros(shape[0] + 1, dtype=torch.int32)
        rest |= {"out_features": shape[0], "in_features": shape[1]}
        self.step("linear", node, PLANAR, [source], [crow, *nothing, bias], **rest)
        return
    padded, reach, stride = geometry
    crow = torch.zeros(2, dtype=torch.int32)
    channels = (node.inputs[0].shape or ())[1]
    rest |= {"out_channels": shape[0], "in_channels": channels, "groups": 1, "kernel": 0}
    rest |= _pair("kernel", reach) | _pair("stride", stride) | _pair("dilation", (1, 1))
    rest |= _pair("padding", [p // 2 for p in padded])
    self.step("conv", node, PLANAR, [source], [crow, *nothing, bias], **rest)


def _add_norm(self: Lowering, node: Node, order: int) -> None:
    scale, shift = (each.float() for each in scale_and_shift(node))
    source = self.value(node.inputs[0], order)
    self.step("affine", node, order, [source], [scale, shift], activation=_activation(node))


def _add_prelu(self: Lowering, node: Node, order: int) -> None:
    source = self.value(node.inputs[0], order)
    self.step("prelu", node, order, [source], [node.parameters["weight"]])


def _add_unary(self: Lowering, node: Node, order: int) -> None:
    about = dict(node.attributes)
    function = about.pop("function")
    first, second = (*map(float, about.values()), 0.0, 0.0)[:2]
    numbers = {"parameter": bits(first), "parameter2": bits(second)}
    source = self.value(node.inputs[0], order)
    self.step("unary", node, order, [source], function=code.FUNCTIONS[function], **numbers)


def _add_binary(self: Lowering, node: Node, order: int) -> None:
    left, right = node.inputs
    gate = gate_of(node)
    if gate == 0:
        left, right = right, left
    if gate is None:
        second = self.value(right, order)
    else:
        second = self.value(right, order if self.has(right, order) else PLANAR)
    operator = code.OPERATORS[node.attributes["operator"]]
    inputs = [self.value(left, order), second]
    self.step("binary", node, order, inputs, operator=operator, activation=_activation(node))


def _add_pool(self: Lowering, node: Node, order: int) -> None:
    about = node.attributes
    self.step(
        "pool",
        node,
        order,
        [self.value(node.inputs[0], order)],
        mode=POOL_MODES[about["mode"]],
        **_pair("kernel", about["kernel"]),
        **_pair("stride", about["stride"]),
        **_pair("padding", about["padding"]),
        ceil_mode=about["ceil_mode"],
        count_include_pad=about["count_include_pad"],
    )


def _add_adaptive(self: Lowering, node: Node, order: int) -> None:
    height, width = node.attributes["size"]
    mode, source = POOL_MODES[node.attributes["mode"]], self.value(node.inputs[0], order)
    self.step("adaptive_pool", node, order, [source], mode=mode, height=height, width=width)


def _add_mean(self: Lowering, node: Node, order: int) -> None:
    mode = {"mode": code.AVERAGE, "height": 1, "width": 1}
    if node.attributes["keepdim"]:
        self.step("adaptive_pool", node, order, [self.value(node.inputs[0], order)], **mode)
        return
    own = self.source_order(node.inputs[0])
    source = self.value(node.inputs[0], own)
    pooled = self.between("adaptive_pool", node.output, own, source, node.name, **mode)
    self.step("flatten", node, PLANAR, [pooled])


def _add_flatten(self: Lowering, node: Node, order: int) -> None:
    x = node.inputs[0]
    self.step("flatten", node, PLANAR, [self.value(x, self.source_order(x))])


def _add_concat(self: Lowering, node: Node, order: int) -> None:
    self.step("concat", node, order, [self.value(value, order) for value in node.inputs])


def _add_pad(self: Lowering, node: Node, order: int) -> None:
    left, right, top, bottom = node.attributes["sizes"]
    sides = {"left": left, "right": right, "top": top, "bottom": bottom}
    value = bits(node.attributes["value"])
    self.step("pad", node, order, [self.value(node.inputs[0], order)], **sides, value=value)


def _add_upsample(self: Lowering, node: Node, order: int) -> None:
    about = node.attributes
    mode, source = UPSAMPLE_MODES[about["mode"]], self.value(node.inputs[0], order)
    scale = _pair("scale", about["scale"])
    self.step("upsample", node, order, [source], mode=mode, **scale, align_corners=about["align"])


def _add_softmax(self: Lowering, node: Node, order: int) -> None:
    source = self.value(node.inputs[0], PLANAR)
    self.step("softmax", node, PLANAR, [source], log=node.attributes["log"])


def _add_slice(self: Lowering, node: Node, order: int) -> None:
    about = node.attributes
    source = self.value(node.inputs[0], order)
    self.step("slice", node, order, [source], first=about["first"], count=about["count"])


def _add_shuffle(self: Lowering, node: Node, order: int) -> None:
    source = self.value(node.inputs[0], order)
    self.step("shuffle", node, order, [source], groups=node.attributes["groups"])


EMIT: dict[str, Any] = {
    "conv2d": _add_conv,
    "conv_transpose2d": _add_transposed,
    "linear": _add_linear,
    "constant": _add_constant,
    "batch_norm": _add_norm,
    "prelu": _add_prelu,
    "unary": _add_unary,
    "binary": _add_binary,
    "pool": _add_pool,
    "adaptive_pool": _add_adaptive,
    "mean": _add_mean,
    "flatten": _add_flatten,
    "concat": _add_concat,
    "pad": _add_pad,
    "upsample": _add_upsample,
    "softmax": _add_softmax,
    "slice": _add_slice,
    "shuffle": _add_shuffle,
}
