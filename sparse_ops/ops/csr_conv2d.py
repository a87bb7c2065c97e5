"""csr_conv2d: a 2-D convolution with any sparse weight, in compressed sparse rows."""

from collections.abc import Sequence

from torch import Tensor

from sparse_ops.formats import CSRWeight
from sparse_ops.ops._backend import Backend
from sparse_ops.ops._conv2d import conv2d, dense_on_gpu, reference
from sparse_ops.ops._native import ISAS
from sparse_ops.ops._row_sparse import (
    row_sparse_compiled,
    row_sparse_cuda,
    row_sparse_triton,
    row_sparse_wgmma,
)

# In order of preference. Dispatch, the tests, the benchmarks and the planner all read this list:
# to add a backend, add a line here.
BACKENDS = (
    *(row_sparse_compiled("csr_conv2d", isa) for isa in ISAS),
    row_sparse_wgmma("csr_conv2d"),
    row_sparse_cuda("csr_conv2d"),
    row_sparse_triton("csr_conv2d"),
    dense_on_gpu(),
    Backend("reference", reference, lambda *_: None),
)


def csr_conv2d(
    x: Tensor,
    weight: CSRWeight,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Convolves with an unstructured sparse weight.

    Args:
        x: (N, I, H, W) or (I, H, W), any strides.
        weight: packed (O, I / groups, kH, kW).
        bias: (O), or None.
        stride, padding, dilation, groups: as in torch.nn.functional.conv2d; padding in numbers.
        activation: None, "relu", "relu6", "silu", "hardswish", "gelu", "gelu_tanh" (its
            approximation by tanh) or "leaky_relu(0.01)" with any slope, applied to the output.
        residual: (N, O, H', W'), of x's dtype, added before the activation, or None.
        out: (N, O, H', W'), of x's dtype, to write to, as `whole[:, 8:24]` of a contiguous or
            channels_last tensor; or None. No argument may want a gradient then.
        backend: a name in `BACKENDS`, or "auto" for the first that runs these arguments.

    Returns:
        (N, O, H', W') or (O, H', W'), of x's dtype and device; channels_last if x is. Or `out`.
        Beside it, compiled backends take scratch memory of about the padded input (on small maps
        of one for each column of the kernel, up to 512 KB) and the kept weights, and for each
        thread of some lines of the output.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or there is no such backend or activation.
        RuntimeError: the backend asked for refuses these arguments; the message says why. Or `out`
            wants a gradient, or a kernel cannot write to it: its strides are others, or it shares
            memory with x or residual.
    """
    if len(weight.shape) != 4:
        raise ValueError(f"weight must be (O, I / groups, kH, kW), got {weight.shape}")
    return conv2d(
        BACKENDS,
        x,
        weight,
        bias,
        stride,
        padding,
        dilation,
        groups,
        activation,
        residual,
        out,
        backend,
    )
