"""The compiled extension: whether it is here, why not, and what this CPU can run of it.

Facts of the machine are constants, found once at import, so that torch.compile can read them.
The schemas and the shapes of the compiled operators are defined here, in Python, so that they exist
(for torch.export, say) even where no compiled code does.
"""

import os
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sparse_ops.ops._program_shapes import run_fake
from sparse_ops.ops._shapes import conv2d_output_size
from sparse_ops.ops._transforms import is_transformed

# Every kernel of csrc/cpu is compiled once for each of these, best first; "neon" is aarch64's,
# "scalar" is portable.
ISAS = ("avx512", "avx2", "neon", "scalar")

LIBRARY = torch.library.Library("sparse_ops", "DEF")
LIBRARY.define("cpu_supports(str isa) -> bool")

# Rows are filters. Filter o keeps the columns of class o mod (number of classes), a column being
# (i * kH + y) * kW + x; values stand filter by filter. y is channels_last if x is. A residual, of
# y's shape, is added before the activation. x is float32, float16 or bfloat16, residual and y are
# as x, values and bias as x or float32; the sums are float32.
CONV = (
    "(Tensor x, Tensor crow_indices, Tensor col_indices, Tensor values, Tensor? bias, "
    "Tensor? residual, int[] weight_shape, int[] stride, int[] padding, int[] dilation, "
    "int groups, int activation) -> Tensor"
)
CONV_BACKWARD = (
    "(Tensor dy, Tensor x, Tensor crow_indices, Tensor col_indices, Tensor values, "
    "int[] weight_shape, int[] stride, int[] padding, int[] dilation, int groups, "
    "bool need_x, bool need_values) -> (Tensor, Tensor)"
)
CHANNEL_PRUNED = (
    "(Tensor x, Tensor values, Tensor out_channels, Tensor in_channels, Tensor? bias, "
    "Tensor? residual, int[] weight_shape, int[] stride, int[] padding, int[] dilation, "
    "int activation) -> Tensor"
)
# The same, written to a y of that shape and type; its images or pixels, and the rows of a linear
# layer's, may be any distance apart.
# It is not called `out` and no keyword: torch.compile refuses such that are not contiguous.
CONV_OUT = CONV.replace(") -> Tensor", ", Tensor(a!) y) -> ()")
CHANNEL_PRUNED_OUT = CHANNEL_PRUNED.replace(") -> Tensor", ", Tensor(a!) y) -> ()")
LINEAR = (
    "(Tensor x, Tensor crow_indices, Tensor col_indices, Tensor values, Tensor? bias, "
    "Tensor? residual, int activation) -> Tensor"
)
LINEAR_OUT = LINEAR.replace(") -> Tensor", ", Tensor(a!) y) -> ()")
LINEAR_BACKWARD = (
    "(Tensor dy, Tensor x, Tensor crow_indices, Tensor col_indices, Tensor values, "
    "bool need_x, bool need_values) -> (Tensor, Tensor)"
)
# Images in blocks, see blocked.py and csrc/cpu/blocked.h.
TO_BLOCKED = "(Tensor x, int halo) -> Tensor"
FROM_BLOCKED = "(Tensor x, int halo, int batch, bool channels_last) -> Tensor"
BLOCKED_CONV = (
    "(Tensor x, Tensor starts, Tensor rows, Tensor filters, Tensor offsets, Tensor values, "
    "Tensor? bias, Tensor? residual, int[] out_size, int[] stride, int out_halo, "
    "int residual_halo, int activation) -> Tensor"
)
BLOCKED_POOL = (
    "(Tensor x, bool most, int[] kernel, int[] stride, int[] padding, int halo, int out_halo) "
    "-> Tensor"
)
# A whole network, see _program_code.py and csrc/program/run.h. `shapes`: see _program_shapes.py.
RUN_PROGRAM = "(Tensor[] inputs, Tensor program, Tensor[] constants, int[] shapes=[]) -> Tensor[]"
PROFILE_PROGRAM = "(Tensor[] inputs, Tensor program, Tensor[] constants, int repeats) -> Tensor"
# One step of a program, for tests: csrc/program/test_step.h.
STEP = (
    "(Tensor[] inputs, int[] orders, int[] halos, int out_order, int out_halo, int kind, "
    "int[] attributes, Tensor[] constants) -> Tensor"
)
LANES = 16

LIBRARY.define("release_program(int number) -> ()")
# How many sizes of programs are prepared; and, for tests: memory and outputs begin as NaN.
LIBRARY.define("kept_programs() -> int")
LIBRARY.define("poison_programs(bool on) -> ()")


def channels_last(x: Tensor) -> bool:
    """Whether (N, C, H, W) is stored as (N, H, W, C), and not in both ways at once."""
    if is_transformed():
        # vmap does not say; values are the same in any layout.
        return False
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _in_layout_of(x: Tensor, y: Tensor) -> Tensor:
    return torch.empty_like(y, memory_format=torch.channels_last) if channels_last(x) else y


def conv_fake(
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
    size = conv2d_output_size(x.shape[2:], weight_shape[2:], stride, padding, dilation)
    return _in_layout_of(x, x.new_empty(x.shape[0], weight_shape[0], *size))


def channel_pruned_fake(
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


def linear_fake(
    x: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    values: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
) -> Tensor:
    return x.new_empty(x.shape[0], crow_indices.shape[0] - 1)


def to_blocked_fake(x: Tensor, halo: int) -> Tensor:
    N, C, H, W = x.shape
    return x.new_empty(-(-N // LANES), C, H + 2 * halo, W + 2 * halo, LANES)


def from_blocked_fake(x: Tensor, halo: int, batch: int, channels_last: bool) -> Tensor:
    _, C, H, W, _ = x.shape
    y = x.new_empty(batch, C, H - 2 * halo, W - 2 * halo)
    return torch.empty_like(y, memory_format=torch.channels_last) if channels_last else y


def blocked_conv_fake(
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


def blocked_pool_fake(
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


def _out_fake(*arguments: object) -> None:
    """Nothing new comes of it."""


def _backward_fake(dy: Tensor, x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    values = rest[2]
    need_x, need_values = rest[-2:]
    assert isinstance(values, Tensor)
    return (
        x.new_empty(x.shape if need_x else (0,)),
        values.new_empty(values.shape if need_values else (0,)),
    )


for _isa in ISAS:
    for _name, _schema, _fake in (
        ("periodic_conv2d", CONV, conv_fake),
        ("csr_conv2d", CONV, conv_fake),
        ("channel_pruned_conv2d", CHANNEL_PRUNED, channel_pruned_fake),
        ("periodic_conv2d_out", CONV_OUT, _out_fake),
        ("csr_conv2d_out", CONV_OUT, _out_fake),
        ("channel_pruned_conv2d_out", CHANNEL_PRUNED_OUT, _out_fake),
        ("csr_linear", LINEAR, linear_fake),
        ("csr_linear_out", LINEAR_OUT, _out_fake),
        ("to_blocked", TO_BLOCKED, to_blocked_fake),
        ("from_blocked", FROM_BLOCKED, from_blocked_fake),
        ("blocked_conv2d", BLOCKED_CONV, blocked_conv_fake),
        ("blocked_pool2d", BLOCKED_POOL, blocked_pool_fake),
        ("sparse_conv2d_backward", CONV_BACKWARD, _backward_fake),
        ("csr_linear_backward", LINEAR_BACKWARD, _backward_fake),
        ("run_program", RUN_PROGRAM, run_fake),
    ):
        LIBRARY.define(f"{_name}_{_isa}{_schema}", tags=[torch.Tag.pt2_compliant_tag])
        torch.library.register_fake(f"sparse_ops::{_name}_{_isa}", _fake, lib=LIBRARY)
    LIBRARY.define(f"rerun_program_{_isa}(Tensor[] inputs, int number) -> Tensor[]")
    LIBRARY.define(f"profile_program_{_isa}{PROFILE_PROGRAM}")
    LIBRARY.define(
        f"describe_program_{_isa}(Tensor program, Tensor[] constants, int[] sizes) -> Tensor"
    )
    LIBRARY.define(f"step_{_isa}{STEP}")


def _load() -> str | None:
    try:
        import_module("sparse_ops._C")
    except ImportError as error:
        return f"the compiled extension is not here ({error})"
    return None


# None if the extension is loaded, else the reason, in the import error's own words.
MISSING: str | None = _load()

# The best instruction set to use, though the CPU may have better ones: to compare them.
MOST: str = os.environ.get("SPARSE_OPS_ISA", ISAS[0])
if MOST not in ISAS:
    raise ValueError(f"SPARSE_OPS_ISA must be one of {', '.join(ISAS)}, got {MOST!r}")


def _refuses(isa: str) -> str | None:
    if ISAS.index(isa) < ISAS.index(MOST):
        return f"SPARSE_OPS_ISA={MOST} leaves {isa} out"
    if torch.ops.sparse_ops.cpu_supports(isa):
        return None
    return f"this CPU does not have {isa}"


# Why kernels for an instruction set cannot run here, or None if they can.
REFUSES: dict[str, str | None] = {isa: MISSING or _refuses(isa) for isa in ISAS}

# The best instruction set that kernels have here, or None.
BEST: str | None = next((isa for isa in ISAS if REFUSES[isa] is None), None)


def refuses_isa(isa: str, x: Tensor) -> str | None:
    """Why the kernels compiled for an instruction set cannot run on x, or None if they can."""
    if REFUSES[isa] is not None:
        return REFUSES[isa]
    if x.device.type != "cpu":
        return f"x is on {x.device.type}, not cpu"
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"x is {x.dtype}, not float32, float16 or bfloat16"
    return None


def compiled_operators(name: str, *, auto: bool = True) -> dict[str, Any]:
    """Backend -> the compiled operator itself, of those that run here; with `auto`, "auto" is the
    best of them.

    For callers that have nothing to check or convert: on small layers the checks of the functions
    take as long as the arithmetic.
    """
    here = [isa for isa in ISAS if REFUSES[isa] is None]
    operators = {isa: getattr(torch.ops.sparse_ops, f"{name}_{isa}").default for isa in here}
    return operators | {"auto": operators[here[0]]} if here and auto else operators
