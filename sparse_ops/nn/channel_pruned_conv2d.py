"""ChannelPrunedConv2d."""

from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops import functional as F
from sparse_ops.formats import ChannelPrunedWeight
from sparse_ops.nn._conv import Pair, SparseConv2d, not_a_conv2d
from sparse_ops.ops._native import compiled_operators
from sparse_ops.patterns import Channels


class ChannelPrunedConv2d(SparseConv2d):
    """An nn.Conv2d over the kept channels only; trainable.

    Its inputs and outputs are those of the dense layer: a removed output channel is its bias.
    Takes nn.Conv2d's arguments, and:

    Args:
        mask: (O, I, kH, kW), bool, that removes whole channels only.
        activation: None, "relu", "relu6", "silu", "hardswish", "gelu", "gelu_tanh" (its
            approximation by tanh) or "leaky_relu(0.01)" with any slope, applied to the output.
        backend: a backend's name, or "auto".

    Initialised as nn.Conv2d is, then masked. Loads nn.Conv2d's checkpoints too.

    Raises:
        ValueError: the mask is not bool of the weight's shape or removes other than whole channels,
            groups is not 1, or nn.Conv2d refuses its arguments.
    """

    FUNCTION = staticmethod(F.channel_pruned_conv2d)
    # "auto" is the dense library here, not a kernel of ours.
    OPERATORS = compiled_operators("channel_pruned_conv2d", auto=False)
    OUT_OPERATORS = compiled_operators("channel_pruned_conv2d_out", auto=False)
    GEOMETRY = ("shape", "stride", "_inner", "dilation")
    ARGUMENTS = ("values", "kept_out_channels", "kept_in_channels")

    kept_out_channels: Tensor
    kept_in_channels: Tensor

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
        if groups != 1:
            raise ValueError(f"groups must be 1, got {groups}")
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
        packed = ChannelPrunedWeight.pack(dense.weight, mask.to(dense.weight.device))
        super().__init__(packed, dense.bias, dense, activation, backend)
        self._keep_structure(packed)

    def _keep_structure(self, packed: ChannelPrunedWeight) -> None:
        self.register_buffer("kept_out_channels", packed.out_channels)
        self.register_buffer("kept_in_channels", packed.in_channels)

    @classmethod
    def refuses(cls, dense: nn.Module, mask: Tensor) -> str | None:
        """Why `dense` with `mask` cannot become this layer; None if it can."""
        if (reason := not_a_conv2d(dense)) is not None:
            return reason
        if isinstance(dense, nn.Conv2d) and dense.groups != 1:
            return f"groups is {dense.groups}, not 1"
        if not bool(mask.any()):
            return "no weight is left"
        return None if Channels.recognise(mask) else "its mask removes other than whole channels"

    @classmethod
    def from_dense(
        cls,
        dense: nn.Conv2d,
        mask: Tensor,
        *,
        activation: str | None = None,
        backend: str = "auto",
    ) -> "ChannelPrunedConv2d":
        """The sparse layer that equals `dense` with its weight masked.

        Raises:
            ValueError: this is not a Conv2d with groups=1, or the mask is not bool of the weight's
                shape, or removes other than whole channels.
        """
        if (reason := not_a_conv2d(dense)) is not None:
            raise ValueError(reason)
        if dense.groups != 1:
            raise ValueError(f"groups must be 1, got {dense.groups}")
        packed = ChannelPrunedWeight.pack(dense.weight, mask)
        return cls.from_packed(packed, dense.bias, dense, activation=activation, backend=backend)

    @property
    def weight(self) -> ChannelPrunedWeight:
        return ChannelPrunedWeight(
            self.values, self.kept_out_channels, self.kept_in_channels, self.shape
        )
