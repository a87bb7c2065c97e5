"""Convolution over the kept channels: a dense product whose gather is folded into the load of x.

One program per tile of pixels and block of kept filters; column k of the product is tap k mod
(kH · kW) of kept channel k // (kH · kW). No copy of x is made. Removed filters are their bias.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import activated, gathered, located
from ._launch import geometry, output
from .configs import ClassConfig, class_config


@triton.jit
def _bias_fill_kernel(
    bias_ptr,
    y_ptr,
    filters,
    pixels,
    out_h,
    out_w,
    y_image,
    y_channel,
    y_row,
    y_column,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    INDEX: tl.constexpr,
):
    program = tl.program_id(0)
    o = program % filters
    pixel, image, row, column = located(program // filters, out_h, out_w, BLOCK_PIXELS, INDEX)
    y = tl.zeros((BLOCK_PIXELS,), dtype=tl.float32)
    if HAS_BIAS:
        y += tl.load(bias_ptr + o).to(tl.float32)
    offset = (
        image.to(tl.int64) * y_image
        + o.to(tl.int64) * y_channel
        + row.to(tl.int64) * y_row
        + column.to(tl.int64) * y_column
    )
    y = activated(y, ACTIVATION)
    tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), mask=pixel < pixels)


@triton.jit
def _channel_pruned_conv2d_fwd_kernel(
    x_ptr,
    values_ptr,
    out_ptr,
    in_ptr,
    bias_ptr,
    y_ptr,
    kept_filters,
    kept_channels,
    filters,
    channels,
    blocks,
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
    # Blocks of filters run fastest: programs at work together read the same pixels.
    program = tl.program_id(0)
    pixel, image, row, column = located(program // blocks, out_h, out_w, BLOCK_PIXELS, INDEX)
    inside = pixel < pixels
    top = row * stride_h - padding_h
    left = column * stride_w - padding_w
    corner = image.to(tl.int64) * x_image + top.to(tl.int64) * x_row + left.to(tl.int64) * x_column
    own = program % blocks * BLOCK_FILTERS + tl.arange(0, BLOCK_FILTERS)
    wanted = own < kept_filters
    o = tl.load(out_ptr + own, mask=wanted, other=0)
    wanted = wanted & (o >= 0) & (o < filters)
    columns = kept_channels * TAPS
    total = tl.zeros((BLOCK_PIXELS, BLOCK_FILTERS), dtype=tl.float32)
    for at in range(0, columns, BLOCK_COLUMNS):
        place = at + tl.arange(0, BLOCK_COLUMNS)
        kept = place < columns
        channel = tl.load(in_ptr + place // TAPS, mask=kept, other=0)
        kept = kept & (channel >= 0) & (channel < channels)
        weight = tl.load(
            values_ptr + own.to(tl.int64)[:, None] * columns + place[None, :],
            mask=wanted[:, None] & kept[None, :],
            other=0.0,
        )
        found = gathered(
            x_ptr,
            corner,
            top,
            left,
            inside,
            channel,
            place % TAPS,
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


def channel_pruned_conv2d(
    x: Tensor,
    values: Tensor,
    out_channels: Tensor,
    in_channels: Tensor,
    bias: Tensor | None,
    weight_shape: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation: int,
    tf32: bool = False,
    config: ClassConfig | None = None,
) -> Tensor:
    """Convolves the kept channels of x; a removed output channel is its bias.

    Args:
        x: (N, I, H, W), any strides.
        values: (O', I', kH, kW), the kept part of the weight.
        out_channels: (O'), int32, ascending.
        in_channels: (I'), int32, ascending.
        bias: (O), or None.
        weight_shape: (O, I, kH, kW).
        activation: see `_device.activated`.
        tf32: whether float32 factors may be rounded to TF32 for the tensor cores.

    Returns:
        (N, O, H', W'), all of it written; channels_last if x is.
    """
    values = values.contiguous()
    kept_filters, kept_channels = values.shape[:2]
    filters, channels = weight_shape[:2]
    config = config or class_config(x, kept_filters)
    y, plane = output(x, weight_shape, stride, padding, dilation)
    if y.numel() == 0:
        return y
    sizes = geometry(x, y, plane, weight_shape, stride, padding, dilation, config.block_pixels)
    tiles = triton.cdiv(plane.pixels, config.block_pixels)
    with torch.cuda.device_of(x):
        if kept_filters < filters:
            names = ("pixels", "out_h", "out_w", "y_image", "y_channel", "y_row", "y_column")
            _bias_fill_kernel[(tiles * filters,)](
                bias,
                y,
                filters,
                HAS_BIAS=bias is not None,
                ACTIVATION=activation,
                **{name: sizes[name] for name in (*names, "BLOCK_PIXELS", "INDEX")},
            )
        blocks = triton.cdiv(kept_filters, config.block_filters)
        if blocks == 0:
            return y
        _channel_pruned_conv2d_fwd_kernel[(tiles * blocks,)](
            x,
            values,
            out_channels,
            in_channels,
            bias,
            y,
            kept_filters,
            kept_channels,
            filters,
            channels,
            blocks,
            HAS_BIAS=bias is not None,
            ACTIVATION=activation,
            PRECISION="tf32" if tf32 else "ieee",
            BLOCK_FILTERS=config.block_filters,
            BLOCK_COLUMNS=config.block_columns,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            **sizes,
        )
    return y
