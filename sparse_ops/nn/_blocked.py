"""How a sparse convolution computes on images that are blocked (`ops.blocked`)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparse_ops.ops._activation import code_of
from sparse_ops.ops._blocked_program import MOST_ROWS, Program, program
from sparse_ops.ops._native import BEST, compiled_operators
from sparse_ops.ops._shapes import conv2d_output_size
from sparse_ops.ops._transforms import is_transformed

OPERATORS = compiled_operators("blocked_conv2d")


class Blocked:
    """A packed weight as the blocked kernels read it, kept from call to call.

    It is made anew when the layer's tensors were changed, or images are of another size; threads
    may call at once. Copies and pickles of a layer begin without it. It takes 12 bytes a weight,
    where filters share columns down to 5.
    """

    def __init__(self) -> None:
        self._known: tuple[Any, Program] | None = None
        self._placed: tuple[Program, Any, Tensor] | None = None

    def __deepcopy__(self, memo: Any) -> "Blocked":
        return Blocked()

    def __reduce__(self) -> Any:
        return Blocked, ()

    def of(self, layer: Any, isa: str) -> Program:
        """The program of a layer's weight as it is now."""
        stamp = (isa, *map(_stamp, (layer.values, *layer._buffers.values())))
        known = self._known
        if known is None or not _same(known[0], stamp):
            with torch.no_grad():
                known = stamp, program(layer.weight, layer.groups, MOST_ROWS[isa])
            self._known = known
        return known[1]

    def offsets(
        self, of: Program, size: Sequence[int], shift: Sequence[int], dilation: Sequence[int]
    ) -> Tensor:
        """Where its columns are in planes of this size."""
        key = (*size, *shift, *dilation)
        placed = self._placed
        if placed is None or placed[0] is not of or placed[1] != key:
            self._placed = placed = of, key, of.offsets(size[0], size[1], shift, dilation)
        return placed[2]


def _stamp(tensor: Tensor) -> Any:
    """What is another one once the tensor was changed; those of inference mode do not say."""
    return tensor.clone() if tensor.is_inference() else (tensor.data_ptr(), tensor._version)


def _same(one: Sequence[Any], two: Sequence[Any]) -> bool:
    return len(one) == len(two) and all(
        type(a) is type(b) and (torch.equal(a, b) if isinstance(a, Tensor) else a == b)
        for a, b in zip(one, two, strict=True)
    )


def blocked_conv2d(
    layer: Any, x: Tensor, residual: Tensor | None, halos: tuple[int, int, int]
) -> Tensor | None:
    """What a SparseConv2d gives for x (B, I, H + 2 * halo, W + 2 * halo, 16), by the compiled
    operator; None where there is none.

    Raises:
        ValueError: x has other channels, or a halo smaller than the padding.
        RuntimeError: x or the residual is no blocked float32 tensor of that size.
    """
    isa = BEST if layer.backend == "auto" else layer.backend
    if isa not in OPERATORS or torch.compiler.is_compiling() or is_transformed():
        return None
    halo, out_halo, residual_halo = halos
    stride, padding, dilation = layer.stride, layer._inner, layer.dilation
    if halo < max(padding):
        raise ValueError(f"x must have a halo of the padding {padding} or more, got {halo}")
    if x.shape[1] != layer.in_channels:
        raise ValueError(f"x must have {layer.in_channels} channels, got {tuple(x.shape)}")
    inside = [size - 2 * halo for size in x.shape[2:4]]
    size = conv2d_output_size(inside, layer.shape[2:], stride, padding, dilation)
    kept: Blocked = layer.blocked_weight
    own = kept.of(layer, isa)
    shift = [halo - each for each in padding]
    y: Tensor = OPERATORS[isa](
        x,
        own.starts,
        own.rows,
        own.filters,
        kept.offsets(own, x.shape[2:4], shift, dilation),
        own.values,
        layer.bias,
        residual,
        size,
        stride,
        out_halo,
        residual_halo,
        code_of(layer.activation),
    )
    return y
