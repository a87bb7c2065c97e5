"""CSRConvTranspose2d."""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from sparse_ops import functional as F
from sparse_ops.formats import CSRWeight
from sparse_ops.nn._conv import Pair
from sparse_ops.nn._layer import SparseLayer
from sparse_ops.nn._node import node_of
from sparse_ops.nn._phases import Phases
from sparse_ops.ops._native import compiled_operators


class CSRConvTranspose2d(SparseLayer):
    """An nn.ConvTranspose2d whose weight is stored in compressed sparse rows; trainable.

    Takes nn.ConvTranspose2d's arguments, of groups only 1, and:

    Args:
        mask: (I, O, kH, kW), bool: which weights there are.
        activation: None, "relu", "relu6", "silu", "hardswish", "gelu", "gelu_tanh" (its
            approximation by tanh) or "leaky_relu(0.01)" with any slope, applied to the output.
        backend: a backend's name, or "auto".

    It runs as one convolution of stride 1, with a set of filters for each phase of the stride,
    whose images interleave; its packed weight is (phases · O, I, h, w). Initialised as
    nn.ConvTranspose2d is, then masked. Loads nn.ConvTranspose2d's checkpoints too.

    Raises:
        ValueError: the mask is not bool of the weight's shape, groups is not 1, or
            nn.ConvTranspose2d refuses its arguments.
    """

    ADDS: ClassVar[bool] = False
    DENSE: ClassVar[type[nn.Module]] = nn.ConvTranspose2d
    OPERATORS = compiled_operators("csr_conv2d")
    ARGUMENTS = ("crow_indices", "col_indices", "values")

    crow_indices: Tensor
    col_indices: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Pair = 1,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        mask: Tensor,
        activation: str | None = None,
        backend: str = "auto",
    ) -> None:
        dense = nn.ConvTranspose2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,
            device,
            dtype,
        )
        packed = _packed(dense, mask.to(dense.weight.device))
        super().__init__(packed, dense.bias, activation, backend)
        self._keep_structure(packed, dense)

    def _keep_structure(self, packed: CSRWeight, like: Any) -> None:
        self.in_channels, self.out_channels = like.in_channels, like.out_channels
        # torch's stubs say tuple[int, ...]; they are pairs.
        self.kernel_size = cast(tuple[int, int], like.kernel_size)
        self.stride = cast(tuple[int, int], like.stride)
        self.padding = cast(tuple[int, int], like.padding)
        self.output_padding = cast(tuple[int, int], like.output_padding)
        self.dilation = cast(tuple[int, int], like.dilation)
        self.groups, self.padding_mode = 1, "zeros"
        self.register_buffer("crow_indices", packed.crow_indices)
        self.register_buffer("col_indices", packed.col_indices)
        self.phases = Phases.of(self)

    @classmethod
    def refuses(cls, dense: nn.Module, mask: Tensor) -> str | None:
        """Why `dense` with `mask` cannot become this layer; None if it can."""
        return _refuses(dense) or (None if bool(mask.any()) else "no weight is left")

    @classmethod
    def from_packed(
        cls,
        packed: CSRWeight,
        bias: Tensor | None,
        like: Any,
        *,
        activation: str | None = None,
        backend: str = "auto",
    ) -> "CSRConvTranspose2d":
        """A layer on a packed weight of phases, with the stride, padding and so on of `like`.

        Raises:
            ValueError: it is no weight of the phases of `like`, or groups is not 1.
        """
        if like.groups != 1:
            raise ValueError(f"groups must be 1, got {like.groups}")
        layer = cls.__new__(cls)
        SparseLayer.__init__(layer, packed, bias, activation, backend)
        layer._keep_structure(packed, like)
        layer.check_weight()
        return layer.train(like.training)

    @classmethod
    def from_dense(
        cls,
        dense: nn.ConvTranspose2d,
        mask: Tensor,
        *,
        activation: str | None = None,
        backend: str = "auto",
    ) -> "CSRConvTranspose2d":
        """The sparse layer that equals `dense` with its weight masked.

        Raises:
            ValueError: this is not a ConvTranspose2d with groups=1, or the mask is not bool of the
                weight's shape.
        """
        packed = _packed(dense, mask)
        return cls.from_packed(packed, dense.bias, dense, activation=activation, backend=backend)

    def check_weight(self) -> None:
        """Raises ValueError unless the packed weight is a valid one, of these phases."""
        self.weight.validate()
        taps = self.rows_of(self.values.new_ones(self.dense_shape, dtype=torch.bool))
        if self.shape != tuple(taps.shape):
            raise ValueError(f"weight must be {tuple(taps.shape)}, got {self.shape}")
        if not bool(self.weight.gather(taps).all()):
            raise ValueError("weight must be zero where its phase has no tap")

    @property
    def weight(self) -> CSRWeight:
        """The packed weight of its phases, (phases · O, I, h, w)."""
        return CSRWeight(self.crow_indices, self.col_indices, self.values, self.shape)

    @property
    def dense_shape(self) -> tuple[int, ...]:
        return self.in_channels, self.out_channels, *self.kernel_size

    def rows_of(self, dense: Tensor) -> Tensor:
        return self.phases.split(dense)

    def mask(self) -> Tensor:
        """The mask, bool, (I, O, kH, kW)."""
        return self.phases.joined(self.mask_of_rows())

    def to_dense(self) -> nn.Module:
        """The nn.ConvTranspose2d of the same outputs; followed by the activation, if any."""
        return self.followed_by_activation(self.without_activation())

    def without_activation(self) -> nn.ConvTranspose2d:
        """The nn.ConvTranspose2d of the same weight and bias."""
        dense = nn.ConvTranspose2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.output_padding,
            bias=self.bias is not None,
            dilation=self.dilation,
            device=self.values.device,
            dtype=self.values.dtype,
        )
        with torch.no_grad():
            dense.weight.copy_(self.phases.joined(self.weight.to_dense()))
            if self.bias is not None and dense.bias is not None:
                dense.bias.copy_(self.bias)
        return dense.train(self.training)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """x (N, I, H, W) -> y (N, O, H', W').

        Args:
            output_size: (H', W'), or of all dimensions, as nn.ConvTranspose2d has it; or None.

        Raises:
            ValueError: shapes or dtypes do not fit.
            RuntimeError: no backend can run this.
        """
        if (node := node_of(self, input, output_size)) is not None:
            return node
        if input.dim() not in (3, 4):
            wanted = f"(N, {self.in_channels}, H, W)"
            raise ValueError(f"x must be {wanted}, got {tuple(input.shape)}")
        added = self._output_padding(input, output_size)
        x = input if input.dim() == 4 else input[None]
        sizes = [a.size(n, p) for a, n, p in zip(self.phases.axes, x.shape[2:], added, strict=True)]
        if min(sizes) < 1:
            raise ValueError(f"x is too small: {tuple(x.shape)} gives an output of {tuple(sizes)}")
        y = self.phases.images(self._convolved(self._widened(x, added)), added)
        return y if input.dim() == 4 else y[0]

    def _output_padding(self, x: Tensor, output_size: Sequence[int] | None) -> Sequence[int]:
        if output_size is None:
            return self.output_padding
        sizes = self.stride, self.padding, self.kernel_size
        compute: Any = nn.ConvTranspose2d._output_padding
        return cast(list[int], compute(self, x, list(output_size), *sizes, 2, self.dilation))

    def _widened(self, x: Tensor, added: Sequence[int]) -> Tensor:
        """x with zeros where a larger output than usual needs them."""
        more = [
            max(0, axis.surplus(own) - axis.surplus(axis.output_padding))
            for axis, own in zip(self.phases.axes, added, strict=True)
        ]
        return nn.functional.pad(x, [0, more[1], 0, more[0]]) if any(more) else x

    def _convolved(self, x: Tensor) -> Tensor:
        """The phases, one after the other: (N, phases · O, H, W)."""
        one, padding = (1, 1), self.phases.padding
        y = self._direct(x, None, self.shape, one, padding, one, 1)
        if y is not None:
            return y
        return F.csr_conv2d(
            x,
            self.weight,
            self.bias_of_rows(),
            1,
            padding,
            activation=self.activation,
            backend=self._runs_on(),
        )

    def bias_of_rows(self) -> Tensor | None:
        bias = self._parameters["bias"]
        return None if bias is None else bias.repeat(self.phases.count)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", stride={self.stride}"
        for name, default in (
            ("padding", (0, 0)),
            ("output_padding", (0, 0)),
            ("dilation", (1, 1)),
            ("activation", None),
            ("backend", "auto"),
        ):
            if (value := getattr(self, name)) != default:
                text += f", {name}={value}"
        if self.bias is None:
            text += ", bias=False"
        return text + f", sparsity={self.sparsity:.3f}"


def _refuses(dense: nn.Module) -> str | None:
    """Why this is no transposed convolution of one group, or None if it is."""
    lazy = isinstance(dense, nn.modules.lazy.LazyModuleMixin)
    if not isinstance(dense, nn.ConvTranspose2d) or lazy:
        return f"{type(dense).__name__} is not ConvTranspose2d"
    return None if dense.groups == 1 else f"groups is {dense.groups}, not 1"


def _packed(dense: nn.ConvTranspose2d, mask: Tensor) -> CSRWeight:
    """The packed weight of the phases of a masked layer."""
    if (reason := _refuses(dense)) is not None:
        raise ValueError(reason)
    if mask.dtype != torch.bool or mask.shape != dense.weight.shape:
        wanted = tuple(dense.weight.shape)
        raise ValueError(f"mask must be bool {wanted}, got {mask.dtype} {tuple(mask.shape)}")
    phases = Phases.of(dense)
    return CSRWeight.pack(phases.split(dense.weight), phases.split(mask))
