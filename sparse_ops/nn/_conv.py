"""What the sparse convolutions have in common: everything of nn.Conv2d but its weight."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.nn._blocked import Blocked, blocked_conv2d
from sparse_ops.nn._layer import SparseLayer
from sparse_ops.nn._node import node_of
from sparse_ops.ops._backend import needs_gradient
from sparse_ops.ops._operators import channels_last
from sparse_ops.ops._shapes import conv2d_output_size
from sparse_ops.ops._transforms import is_transformed
from sparse_ops.ops.blocked import LANES, from_blocked, to_blocked

Self = TypeVar("Self", bound="SparseConv2d")
Pair = int | tuple[int, int]


def not_a_conv2d(dense: nn.Module) -> str | None:
    """Why this is not an ordinary Conv2d, or None if it is."""
    if isinstance(dense, nn.Conv2d) and not isinstance(dense, nn.modules.lazy.LazyModuleMixin):
        return None
    return f"{type(dense).__name__} is not Conv2d"


def _room(like: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    """An uninitialised (N, channels, *size), of the type and in the layout of `like` (N, ...)."""
    # By `like` itself: under torch.func the new tensor has to know what this one knows.
    if channels_last(like):
        return like.new_empty(like.shape[0], *size, channels).permute(0, 3, 1, 2)
    return like.new_empty(like.shape[0], channels, *size)


def placed(y: Tensor, into: tuple[Tensor | int, int]) -> Tensor:
    """y (N, O, H', W') copied to where `into` of `SparseConv2d.forward` says, with its gradient."""
    whole, first = into
    if isinstance(whole, int):
        whole = _room(y, whole, y.shape[2:])
    part = whole[:, first : first + y.shape[1]]
    if part.shape != y.shape:
        raise ValueError(f"out must be {tuple(y.shape)}, got {tuple(part.shape)}")
    part.copy_(y)
    return whole


class SparseConv2d(SparseLayer):
    """A convolution on a packed weight; a subclass says which format and operator."""

    DENSE: ClassVar[type[nn.Module]] = nn.Conv2d
    # The operator's function, and what of the geometry its compiled operators are given.
    FUNCTION: ClassVar[Callable[..., Tensor]]
    GEOMETRY: ClassVar[tuple[str, ...]] = ("shape", "stride", "_inner", "dilation", "groups")

    @classmethod
    def template(cls, *arguments: Any, **keywords: Any) -> nn.Conv2d:
        """The dense layer that these arguments make, initialised as torch does."""
        return nn.Conv2d(*arguments, **keywords)

    def __init__(
        self,
        packed: CSRWeight | PeriodicWeight | ChannelPrunedWeight,
        bias: Tensor | None,
        like: nn.Conv2d,
        activation: str | None,
        backend: str,
    ) -> None:
        super().__init__(packed, bias, activation, backend)
        self.in_channels, self.out_channels = like.in_channels, like.out_channels
        # torch's stubs say tuple[int, ...]; they are pairs.
        self.kernel_size = cast(tuple[int, int], like.kernel_size)
        self.stride = cast(tuple[int, int], like.stride)
        self.padding = cast(str | tuple[int, int], like.padding)
        self.dilation = cast(tuple[int, int], like.dilation)
        self.groups, self.padding_mode = like.groups, like.padding_mode
        # What F.pad is given before the kernel runs, and what is left to the kernel.
        self._outer, self._inner = self._split_padding()
        self.blocked_weight = Blocked()

    def _split_padding(self) -> tuple[list[int], tuple[int, int]]:
        """(left, right, top, bottom) for F.pad, and (h, w) for the kernel."""
        if self.padding == "valid":
            pairs = [(0, 0), (0, 0)]
        elif self.padding == "same":
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            pairs = [(t // 2, t - t // 2) for t in totals]
        else:
            assert not isinstance(self.padding, str)
            pairs = [(p, p) for p in self.padding]
        (top, bottom), (left, right) = pairs
        if self.padding_mode == "zeros" and top == bottom and left == right:
            return [], (top, left)
        return [left, right, top, bottom], (0, 0)

    @classmethod
    def from_packed(
        cls: type[Self],
        packed: Any,
        bias: Tensor | None,
        like: nn.Conv2d,
        *,
        activation: str | None = None,
        backend: str = "auto",
    ) -> Self:
        """A layer on a packed weight, with the stride, padding and so on of `like`."""
        layer = cls.__new__(cls)
        SparseConv2d.__init__(layer, packed, bias, like, activation, backend)
        layer._keep_structure(packed)
        layer.train(like.training)
        return layer

    def _keep_structure(self, packed: Any) -> None:
        """Stores what the format needs beside the values."""
        raise AssertionError("a subclass knows its format")

    def to_dense(self) -> nn.Module:
        """The nn.Conv2d of the same outputs; followed by the activation, if there is one."""
        dense = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias is not None,
            self.padding_mode,
            device=self.values.device,
            dtype=self.values.dtype,
        )
        with torch.no_grad():
            dense.weight.copy_(self.weight.to_dense())
            if self.bias is not None and dense.bias is not None:
                dense.bias.copy_(self.bias)
        dense.train(self.training)
        return self.followed_by_activation(dense)

    def padded(self, x: Tensor) -> Tensor:
        """x with the padding that the kernel does not do itself."""
        if not self._outer:
            return x
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, self._outer, mode=mode)

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        into: tuple[Tensor | int, int] | None = None,
        halos: tuple[int, int, int] = (0, 0, 0),
    ) -> Tensor:
        """x (N, I, H, W) -> y (N, O, H', W'); a residual is added before the activation.

        Args:
            x: or blocked by images, as `ops.blocked` has it; then residual and y are so, too.
            halos: those of x, y and the residual, if they are blocked.
            into: (whole, first): y becomes channels [first, first + O) of `whole` (N, C, H', W'),
                which is returned. (C, first): of a new tensor of C channels.

        Raises:
            ValueError: shapes or dtypes do not fit, or `whole` has not these channels.
            RuntimeError: no backend can run this, or write to these strides.
        """
        if (node := node_of(self, input, residual, into)) is not None:
            return node
        x = input
        if x.dim() == 5:
            return self._blocked(x, residual, halos)
        x = self.padded(x)
        if into is None:
            return self._convolved(x, residual, None)
        if x.dim() != 4:
            raise ValueError(f"x must be (N, I, H, W) to write into a tensor, got {tuple(x.shape)}")
        whole, first = into
        own = slice(first, first + self.shape[0])
        parts = x, self.values, self.bias, residual
        gradient = torch.is_grad_enabled() and needs_gradient(*parts)
        if gradient or torch.is_autocast_enabled(x.device.type) or is_transformed():
            return placed(self._convolved(x, residual, None), into)
        if isinstance(whole, int):
            steps = self.stride, self._inner, self.dilation
            whole = _room(x, whole, conv2d_output_size(x.shape[2:], self.shape[2:], *steps))
        self._convolved(x, residual, whole[:, own])
        return whole

    def refuses_blocked(self) -> str | None:
        """Why this layer takes no blocked tensors, or None if it does."""
        if self._outer:
            return f"padding {self.padding} {self.padding_mode} is not the same zeros on both sides"
        if self.stride[1] > 2:
            return f"stride {self.stride} is more than 2 along lines"
        if self.values.dtype is not torch.float32 or not self.values.is_cpu:
            return f"its weights are {self.values.dtype} on {self.values.device.type}"
        return None

    def _blocked(self, x: Tensor, residual: Tensor | None, halos: tuple[int, int, int]) -> Tensor:
        """`forward` for x (B, I, H + 2 * halo, W + 2 * halo, 16)."""
        compiled = blocked_conv2d(self, x, residual, halos)
        if compiled is not None:
            return compiled
        batch = x.shape[0] * LANES
        added = None if residual is None else from_blocked(residual, halos[2], batch)
        return to_blocked(self(from_blocked(x, halos[0], batch), added), halos[1])

    def _convolved(self, x: Tensor, residual: Tensor | None, out: Tensor | None) -> Tensor:
        if x.dim() == 4:
            geometry = [getattr(self, name) for name in self.GEOMETRY]
            y = self._direct(x, residual, *geometry, out=out)
            if y is not None:
                return y
        return type(self).FUNCTION(
            x,
            self.weight,
            self.bias,
            self.stride,
            self._inner,
            self.dilation,
            self.groups,
            activation=self.activation,
            residual=residual,
            out=out,
            backend=self._runs_on(),
        )

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", stride={self.stride}"
        for name, default in (
            ("padding", (0, 0)),
            ("dilation", (1, 1)),
            ("groups", 1),
            ("padding_mode", "zeros"),
            ("activation", None),
            ("backend", "auto"),
        ):
            if (value := getattr(self, name)) != default:
                text += f", {name}={value}"
        if self.bias is None:
            text += ", bias=False"
        return text + f", sparsity={self.sparsity:.3f}"
