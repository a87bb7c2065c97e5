"""ChannelPrunedWeight: a convolution weight with whole channels removed, the rest dense."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparse_ops.formats._common import (
    Packed,
    check_indices,
    check_shape,
    check_values,
    check_vector,
    check_weight_and_mask,
)
from sparse_ops.patterns import Channels


@dataclass(frozen=True, eq=False)
class ChannelPrunedWeight(Packed):
    """A convolution weight over the kept channels only.

    Attributes:
        values: (O', I', kH, kW), dense.
        out_channels: (O'), int32, ascending: which outputs they are; the others get the bias.
        in_channels: (I'), int32, ascending: which inputs they read.
        shape: (O, I, kH, kW), that of the dense weight.
    """

    values: Tensor
    out_channels: Tensor
    in_channels: Tensor
    shape: tuple[int, ...]

    @classmethod
    def pack(cls, weight: Tensor, mask: Tensor) -> "ChannelPrunedWeight":
        """Raises ValueError if weight and mask do not fit, or other than channels are removed."""
        check_weight_and_mask(weight, mask, (4,))
        check_shape(tuple(weight.shape), (4,))
        everything = Channels(tuple(range(mask.shape[0])), tuple(range(mask.shape[1])))
        pattern = everything if bool(mask.all()) else Channels.recognise(mask)
        if pattern is None:
            raise ValueError("mask removes other than whole channels")
        out = torch.tensor(pattern.out_channels, dtype=torch.int32, device=weight.device)
        inp = torch.tensor(pattern.in_channels, dtype=torch.int32, device=weight.device)
        values = weight.detach()[out.long()][:, inp.long()].contiguous()
        return cls(values, out, inp, tuple(weight.shape))

    @property
    def nnz(self) -> int:
        return self.values.numel()

    def scatter(self, values: Tensor) -> Tensor:
        """The dense weight that has these values where this one keeps weights, and zeros."""
        where = (self.out_channels.long()[:, None], self.in_channels.long())
        return values.new_zeros(self.shape).index_put(where, values)

    def gather(self, dense: Tensor) -> Tensor:
        """(O', I', kH, kW): what stands in a dense weight where this one keeps weights."""
        return dense[self.out_channels.long()[:, None], self.in_channels.long()]

    def to_dense(self) -> Tensor:
        return self.scatter(self.values)

    def with_values(self, values: Tensor) -> "ChannelPrunedWeight":
        return replace(self, values=values)

    def validate(self) -> None:
        """Raises ValueError unless every channel is there, once, in order, with its values."""
        check_shape(self.shape, (4,))
        for name, kept, size in (
            ("out_channels", self.out_channels, self.shape[0]),
            ("in_channels", self.in_channels, self.shape[1]),
        ):
            check_vector(name, kept)
            check_indices(name, kept, size)
            if bool((kept.diff() <= 0).any()):
                raise ValueError(f"{name} must rise, without repeats")
        left = (self.out_channels.numel(), self.in_channels.numel())
        check_values(self.values, (*left, *self.shape[2:]))
