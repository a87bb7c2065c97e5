"""What periodic_conv2d and csr_conv2d share: the call of their kernels and the gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.ops import _triton
from sparse_ops.ops._activation import code_of
from sparse_ops.ops._backend import Backend
from sparse_ops.ops._conv2d import Geometry, compiled, on_triton, reference_backward
from sparse_ops.ops._cuda import refuses_cuda, refuses_wgmma
from sparse_ops.ops._predicted import cuda_conv_loses, wgmma_conv_loses

# Up to this density ours is the faster gradient (CSR, three layers of 64 to 256 channels, batch 8,
# Zen 5, by turns: 1.8-2.2x at 0.1, 1.4-1.7x at 0.15, 0.8-0.95x at 0.3).
DENSE_GRADIENT_FROM = 0.15


def columns_of(weight: CSRWeight | PeriodicWeight) -> tuple[Tensor, Tensor]:
    """(crow_indices, col_indices) of the filters, or of their classes."""
    if isinstance(weight, CSRWeight):
        return weight.crow_indices, weight.col_indices
    return weight.class_crow_indices, weight.class_col_indices


def row_sparse_run(name: str) -> Callable[..., Any]:
    """What calls the registered operator of that name, of compiled kernels or of Triton's; one that
    writes to a tensor is given that last.
    """
    operator = getattr(torch.ops.sparse_ops, name)

    def run(
        x: Tensor,
        weight: CSRWeight | PeriodicWeight,
        bias: Tensor | None,
        geometry: Geometry,
        activation: str | None,
        residual: Tensor | None,
        *out: Tensor,
    ) -> Any:
        return operator(
            x,
            *columns_of(weight),
            weight.values,
            bias,
            residual,
            weight.shape,
            *geometry,
            code_of(activation),
            *out,
        )

    return run


def row_sparse_compiled(operator: str, isa: str) -> Backend:
    """The backend of an operator's kernels for an instruction set."""
    run, into = row_sparse_run(f"{operator}_{isa}"), row_sparse_run(f"{operator}_out_{isa}")
    return compiled(isa, run, into, row_sparse_backward(isa))


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
        dx, dvalues = operator(
            dy.float(),
            x.float(),
            *columns_of(weight),
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


def triton_backward(
    dy: Tensor,
    need_x: bool,
    need_values: bool,
    x: Tensor,
    weight: CSRWeight | PeriodicWeight,
    geometry: Geometry,
) -> tuple[Tensor | None, Tensor | None]:
    """(dx, dvalues) by the Triton kernels."""
    dx, dvalues = torch.ops.sparse_ops.sparse_conv2d_backward_triton(
        dy,
        x,
        *columns_of(weight),
        weight.values,
        weight.shape,
        *geometry,
        need_x,
        need_values,
    )
    return dx if need_x else None, dvalues if need_values else None


def row_sparse_triton(operator: str) -> Backend:
    """The backend of an operator's Triton kernels."""
    return on_triton(row_sparse_run(f"{operator}_triton"), triton_backward)


def row_sparse_cuda(operator: str) -> Backend:
    """The backend of an operator's CUDA C++ kernel; its gradient is Triton's, where that is."""
    backward = triton_backward if _triton.MISSING is None else None
    run = row_sparse_run(f"{operator}_cuda")
    return Backend("cuda", run, refuses_cuda, backward, loses=cuda_conv_loses)


def row_sparse_wgmma(operator: str) -> Backend:
    """As `row_sparse_cuda`, by the products of Hopper cards."""
    backward = triton_backward if _triton.MISSING is None else None
    run = row_sparse_run(f"{operator}_wgmma")
    return Backend("wgmma", run, refuses_wgmma, backward, loses=wgmma_conv_loses)
