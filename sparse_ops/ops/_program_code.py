"""Program: a converted network as plain data, one call of one operator.

A program is a list of steps over values. Values 0 to inputs - 1 are the inputs; each step reads
values that are there already and writes one. All of it, beside the constants, is one int64 tensor:

    MAGIC, VERSION, number, piece, inputs, outputs, values, steps, and the length of all
    for each value: order, halo, whole, first
    for each output: the value
    for each step: kind, out, how many inputs, they, how many constants, they, how many
        attributes, they

A value is (N, C, H, W) or (N, C), float32. `order` is how it lies in memory, `halo` how many zeros
stand around its images. A value with a `whole` is channels [first, first + C) of that other value,
the output of a concatenation, and has its memory; else both are -1. Sizes are not part of a
program: they follow from the inputs'. Constants are numbers into the list of tensors; -1: none.

`number` tells programs apart that were made from other weights: what is prepared for one is kept
under it. `piece` is how many images run through all steps at a time; 0: all.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

MAGIC, VERSION = 0x53504F5053, 1
HEADER = 9

# Orders: (N, C, H, W); 16 channels innermost; 16 images innermost. See csrc/program/program.h.
PLANAR, CHANNELS, IMAGES = 0, 1, 2
LANES = 16


class Kind(NamedTuple):
    """A kind of step: its number, and what its attributes are, in order."""

    number: int
    attributes: tuple[str, ...]


_KERNEL = ("kernel_h", "kernel_w", "stride_h", "stride_w", "padding_h", "padding_w")
_CONV = ("form", "out_channels", "in_channels", *_KERNEL, "dilation_h", "dilation_w", "groups")
KINDS = {
    # The input in another order or halo.
    "convert": Kind(1, ()),
    # form ROWS: constants crow_indices (classes + 1), col_indices, values, bias; filter o keeps the
    # columns of class o mod classes, as in ops/_native.py; without weights it gives its bias.
    # form DENSE: constants weight (O, I / groups, kH, kW), bias. Inputs: x, and the residual if
    # `residual` is 1. `kernel` is how it is run: KERNELS. Activation FUSED_PRELU has one constant
    # more, its slope (1).
    "conv": Kind(2, (*_CONV, "activation", "residual", "kernel")),
    # Likewise on (N, in_features); form ROWS: crow_indices (O + 1), ...; DENSE: weight (O, I).
    "linear": Kind(3, ("form", "out_features", "in_features", "activation", "residual")),
    # mode MAX or AVERAGE.
    "pool": Kind(4, ("mode", *_KERNEL, "ceil_mode", "count_include_pad")),
    "adaptive_pool": Kind(5, ("mode", "height", "width")),
    # function: a number of FUNCTIONS; parameters: two float64 as bits.
    "unary": Kind(6, ("function", "parameter", "parameter2")),
    # operator: a number of OPERATORS. Inputs of the same shape; or the second (N, C, 1, 1) or
    # (1, C, 1, 1), one number a plane. Then the activation.
    "binary": Kind(7, ("operator", "activation")),
    # Along the channels. Inputs that are parts of the output are there already.
    "concat": Kind(8, ()),
    # (N, C, H, W) -> (N, C * H * W), PLANAR.
    "flatten": Kind(9, ()),
    # mode NEAREST or BILINEAR, by whole numbers.
    "upsample": Kind(10, ("mode", "scale_h", "scale_w", "align_corners")),
    # Of (N, C), along C; log: of log_softmax.
    "softmax": Kind(11, ("log",)),
    # constants scale (C), shift (C): y = activation(x * scale + shift).
    "affine": Kind(12, ("activation",)),
    # Channels [first, first + count).
    "slice": Kind(13, ("first", "count")),
    # Channels as (groups, C / groups), transposed.
    "shuffle": Kind(14, ("groups",)),
    # Around the images; value: float64 as bits.
    "pad": Kind(15, ("left", "right", "top", "bottom", "value")),
    # constant slopes (C), or (1) for all channels: y = x where x > 0, else x * slope.
    "prelu": Kind(16, ()),
    # (N, phases · C, H, W) -> (N, C, H · stride_h - cut_h, W · stride_w - cut_w); channels go phase
    # by phase, those of a line's pixels before those of the next line's. PLANAR or IMAGES.
    "interleave": Kind(17, ("stride_h", "stride_w", "cut_h", "cut_w")),
}
NAMES = {kind.number: name for name, kind in KINDS.items()}

ROWS, DENSE = 0, 1
MAX, AVERAGE = 0, 1
NEAREST, BILINEAR = 0, 1
# Those up to gelu_tanh, and leaky_relu, can be fused: _activation.py says how.
FUNCTIONS = {
    "relu": 1,
    "relu6": 2,
    "silu": 3,
    "hardswish": 4,
    "gelu": 5,
    "gelu_tanh": 6,
    "sigmoid": 7,
    "hardsigmoid": 8,
    "tanh": 9,
    "leaky_relu": 10,  # parameter: the slope
    "elu": 11,  # parameter: alpha
    "clamp": 12,  # parameters: least, most
    "mish": 13,
    "softplus": 14,  # parameters: beta, threshold
    "abs": 15,
    "neg": 16,
    "add": 17,  # parameter: what is added
    "mul": 18,  # parameter: the factor
    "square": 19,
    "sqrt": 20,
    "exp": 21,
    "reciprocal": 22,
}
# PReLU of one slope, as a convolution's or linear layer's activation.
FUSED_PRELU = 23
OPERATORS = {"add": 0, "sub": 1, "mul": 2, "div": 3, "maximum": 4, "minimum": 5}
# How a convolution is run. "auto" lets the kernel choose by sizes. On PLANAR: "rows" (vectors of
# pixels), "wide" (vectors of filters). On IMAGES and CHANNELS "auto" takes Winograd's F(2×2, 3×3)
# for dense 3×3 kernels, "4x4" F(4×4, 3×3) where that is fewer products, others none of both.
KERNELS = {"auto": 0, "rows": 1, "wide": 2, "4x4": 3}


def bits(number: float) -> int:
    """A float64 as the int64 of the same bits."""
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


def from_bits(number: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", number))[0])


class Value(NamedTuple):
    """How a value lies in memory."""

    order: int = PLANAR
    halo: int = 0
    whole: int = -1
    first: int = -1


@dataclass(frozen=True)
class Step:
    """One kernel call.

    Attributes:
        kind: a key of `KINDS`.
        out: the value that it writes.
        inputs: those that it reads.
        constants: which of the program's constants it has, in the order of its kind; -1: left out.
        attributes: name -> number, all that the kind has.
        name: of the layer, or of the node, that it comes from; for people.
    """

    kind: str
    out: int
    inputs: tuple[int, ...]
    constants: tuple[int, ...] = ()
    attributes: tuple[int, ...] = ()
    name: str = ""

    def __getitem__(self, attribute: str) -> int:
        return self.attributes[KINDS[self.kind].attributes.index(attribute)]


@dataclass(frozen=True, eq=False)
class Program:
    """Steps, values and constants; see the module.

    Attributes:
        inputs: how many inputs there are.
        outputs: the values that are given out.
        values: all values, inputs first.
        steps: in the order that they run.
        constants: tensors: float32 weights, int32 indices.
        number: of this program among others.
        piece: how many images run at a time; 0: all.
    """

    inputs: int
    outputs: tuple[int, ...]
    values: tuple[Value, ...]
    steps: tuple[Step, ...]
    constants: tuple[Tensor, ...]
    number: int
    piece: int = 0

    def encoded(self) -> Tensor:
        """The int64 tensor."""
        head = [MAGIC, VERSION, self.number, self.piece]
        head += [self.inputs, len(self.outputs), len(self.values), len(self.steps)]
        body: list[int] = [n for value in self.values for n in value]
        body += self.outputs
        for step in self.steps:
            body += [KINDS[step.kind].number, step.out]
            for numbers in (step.inputs, step.constants, step.attributes):
                body += [len(numbers), *numbers]
        return torch.tensor([*head, HEADER + len(body), *body], dtype=torch.int64)


def decoded(encoded: Tensor, constants: Sequence[Tensor], names: Sequence[str] = ()) -> Program:
    """The program of an int64 tensor, which may come from a stranger; it is read, not yet checked.

    Args:
        names: of the steps.

    Raises:
        ValueError: this is no program, or one of another version; says what is wrong.
    """
    if encoded.dtype != torch.int64 or encoded.dim() != 1 or encoded.numel() < HEADER:
        raise ValueError(
            f"a program must be int64 of {HEADER} or more numbers, got {encoded.dtype} "
            f"{tuple(encoded.shape)}"
        )
    numbers: list[int] = encoded.tolist()
    magic, version, number, piece, inputs, outputs, values, steps, length = numbers[:HEADER]
    if magic != MAGIC:
        raise ValueError("this is no program: it begins with other numbers")
    if version != VERSION:
        raise ValueError(f"the program is of version {version}; this library reads {VERSION}")
    if length != len(numbers) or min(inputs, outputs, values, steps) < 0:
        raise ValueError(f"the program says it has {length} numbers, it has {len(numbers)}")
    rest = iter(numbers[HEADER:])

    def take(count: int) -> tuple[int, ...]:
        if not 0 <= count <= len(numbers):
            raise ValueError(f"the program is damaged: it has a list of {count} numbers")
        taken = tuple(islice(rest, count))
        if len(taken) != count:
            raise ValueError("the program ends too early")
        return taken

    if values > len(numbers) or steps > len(numbers):
        raise ValueError("the program ends too early")
    all_values = tuple(Value(*take(4)) for _ in range(values))
    given = take(outputs)
    all_steps = []
    for place in range(steps):
        kind, out = take(2)
        inputs_of, constants_of, attributes = (take(take(1)[0]) for _ in range(3))
        if kind not in NAMES:
            raise ValueError(f"step {place} is of kind {kind}, which this version does not know")
        name = names[place] if place < len(names) else ""
        all_steps.append(Step(NAMES[kind], out, inputs_of, constants_of, attributes, name))
    if next(rest, None) is not None:
        raise ValueError("the program goes on after its last step")
    return Program(inputs, given, all_values, tuple(all_steps), tuple(constants), number, piece)
