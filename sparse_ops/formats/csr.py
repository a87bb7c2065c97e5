"""CSRWeight: any mask at all, in compressed sparse rows."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparse_ops.formats._common import (
    INT32_MAX,
    Packed,
    check_ascending,
    check_indices,
    check_pointers,
    check_shape,
    check_values,
    check_vector,
    check_weight_and_mask,
)


@dataclass(frozen=True, eq=False)
class CSRWeight(Packed):
    """A linear or convolution weight, one sparse row per output feature or channel.

    Attributes:
        crow_indices: (O + 1), int32: where each row starts in the two below.
        col_indices: (nnz), int32, rising in each row: i, or (i * kH + y) * kW + x.
        values: (nnz): the kept weights.
        shape: (O, I) or (O, I, kH, kW), that of the dense weight.
    """

    crow_indices: Tensor
    col_indices: Tensor
    values: Tensor
    shape: tuple[int, ...]

    @classmethod
    def pack(cls, weight: Tensor, mask: Tensor) -> "CSRWeight":
        """Raises ValueError if weight and mask do not fit, or the weight has over 2^31 entries."""
        check_weight_and_mask(weight, mask, (2, 4))
        check_shape(tuple(weight.shape), (2, 4))
        rows, columns = mask.flatten(1).nonzero(as_tuple=True)
        if len(columns) > INT32_MAX:
            raise ValueError(f"at most {INT32_MAX} weights can be kept, got {len(columns)}")
        crow = torch.zeros(mask.shape[0] + 1, dtype=torch.int32, device=weight.device)
        crow[1:] = torch.bincount(rows, minlength=mask.shape[0]).cumsum(0)
        values = weight.detach().flatten(1)[rows, columns]
        return cls(crow, columns.to(torch.int32), values, tuple(weight.shape))

    @property
    def nnz(self) -> int:
        return self.values.numel()

    def rows(self) -> Tensor:
        """(nnz), int64: the row of each value."""
        return torch.repeat_interleave(
            torch.arange(self.shape[0], device=self.values.device),
            self.crow_indices.diff().long(),
            output_size=self.values.numel(),
        )

    def scatter(self, values: Tensor) -> Tensor:
        """The dense weight that has these values where this one keeps weights, and zeros."""
        dense = values.new_zeros(self.shape).flatten(1)
        return dense.index_put((self.rows(), self.col_indices.long()), values).reshape(self.shape)

    def gather(self, dense: Tensor) -> Tensor:
        """(nnz): what stands in a dense weight where this one keeps weights."""
        return dense.flatten(1)[self.rows(), self.col_indices.long()]

    def to_dense(self) -> Tensor:
        return self.scatter(self.values)

    def with_values(self, values: Tensor) -> "CSRWeight":
        return replace(self, values=values)

    def validate(self) -> None:
        """Raises ValueError unless every index is in range, in order, and has its value."""
        check_shape(self.shape, (2, 4))
        check_vector("crow_indices", self.crow_indices, self.shape[0] + 1)
        check_vector("col_indices", self.col_indices)
        check_values(self.values, (self.col_indices.numel(),))
        check_pointers("crow_indices", self.crow_indices, self.col_indices.numel())
        columns = 1
        for size in self.shape[1:]:
            columns *= size
        check_indices("col_indices", self.col_indices, columns)
        check_ascending("col_indices", self.col_indices, self.crow_indices)
