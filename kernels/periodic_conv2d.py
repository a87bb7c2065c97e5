"""Convolution on a periodic pattern: one program per tile of pixels and class of filters.

Filters of a class, o mod classes, keep the same columns, so that class by class the convolution is
a dense product over those columns alone:

    y[pixel, o] = Σ_k x[pixel, column k of the class] · w[o, k]

K is I times the mean number of taps, instead of I · kH · kW. The class's list of columns, which
follows from the pattern, says what to read of x; a filter's values stand in the same order.
Filters of a class are found by arithmetic, o = class + classes · j, on the way in and out: neither
weights nor activations are permuted in memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import csr_conv2d as rows
from ._device import activated, gathered, located
from ._launch import geometry, output
from .configs import ClassConfig, class_config

# Below this many filters in a class and group most of a matrix instruction (at least 8 wide) would
# be padding.
NARROW = 5


@triton.jit
def _periodic_conv2d_fwd_kernel(
    x_ptr,
    crow_ptr,
    col_ptr,
    values_ptr,
    bias_ptr,
    y_ptr,
    groups,
    filters_in_group,
    channels_in_group,
    classes,
    blocks,
    listed,
    nnz,
    pixels,
    height,
    width,
    out_h,
    out_w,
    x_image,
    x_channel,
    x_row,
    x_column,
    y_image,
    y_channel,
    y_row,
    y_column,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    TAPS: tl.constexpr,
    KERNEL_W: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_FILTERS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    INDEX: tl.constexpr,
):
    # Classes run fastest: programs at work together read the same pixels.
    program = tl.program_id(0)
    parts = groups * classes * blocks
    part = program % parts
    block = part % blocks
    own = part // blocks % classes
    group = part // (blocks * classes)
    pixel, image, row, column = located(program // parts, out_h, out_w, BLOCK_PIXELS, INDEX)
    inside = pixel < pixels
    top = row * stride_h - padding_h
    left = column * stride_w - padding_w
    corner = (
        image.to(tl.int64) * x_image
        + group.to(tl.int64) * channels_in_group * x_channel
        + top.to(tl.int64) * x_row
        + left.to(tl.int64) * x_column
    )
    # The group's first filter of this class, and from there every classes-th.
    low = group * filters_in_group
    nearest = low + (own + classes - low % classes) % classes
    o = nearest + classes * (block * BLOCK_FILTERS + tl.arange(0, BLOCK_FILTERS))
    wanted = o < low + filters_in_group

    start = tl.maximum(tl.load(crow_ptr + own), 0)
    stop = tl.minimum(tl.load(crow_ptr + own + 1), listed)
    first = (o // classes).to(tl.int64) * tl.load(crow_ptr + classes) + start
    total = tl.zeros((BLOCK_PIXELS, BLOCK_FILTERS), dtype=tl.float32)
    for at in range(start, stop, BLOCK_COLUMNS):
        place = at + tl.arange(0, BLOCK_COLUMNS)
        kept = place < stop
        col = tl.load(col_ptr + place, mask=kept, other=0)
        kept = kept & (col >= 0) & (col < channels_in_group * TAPS)
        position = first[:, None] + (place - start)[None, :]
        there = wanted[:, None] & kept[None, :] & (position >= 0) & (position < nnz)
        weight = tl.load(values_ptr + position, mask=there, other=0.0)
        found = gathered(
            x_ptr,
            corner,
            top,
            left,
            inside,
            col // TAPS,
            col % TAPS,
            kept,
            height,
            width,
            x_channel,
            x_row,
            x_column,
            dilation_h,
            dilation_w,
            KERNEL_W,
        )
        total = tl.dot(tl.trans(found), tl.trans(weight), total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias_ptr + o, mask=wanted, other=0.0).to(tl.float32)[None, :]
    y = tl.trans(activated(total, ACTIVATION))
    offset = (
        image.to(tl.int64) * y_image + row.to(tl.int64) * y_row + column.to(tl.int64) * y_column
    )
    tl.store(
        y_ptr + offset[None, :] + o.to(tl.int64)[:, None] * y_channel,
        y.to(y_ptr.dtype.element_ty),
        mask=wanted[:, None] & inside[None, :],
    )


def periodic_conv2d(
    x: Tensor,
    crow_indices: Tensor,
    col_indices: Tensor,
    values: Tensor,
    bias: Tensor | None,
    weight_shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: int,
    tf32: bool = False,
    config: ClassConfig | None = None,
) -> Tensor:
    """Convolves x with filters of which those of one class keep the same columns.

    Args and returns: as `csr_conv2d`, and:

    Args:
        tf32: whether float32 factors may be rounded to TF32 for the tensor cores.
    """
    filters, per_group = weight_shape[:2]
    classes = crow_indices.numel() - 1
    in_class = triton.cdiv(filters // groups, classes)
    if in_class < NARROW and config is None:
        return rows.csr_conv2d(
            x,
            crow_indices,
            col_indices,
            values,
            bias,
            weight_shape,
            stride,
            padding,
            dilation,
            groups,
            activation,
        )
    config = config or class_config(x, in_class)
    y, plane = output(x, weight_shape, stride, padding, dilation)
    if y.numel() == 0:
        return y
    blocks = triton.cdiv(in_class, config.block_filters)
    grid = (triton.cdiv(plane.pixels, config.block_pixels) * groups * classes * blocks,)
    with torch.cuda.device_of(x):
        _periodic_conv2d_fwd_kernel[grid](
            x,
            crow_indices,
            col_indices,
            values,
            bias,
            y,
            groups,
            filters // groups,
            per_group,
            classes,
            blocks,
            col_indices.numel(),
            values.numel(),
            HAS_BIAS=bias is not None,
            ACTIVATION=activation,
            PRECISION="tf32" if tf32 else "ieee",
            BLOCK_FILTERS=config.block_filters,
            BLOCK_COLUMNS=config.block_columns,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            **geometry(x, y, plane, weight_shape, stride, padding, dilation, config.block_pixels),
        )
    return y
