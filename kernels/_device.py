"""What the kernels share on the device: activations, and where a convolution reads and writes."""

import triton
import triton.language as tl


@triton.jit
def activated(y, ACTIVATION: tl.constexpr):
    """0: y, 1: relu, 2: relu6, 3: silu, 4: hardswish. A NaN stays one."""
    if ACTIVATION == 1:
        y = tl.where(y < 0.0, 0.0, y)
    if ACTIVATION == 2:
        y = tl.where(y < 0.0, 0.0, tl.where(y > 6.0, 6.0, y))
    if ACTIVATION == 3:
        y = y / (1.0 + tl.exp(-y))
    if ACTIVATION == 4:
        gate = y + 3.0
        y = y * tl.where(gate < 0.0, 0.0, tl.where(gate > 6.0, 6.0, gate)) / 6.0
    return y


@triton.jit
def located(tile, out_h, out_w, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """(pixel, image, row, column): the output pixels of a tile, counted through all images."""
    pixel = tile.to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    in_image = pixel % (out_h * out_w)
    return pixel, pixel // (out_h * out_w), in_image // out_w, in_image % out_w


@triton.jit
def gathered(
    x_ptr,
    corner,
    top,
    left,
    inside,
    channel,
    tap,
    kept,
    height,
    width,
    stride_channel,
    stride_row,
    stride_column,
    dilation_h,
    dilation_w,
    KERNEL_W: tl.constexpr,
):
    """(columns, pixels) of x: what each column of the weight meets at each pixel; 0 in the padding.

    Pixels are last because neighbouring lanes then read neighbouring memory (in NCHW).

    Args:
        corner: (pixels), int64: offset of the image, and in it of the pixel's first tap.
        top, left: (pixels): where that tap lies in the image; may be outside.
        inside: (pixels), bool: is there such a pixel?
        channel, tap, kept: (columns): what each column reads, and whether there is such a column.
    """
    down = tap // KERNEL_W * dilation_h
    right = tap % KERNEL_W * dilation_w
    offset = (
        channel.to(tl.int64) * stride_channel
        + down.to(tl.int64) * stride_row
        + right.to(tl.int64) * stride_column
    )
    y = top[None, :] + down[:, None]
    x = left[None, :] + right[:, None]
    there = kept[:, None] & inside[None, :] & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return tl.load(x_ptr + corner[None, :] + offset[:, None], mask=there, other=0.0)
