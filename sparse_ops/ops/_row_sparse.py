"""The compiled gradient that periodic_conv2d and csr_conv2d share."""

from collections.abc import Callable

import torch
from torch import Tensor

from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.ops._conv2d import Geometry, reference_backward

# Above this density the dense gradient is faster: it runs at the dense library's full speed.
DENSE_GRADIENT_FROM = 0.15


def row_sparse_backward(
    isa: str,
) -> Callable[..., tuple[Tensor | None, Tensor | None]]:
    """(dy, need_x, need_values, x, weight, geometry) -> (dx, dvalues), by an ISA's kernels."""
    operator = getattr(torch.ops.sparse_ops, f"sparse_conv2d_backward_{isa}")

    def backward(
        dy: Tensor,
        need_x: bool,
        need_values: bool,
        x: Tensor,
        weight: CSRWeight | PeriodicWeight,
        geometry: Geometry,
    ) -> tuple[Tensor | None, Tensor | None]:
        O, per_group, kH, kW = weight.shape
        if weight.nnz > DENSE_GRADIENT_FROM * O * per_group * kH * kW:
            return reference_backward(dy, need_x, need_values, x, weight, geometry)
        if isinstance(weight, CSRWeight):
            crow, col = weight.crow_indices, weight.col_indices
        else:
            crow, col = weight.class_crow_indices, weight.class_col_indices
        dx, dvalues = operator(
            dy.float(),
            x.float(),
            crow,
            col,
            weight.values.float(),
            weight.shape,
            *geometry,
            need_x,
            need_values,
        )
        return (
            dx.to(x.dtype) if need_x else None,
            dvalues.to(weight.values.dtype) if need_values else None,
        )

    return backward
