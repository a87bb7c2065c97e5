"""What each operator takes and gives, once: a function's parameters are the operator's schema, and
it gives the shapes of what comes out.

The C++ functions of the same names and the launchers of GPU kernels have the same arguments in the
same order; a test calls each.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparse_ops.ops._program_shapes import run_fake
from sparse_ops.ops._shapes import conv2d_output_size
from sparse_ops.ops._transforms import is_transformed

LANES = 16


def channels_last(x: Tensor) -> bool:
    """Whether (N, C, H, W) is stored as (N, H, W, C), and not in both ways at once."""
    if is_transformed():
        # vmap does not say; values are the same in any layout.
        return False
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _in_layout_of(x: Tensor, y: Tensor) -> Tensor:
    return torch.empty_like(y, memory_format=torch.channels_last) if channels_last(x) else y


def sparse_conv2d(
    x: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    values: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    weight_shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: int,
) -> Tensor:
    """Rows are filters. Filter o keeps the columns of class o mod (number of classes), a column
    being (i * kH + y) * kW + x; values stand filter by filter. y is channels_last if x is. A
    residual, of y's shape, is added before the activation. x is float32, float16 or bfloat16,
    residual and y are as x, values and bias as x or float32; the sums are float32.
    """
    size = conv2d_output_size(x.shape[2:], weight_shape[2:], stride, padding, dilation)
    return _in_layout_of(x, x.new_empty(x.shape[0], weight_shape[0], *size))


def channel_pruned_conv2d(
    x: Tensor,
    values: Tensor,
    out_channels: Tensor,
    in_channels: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    weight_shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation: int,
) -> Tensor:
    size = conv2d_output_size(x.shape[2:], weight_shape[2:], stride, padding, dilation)
    return _in_layout_of(x, x.new_empty(x.shape[0], weight_shape[0], *size))


def csr_linear(
    x: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    values: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
) -> Tensor:
    return x.new_empty(x.shape[0], crow_indices.shape[0] - 1)


def to_blocked(x: Tensor, halo: int) -> Tensor:
    """Images in blocks: blocked.py and csrc/cpu/blocked.h."""
    N, C, H, W = x.shape
    return x.new_empty(-(-N // LANES), C, H + 2 * halo, W + 2 * halo, LANES)


def from_blocked(x: Tensor, halo: int, batch: int, channels_last: bool) -> Tensor:
    _, C, H, W, _ = x.shape
    y = x.new_empty(batch, C, H - 2 * halo, W - 2 * halo)
    return torch.empty_like(y, memory_format=torch.channels_last) if channels_last else y


def blocked_conv2d(
    x: Tensor,
    starts: Tensor,
    rows: Tensor,
    filters: Tensor,
    offsets: Tensor,
    values: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out_size: list[int],
    stride: list[int],
    out_halo: int,
    residual_halo: int,
    activation: int,
) -> Tensor:
    size = [each + 2 * out_halo for each in out_size]
    return x.new_empty(x.shape[0], filters.shape[0], *size, LANES)


def blocked_pool2d(
    x: Tensor,
    most: bool,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    halo: int,
    out_halo: int,
) -> Tensor:
    size = [
        (x.shape[2 + i] - 2 * halo + 2 * padding[i] - kernel[i]) // stride[i] + 1 + 2 * out_halo
        for i in range(2)
    ]
    return x.new_empty(x.shape[0], x.shape[1], *size, LANES)


def sparse_conv2d_backward(
    dy: Tensor,
    x: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    values: Tensor,
    weight_shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    need_x: bool,
    need_values: bool,
) -> tuple[Tensor, Tensor]:
    return _gradients(dy, x, values, need_x, need_values)


def channel_pruned_conv2d_backward(
    dy: Tensor,
    x: Tensor,
    values: Tensor,
    out_channels: Tensor,
    in_channels: Tensor,
    weight_shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    need_x: bool,
    need_values: bool,
) -> tuple[Tensor, Tensor]:
    return _gradients(dy, x, values, need_x, need_values)


def csr_linear_backward(
    dy: Tensor,
    x: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    values: Tensor,
    need_x: bool,
    need_values: bool,
) -> tuple[Tensor, Tensor]:
    return _gradients(dy, x, values, need_x, need_values)


def _gradients(
    dy: Tensor, x: Tensor, values: Tensor, need_x: bool, need_values: bool
) -> tuple[Tensor, Tensor]:
    return (
        x.new_empty(x.shape if need_x else (0,)),
        values.new_empty(values.shape if need_values else (0,)),
    )


def schema(shapes: Callable[..., Any]) -> str:
    """ "(Tensor x, int halo) -> Tensor", from the function of those parameters."""
    inferred: str = torch.library.infer_schema(shapes, mutates_args=())
    # Sizes are numbers when kernels are called.
    return inferred.replace("SymInt", "int")


def into(shapes: Callable[..., Any]) -> str:
    """The same, written to a y of that shape and type; its images or pixels, and the rows of a
    linear layer's, may be any distance apart.
    """
    # It is not called `out` and no keyword: torch.compile refuses such that are not contiguous.
    return schema(shapes).replace(") -> Tensor", ", Tensor(a!) y) -> ()")


def _nothing_new(*arguments: object) -> None:
    pass


# By name: the function that says what it takes and gives.
TAKES: dict[str, Callable[..., Any]] = {
    "periodic_conv2d": sparse_conv2d,
    "csr_conv2d": sparse_conv2d,
    "channel_pruned_conv2d": channel_pruned_conv2d,
    "csr_linear": csr_linear,
    "to_blocked": to_blocked,
    "from_blocked": from_blocked,
    "blocked_conv2d": blocked_conv2d,
    "blocked_pool2d": blocked_pool2d,
    "sparse_conv2d_backward": sparse_conv2d_backward,
    "channel_pruned_conv2d_backward": channel_pruned_conv2d_backward,
    "csr_linear_backward": csr_linear_backward,
}
# Those that have a form NAME_out.
HAVE_OUT = ("periodic_conv2d", "csr_conv2d", "channel_pruned_conv2d", "csr_linear")
# A whole network: _program_code.py and csrc/program/run.h. Calls that are not traced leave `shapes`
# out.
RUN_PROGRAM = "(Tensor[] inputs, Tensor program, Tensor[] constants, int[] shapes=[]) -> Tensor[]"


def _define(library: torch.library.Library, name: str, schema: str, fake: Any) -> None:
    library.define(f"{name}{schema}", tags=[torch.Tag.pt2_compliant_tag])
    torch.library.register_fake(f"sparse_ops::{name}", fake, lib=library)


def define(library: torch.library.Library, name: str, suffix: str, fake: Any = None) -> None:
    """Defines NAME_SUFFIX. `fake`: another function for shapes, where layouts differ."""
    _define(library, f"{name}_{suffix}", schema(TAKES[name]), fake or TAKES[name])


def define_out(library: torch.library.Library, name: str, suffix: str) -> None:
    """Defines NAME_out_SUFFIX."""
    _define(library, f"{name}_out_{suffix}", into(TAKES[name]), _nothing_new)


def define_run(library: torch.library.Library, suffix: str) -> None:
    """Defines run_program_SUFFIX."""
    _define(library, f"run_program_{suffix}", RUN_PROGRAM, run_fake)
