"""PeriodicConv2d."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from sparse_ops import functional as F
from sparse_ops.formats import PeriodicWeight
from sparse_ops.nn._conv import Pair, SparseConv2d, not_a_conv2d
from sparse_ops.ops._native import compiled_operators
from sparse_ops.patterns import Periodic, default_pattern


class PeriodicConv2d(SparseConv2d):
    """An nn.Conv2d whose kernels are sparse in a periodic pattern from the start; trainable.

    Takes nn.Conv2d's arguments, and:

    Args:
        pattern: the pattern; its kernel_size must be the layer's. Default:
            `patterns.default_pattern`, which is PSD2_P8 for kernels of 3×3.
        activation: None, "relu", "relu6", "silu", "hardswish", "gelu", "gelu_tanh" (its
            approximation by tanh) or "leaky_relu(0.01)" with any slope, applied to the output.
        backend: a backend's name, or "auto".

    Initialised as nn.Conv2d is, then masked. Loads nn.Conv2d's checkpoints too.

    Raises:
        ValueError: the pattern has another kernel_size, there is no default for this one (1×1), or
            nn.Conv2d refuses its arguments.
    """

    FUNCTION = staticmethod(F.periodic_conv2d)
    OPERATORS = compiled_operators("periodic_conv2d")
    OUT_OPERATORS = compiled_operators("periodic_conv2d_out")
    ARGUMENTS = ("class_crow_indices", "class_col_indices", "values")

    class_crow_indices: Tensor
    class_col_indices: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        pattern: Periodic | None = None,
        activation: str | None = None,
        backend: str = "auto",
    ) -> None:
        dense = self.template(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        kernel = cast(tuple[int, int], dense.kernel_size)
        pattern = default_pattern(kernel) if pattern is None else pattern
        if pattern.kernel_size != dense.kernel_size:
            raise ValueError(
                f"pattern is for kernels of {pattern.kernel_size}, got {dense.kernel_size}"
            )
        mask = pattern.mask(tuple(dense.weight.shape)).to(dense.weight.device)
        packed = PeriodicWeight.pack(dense.weight, mask, pattern)
        super().__init__(packed, dense.bias, dense, activation, backend)
        self._keep_structure(packed)

    def _keep_structure(self, packed: PeriodicWeight) -> None:
        self.pattern = packed.pattern
        self.register_buffer("class_crow_indices", packed.class_crow_indices, persistent=False)
        self.register_buffer("class_col_indices", packed.class_col_indices, persistent=False)

    @classmethod
    def refuses(cls, dense: nn.Module, mask: Tensor) -> str | None:
        """Why `dense` with `mask` cannot become this layer; None if it can."""
        if (reason := not_a_conv2d(dense)) is not None:
            return reason
        pattern = Periodic.recognise(mask.cpu())
        if pattern is None:
            return "its mask is not periodic"
        return None if any(pattern.supports) else "no weight is left"

    @classmethod
    def from_dense(
        cls,
        dense: nn.Conv2d,
        mask: Tensor,
        *,
        activation: str | None = None,
        backend: str = "auto",
    ) -> "PeriodicConv2d":
        """The sparse layer that equals `dense` with its weight masked.

        Raises:
            ValueError: as `refuses` says, or the mask is not bool of the weight's shape.
        """
        if (reason := not_a_conv2d(dense)) is not None:
            raise ValueError(reason)
        packed = PeriodicWeight.pack(dense.weight, mask)
        return cls.from_packed(packed, dense.bias, dense, activation=activation, backend=backend)

    @property
    def weight(self) -> PeriodicWeight:
        return PeriodicWeight(
            self.values, self.class_crow_indices, self.class_col_indices, self.pattern, self.shape
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, period={self.pattern.period}"
