"""Phases: a transposed convolution as one ordinary convolution of stride 1.

Along an axis of stride s, padding p and dilation d, a transposed convolution gives at place y

    y = s·h - p + d·k      the sum over all h and k that fit of  x[h] · w[k]

Places of one phase y mod s read the same taps: those with d·k ≡ y + p (mod s). So each phase is a
convolution of stride 1, all phases are one with s times the filters, and its images interleave. Its
kernels are zero where their phase has no tap, which costs sparse kernels nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparse_ops.ops._interleave import interleave
from sparse_ops.ops._operators import channels_last
from sparse_ops.ops._shapes import Pair


@dataclass(frozen=True)
class Axis:
    """One of the two axes.

    Attributes:
        kernel, stride, padding, output_padding, dilation: of the transposed convolution.
    """

    kernel: int
    stride: int
    padding: int
    output_padding: int
    dilation: int

    @property
    def phases(self) -> list[int]:
        """The phase that each tap belongs to."""
        return [(k * self.dilation - self.padding) % self.stride for k in range(self.kernel)]

    @property
    def _shifts(self) -> list[int]:
        """How far after its own place a phase's image reads by each tap."""
        reach = [self.padding - k * self.dilation for k in range(self.kernel)]
        return [(p + r) // self.stride for p, r in zip(self.phases, reach, strict=True)]

    def size(self, size: int, output_padding: int) -> int:
        """That of the output."""
        whole = (size - 1) * self.stride - 2 * self.padding + self.dilation * (self.kernel - 1) + 1
        return whole + output_padding

    @property
    def least(self) -> int:
        """The smallest input that gives any output."""
        return max(1, 1 + -(-(1 - self.size(1, self.output_padding)) // self.stride))

    def surplus(self, output_padding: int) -> int:
        """How much larger a phase's image is than the input."""
        return -(-self.size(1, output_padding) // self.stride) - 1

    @property
    def pad(self) -> int:
        """The padding of the ordinary convolution, the same on both sides."""
        shifts, surplus = self._shifts, self.surplus(self.output_padding)
        return max(0, -min(shifts), surplus, max(shifts) + surplus)

    @property
    def window(self) -> int:
        """The size of its kernels."""
        return 2 * self.pad + 1 - self.surplus(self.output_padding)

    @property
    def places(self) -> list[int]:
        """Where in them each tap is."""
        return [self.pad + shift for shift in self._shifts]


@dataclass(frozen=True)
class Phases:
    """Both axes: how weights and images turn into those of the ordinary convolution, and back.

    Attributes:
        axes: (h, w).
    """

    axes: tuple[Axis, Axis]

    @classmethod
    def of(cls, layer: Any) -> "Phases":
        """Those of anything with the attributes of nn.ConvTranspose2d."""
        names = "kernel_size", "stride", "padding", "output_padding", "dilation"
        high, wide = zip(*(getattr(layer, name) for name in names), strict=True)
        return cls((Axis(*high), Axis(*wide)))

    @property
    def count(self) -> int:
        return self.axes[0].stride * self.axes[1].stride

    @property
    def padding(self) -> Pair:
        return self.axes[0].pad, self.axes[1].pad

    @property
    def window(self) -> Pair:
        return self.axes[0].window, self.axes[1].window

    @property
    def _taps(self) -> Any:
        """Where each tap is in (phases, phases, O, I, *window): it is (kH, kW, O, I) there."""
        high, wide = (torch.tensor([axis.phases, axis.places]) for axis in self.axes)
        own = slice(None), slice(None)
        return high[0, :, None], wide[0], *own, high[1, :, None], wide[1]

    def split(self, weight: Tensor) -> Tensor:
        """(I, O, kH, kW), also a mask -> (phases · O, I, *window), phase by phase."""
        inputs, outputs = weight.shape[:2]
        strides = [axis.stride for axis in self.axes]
        parts = weight.new_zeros(*strides, outputs, inputs, *self.window)
        parts[self._taps] = weight.detach().permute(2, 3, 1, 0)
        return parts.flatten(0, 2)

    def joined(self, weight: Tensor) -> Tensor:
        """The way back from `split`."""
        parts = weight.unflatten(0, (self.axes[0].stride, self.axes[1].stride, -1))
        return parts[self._taps].permute(3, 2, 0, 1).contiguous()

    def images(self, y: Tensor, output_padding: Sequence[int]) -> Tensor:
        """(N, phases · O, H, W) -> (N, O, H', W'), in y's layout.

        Args:
            output_padding: (h, w), that of this call.
        """
        strides = self.axes[0].stride, self.axes[1].stride
        y = interleave(y, strides)
        less = self.cut(output_padding)
        if not any(less):
            return y
        layout = torch.channels_last if channels_last(y) else torch.contiguous_format
        part = y[:, :, : y.shape[2] - less[0], : y.shape[3] - less[1]]
        return part.contiguous(memory_format=layout)

    def cut(self, output_padding: Sequence[int]) -> Pair:
        """How much larger the interleaved image is than the output."""
        high, wide = (
            axis.stride * (1 + axis.surplus(max(own, axis.output_padding))) - axis.size(1, own)
            for axis, own in zip(self.axes, output_padding, strict=True)
        )
        return high, wide
