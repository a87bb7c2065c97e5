"""PeriodicWeight: a convolution weight whose mask is a periodic pattern.

Filters o and o + period keep the same weights. So the pattern, a few dozen bits, replaces all
indices: filters of the same class, o mod period, share one list of columns.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparse_ops.formats._common import Packed, check_shape, check_values, check_weight_and_mask
from sparse_ops.patterns import Periodic


def class_columns(pattern: Periodic, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The columns that the filters of each class keep, as compressed sparse rows.

    Returns:
        crow_indices (classes + 1) and col_indices, int32; classes = min(period, O).
    """
    classes = min(pattern.period, shape[0])
    kept = pattern.mask((classes, *shape[1:])).flatten(1)
    crow = torch.zeros(classes + 1, dtype=torch.int32)
    crow[1:] = kept.sum(1).cumsum(0)
    return crow, kept.nonzero()[:, 1].to(torch.int32)


@dataclass(frozen=True, eq=False)
class PeriodicWeight(Packed):
    """A convolution weight on a periodic pattern.

    Attributes:
        values: (nnz): the kept weights.
        class_crow_indices, class_col_indices: int32; they follow from pattern and shape.
        pattern: which weights are kept.
        shape: (O, I, kH, kW), that of the dense weight; I counts the channels of one group.
    """

    values: Tensor
    class_crow_indices: Tensor
    class_col_indices: Tensor
    pattern: Periodic
    shape: tuple[int, ...]

    @classmethod
    def pack(
        cls, weight: Tensor, mask: Tensor, pattern: Periodic | None = None
    ) -> "PeriodicWeight":
        """Packs `weight * mask`; `pattern`, if it is known, saves looking for it.

        Raises:
            ValueError: weight and mask do not fit, or the mask is not (this) periodic pattern.
        """
        check_weight_and_mask(weight, mask, (4,))
        shape = tuple(weight.shape)
        check_shape(shape, (4,))
        if pattern is None:
            pattern = Periodic.recognise(mask.cpu())
            if pattern is None:
                raise ValueError("mask is not periodic")
        elif not torch.equal(pattern.mask(shape), mask.cpu()):
            raise ValueError(f"mask is not that of the pattern given, of period {pattern.period}")
        return cls.on_pattern(weight.detach()[mask], pattern, shape)

    @classmethod
    def on_pattern(
        cls, values: Tensor, pattern: Periodic, shape: tuple[int, ...]
    ) -> "PeriodicWeight":
        """Puts values, in the order of the mask, on a pattern; `validate` tells if they fit."""
        crow, col = (t.to(values.device) for t in class_columns(pattern, shape))
        return cls(values, crow, col, pattern, shape)

    @property
    def nnz(self) -> int:
        return self.values.numel()

    def mask(self) -> Tensor:
        """(O, I, kH, kW), bool, on the device of the values."""
        classes = self.class_crow_indices.numel() - 1
        columns = self.shape[1] * self.shape[2] * self.shape[3]
        rows = torch.repeat_interleave(
            torch.arange(classes, device=self.values.device),
            self.class_crow_indices.diff().long(),
            output_size=self.class_col_indices.numel(),
        )
        kept = torch.zeros(classes, columns, dtype=torch.bool, device=self.values.device)
        kept = kept.index_put((rows, self.class_col_indices.long()), kept.new_ones(()))
        owner = torch.arange(self.shape[0], device=self.values.device) % classes
        return kept[owner].reshape(self.shape)

    def scatter(self, values: Tensor) -> Tensor:
        """The dense weight that has these values where this one keeps weights, and zeros."""
        return values.new_zeros(self.shape).masked_scatter(self.mask(), values)

    def gather(self, dense: Tensor) -> Tensor:
        """(nnz): what stands in a dense weight where this one keeps weights."""
        order = self.mask().flatten().to(torch.int8).argsort(descending=True, stable=True)
        return dense.flatten()[order[: self.values.numel()]]

    def to_dense(self) -> Tensor:
        return self.scatter(self.values)

    def with_values(self, values: Tensor) -> "PeriodicWeight":
        return replace(self, values=values)

    def validate(self) -> None:
        """Raises ValueError unless pattern, shape, columns and values belong together."""
        check_shape(self.shape, (4,))
        crow, col = class_columns(self.pattern, self.shape)
        if not (
            torch.equal(crow, self.class_crow_indices.cpu())
            and torch.equal(col, self.class_col_indices.cpu())
        ):
            raise ValueError("class columns do not follow from the pattern")
        check_values(self.values, (int(self.pattern.mask(self.shape).sum()),))
