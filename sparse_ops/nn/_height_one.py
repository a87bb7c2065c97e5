"""Convolutions along lines: those in two dimensions, over images of height one."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparse_ops.nn._conv import SparseConv2d
from sparse_ops.nn._node import node_of


def as_conv2d(dense: nn.Conv1d) -> nn.Conv2d:
    """The convolution of images of height one that an nn.Conv1d is; it shares its tensors."""
    pad: Any = dense.padding
    steps: list[Any] = [(1, *each) for each in (dense.kernel_size, dense.stride, dense.dilation)]
    twin = nn.Conv2d(
        dense.in_channels,
        dense.out_channels,
        steps[0],
        steps[1],
        pad if isinstance(pad, str) else (0, *pad),
        steps[2],
        dense.groups,
        False,
        dense.padding_mode,
        device="meta",
    )
    weight = dense.weight.detach()[:, :, None]
    twin.weight = nn.Parameter(weight, dense.weight.requires_grad)
    twin.bias = dense.bias
    return twin.train(dense.training)


class HeightOne(SparseConv2d):
    """What a SparseConv2d has before it to stand for an nn.Conv1d.

    Its packed weight is (O, I / groups, 1, k), and stride, padding, dilation are pairs.
    """

    DENSE: ClassVar[type[nn.Module]] = nn.Conv1d

    @classmethod
    def template(cls, *arguments: Any, **keywords: Any) -> nn.Conv2d:
        return as_conv2d(nn.Conv1d(*arguments, **keywords))

    def __init__(self, *arguments: Any, mask: Tensor | None = None, **keywords: Any) -> None:
        given: Any = {} if mask is None else {"mask": mask.unsqueeze(2)}
        super().__init__(*arguments, **given, **keywords)  # type: ignore[misc]

    @classmethod
    def refuses(cls, dense: nn.Module, mask: Tensor) -> str | None:
        """Why `dense` with `mask` cannot become this layer; None if it can."""
        if not isinstance(dense, nn.Conv1d):
            return f"{type(dense).__name__} is not Conv1d"
        return super().refuses(as_conv2d(dense), mask.unsqueeze(2))  # type: ignore[misc]

    @classmethod
    def from_dense(cls, dense: Any, mask: Tensor, **options: Any) -> Any:
        """The sparse layer that equals an nn.Conv1d with its weight masked.

        Raises:
            ValueError: this is not a Conv1d, or the mask does not fit the weight or the format.
        """
        if not isinstance(dense, nn.Conv1d):
            raise ValueError(f"{type(dense).__name__} is not Conv1d")
        return super().from_dense(as_conv2d(dense), mask.unsqueeze(2), **options)  # type: ignore[misc]

    def to_dense(self) -> nn.Module:
        """The nn.Conv1d of the same outputs; followed by the activation, if there is one."""
        return self.followed_by_activation(self.without_activation())

    def without_activation(self) -> nn.Conv1d:
        """The nn.Conv1d of the same weight and bias."""
        pad = self.padding
        dense = nn.Conv1d(
            self.in_channels,
            self.out_channels,
            self.kernel_size[1],
            self.stride[1],
            pad if isinstance(pad, str) else pad[1],
            self.dilation[1],
            self.groups,
            self.bias is not None,
            self.padding_mode,
            device=self.values.device,
            dtype=self.values.dtype,
        )
        with torch.no_grad():
            dense.weight.copy_(self.weight.to_dense()[:, :, 0])
            if self.bias is not None and dense.bias is not None:
                dense.bias.copy_(self.bias)
        return dense.train(self.training)

    def forward(  # type: ignore[override]
        self, input: Tensor, residual: Tensor | None = None
    ) -> Tensor:
        """x (N, I, L) -> y (N, O, L'); a residual is added before the activation."""
        if (node := node_of(self, input, residual)) is not None:
            return node
        if input.dim() not in (2, 3):
            raise ValueError(f"x must be (N, {self.in_channels}, L), got {tuple(input.shape)}")
        added = None if residual is None else residual.unsqueeze(-2)
        return super().forward(input.unsqueeze(-2), added).squeeze(-2)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *rest: Any, **keywords: Any
    ) -> None:
        dense = state_dict.get(f"{prefix}weight")
        if isinstance(dense, Tensor) and dense.dim() == 3:
            state_dict = {**state_dict, f"{prefix}weight": dense.unsqueeze(2)}
        super()._load_from_state_dict(state_dict, prefix, *rest, **keywords)
