"""CSRLinear."""

from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops import functional as F
from sparse_ops.formats import CSRWeight
from sparse_ops.nn._layer import SparseLayer
from sparse_ops.nn._node import node_of
from sparse_ops.ops._native import compiled_operators


class CSRLinear(SparseLayer):
    """An nn.Linear whose weight is stored in compressed sparse rows; trainable.

    Takes nn.Linear's arguments, and:

    Args:
        mask: (out_features, in_features), bool: which weights there are.
        activation: None, "relu", "relu6", "silu", "hardswish", "gelu", "gelu_tanh" (its
            approximation by tanh) or "leaky_relu(0.01)" with any slope, applied to the output.
        backend: a backend's name, or "auto".

    Initialised as nn.Linear is, then masked. Loads nn.Linear's checkpoints too.

    Raises:
        ValueError: the mask is not bool of the weight's shape.
    """

    DENSE = nn.Linear
    OPERATORS = compiled_operators("csr_linear")
    ARGUMENTS = ("crow_indices", "col_indices", "values")

    crow_indices: Tensor
    col_indices: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        mask: Tensor,
        activation: str | None = None,
        backend: str = "auto",
    ) -> None:
        dense = nn.Linear(in_features, out_features, bias, device, dtype)
        packed = CSRWeight.pack(dense.weight, mask.to(dense.weight.device))
        super().__init__(packed, dense.bias, activation, backend)
        self._keep_structure(packed)

    def _keep_structure(self, packed: CSRWeight) -> None:
        self.out_features, self.in_features = packed.shape
        self.register_buffer("crow_indices", packed.crow_indices)
        self.register_buffer("col_indices", packed.col_indices)

    @classmethod
    def refuses(cls, dense: nn.Module, mask: Tensor) -> str | None:
        """Why `dense` with `mask` cannot become this layer; None if it can."""
        if not isinstance(dense, nn.Linear):
            return f"{type(dense).__name__} is not Linear"
        return None if bool(mask.any()) else "no weight is left"

    @classmethod
    def from_packed(
        cls,
        packed: CSRWeight,
        bias: Tensor | None,
        *,
        activation: str | None = None,
        backend: str = "auto",
    ) -> "CSRLinear":
        """A layer on a packed weight."""
        if len(packed.shape) != 2:
            raise ValueError(f"weight must be (out_features, in_features), got {packed.shape}")
        layer = cls.__new__(cls)
        SparseLayer.__init__(layer, packed, bias, activation, backend)
        layer._keep_structure(packed)
        return layer

    @classmethod
    def from_dense(
        cls,
        dense: nn.Linear,
        mask: Tensor,
        *,
        activation: str | None = None,
        backend: str = "auto",
    ) -> "CSRLinear":
        """The sparse layer that equals `dense` with its weight masked.

        Raises:
            ValueError: this is not a Linear, or the mask is not bool of the weight's shape.
        """
        if not isinstance(dense, nn.Linear):
            raise ValueError(f"{type(dense).__name__} is not Linear")
        packed = CSRWeight.pack(dense.weight, mask)
        layer = cls.from_packed(packed, dense.bias, activation=activation, backend=backend)
        layer.train(dense.training)
        return layer

    def to_dense(self) -> nn.Module:
        """The nn.Linear of the same outputs; followed by the activation, if there is one."""
        dense = nn.Linear(
            self.in_features,
            self.out_features,
            self.bias is not None,
            device=self.values.device,
            dtype=self.values.dtype,
        )
        with torch.no_grad():
            dense.weight.copy_(self.weight.to_dense())
            if self.bias is not None:
                dense.bias.copy_(self.bias)
        dense.train(self.training)
        return self.followed_by_activation(dense)

    @property
    def weight(self) -> CSRWeight:
        return CSRWeight(self.crow_indices, self.col_indices, self.values, self.shape)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """x (*, in_features) -> (*, out_features); a residual is added before the activation."""
        if (node := node_of(self, input, residual)) is not None:
            return node
        x = input
        if x.dim() == 2 and x.shape[1] == self.shape[1]:
            y = self._direct(x, residual)
            if y is not None:
                return y
        return F.csr_linear(
            x,
            self.weight,
            self.bias,
            activation=self.activation,
            residual=residual,
            backend=self._runs_on(),
        )

    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}"
        text += f", bias={self.bias is not None}, sparsity={self.sparsity:.3f}"
        return text + (f", activation={self.activation}" if self.activation else "")
