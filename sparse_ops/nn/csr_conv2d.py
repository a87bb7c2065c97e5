"""CSRConv2d."""

from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops import functional as F
from sparse_ops.formats import CSRWeight
from sparse_ops.nn._conv import Pair, SparseConv2d, not_a_conv2d
from sparse_ops.ops._native import compiled_operators


class CSRConv2d(SparseConv2d):
    """An nn.Conv2d whose weight is stored in compressed sparse rows; trainable.

    Takes nn.Conv2d's arguments, and:

    Args:
        mask: (O, I / groups, kH, kW), bool: which weights there are.
        activation: None, "relu", "relu6", "silu", "hardswish", "gelu", "gelu_tanh" (its
            approximation by tanh) or "leaky_relu(0.01)" with any slope, applied to the output.
        backend: a backend's name, or "auto".

    Initialised as nn.Conv2d is, then masked. Loads nn.Conv2d's checkpoints too.

    Raises:
        ValueError: the mask is not bool of the weight's shape, or nn.Conv2d refuses its arguments.
    """

    FUNCTION = staticmethod(F.csr_conv2d)
    OPERATORS = compiled_operators("csr_conv2d")
    OUT_OPERATORS = compiled_operators("csr_conv2d_out")
    ARGUMENTS = ("crow_indices", "col_indices", "values")

    crow_indices: Tensor
    col_indices: Tensor

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
        mask: Tensor,
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
        packed = CSRWeight.pack(dense.weight, mask.to(dense.weight.device))
        super().__init__(packed, dense.bias, dense, activation, backend)
        self._keep_structure(packed)

    def _keep_structure(self, packed: CSRWeight) -> None:
        self.register_buffer("crow_indices", packed.crow_indices)
        self.register_buffer("col_indices", packed.col_indices)

    @classmethod
    def refuses(cls, dense: nn.Module, mask: Tensor) -> str | None:
        """Why `dense` with `mask` cannot become this layer; None if it can."""
        return not_a_conv2d(dense) or (None if bool(mask.any()) else "no weight is left")

    @classmethod
    def from_dense(
        cls,
        dense: nn.Conv2d,
        mask: Tensor,
        *,
        activation: str | None = None,
        backend: str = "auto",
    ) -> "CSRConv2d":
        """The sparse layer that equals `dense` with its weight masked.

        Raises:
            ValueError: this is not a Conv2d, or the mask is not bool of the weight's shape.
        """
        if (reason := not_a_conv2d(dense)) is not None:
            raise ValueError(reason)
        packed = CSRWeight.pack(dense.weight, mask)
        return cls.from_packed(packed, dense.bias, dense, activation=activation, backend=backend)

    @property
    def weight(self) -> CSRWeight:
        return CSRWeight(self.crow_indices, self.col_indices, self.values, self.shape)
