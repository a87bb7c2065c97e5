"""What the kernels share on the device: activations, and where a convolution reads and writes."""

import triton
import triton.language as tl


@triton.jit
def gelu(y):
    """y * Phi(y), by the same polynomial as csrc/cpu/row_sparse_body.h, which says what it is."""
    a = tl.abs(y)
    a = tl.where(a > 13.25, 13.25, a)
    s = 1.0 / (a + 2.25)
    u = a * s
    p = -0.0920174271 * u + 0.352038741
    p = p * u - 0.491666585
    p = p * u + 0.353157014
    p = p * u - 0.22954932
    p = p * u + 0.0481571704
    p = p * u + 0.0931105837
    p = p * u + 0.202055767
    p = p * u - 0.0667005181
    p = p * u - 0.894643843
    p = p * u + 1.125
    tail = tl.where(a < 13.25, p * tl.exp(-0.5 * a * a), 0.0)
    return tl.where(y < 0.0, y * s * tail, y - u * tail)


@triton.jit
def activated(y, ACTIVATION: tl.constexpr):
    """0: y, 1: relu, 2: relu6, 3: silu, 4: hardswish, 5: gelu, 6: gelu by tanh. A NaN stays one."""
    if ACTIVATION == 1:
        y = tl.where(y < 0.0, 0.0, y)
    if ACTIVATION == 2:
        y = tl.where(y < 0.0, 0.0, tl.where(y > 6.0, 6.0, y))
    if ACTIVATION == 3:
        y = y / (1.0 + tl.exp(-y))
    if ACTIVATION == 4:
        gate = y + 3.0
        y = y * tl.where(gate < 0.0, 0.0, tl.where(gate > 6.0, 6.0, gate)) / 6.0
    if ACTIVATION == 5:
        y = gelu(y)
    if ACTIVATION == 6:
        # Half of y times one plus tanh of w / 2.
        w = 1.5957691216 * (y + 0.044715 * y * y * y)
        y = y / (1.0 + tl.exp(-w))
    return y


@triton.jit
def finish(
    y,
    y_ptr,
    y_at,
    residual_ptr,
    residual_at,
    there,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Stores activation(y + residual) where `there`."""
    if HAS_RESIDUAL:
        y += tl.load(residual_ptr + residual_at, mask=there, other=0.0).to(tl.float32)
    y = activated(y, ACTIVATION)
    tl.store(y_ptr + y_at, y.to(y_ptr.dtype.element_ty), mask=there)


@triton.jit
def located(tile, pixels, out_h, out_w, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """(image, row, column, inside): the output pixels of a tile, counted through all images."""
    pixel = tile.to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    in_image = pixel % (out_h * out_w)
    return pixel // (out_h * out_w), in_image // out_w, in_image % out_w, pixel < pixels


@triton.jit
def offset(image, row, column, stride_image, stride_row, stride_column):
    """int64: how far into a tensor of those strides the pixels of channel 0 lie."""
    return (
        image.to(tl.int64) * stride_image
        + row.to(tl.int64) * stride_row
        + column.to(tl.int64) * stride_column
    )


@triton.jit
def gathered(
    x_ptr,
    image,
    top,
    left,
    inside,
    column,
    channels,
    height,
    width,
    x_image,
    x_channel,
    x_row,
    x_column,
    dilation_h,
    dilation_w,
    TAPS: tl.constexpr,
    KERNEL_W: tl.constexpr,
    UP_H: tl.constexpr,
    UP_W: tl.constexpr,
    RUN: tl.constexpr,
):
    """(columns, pixels) of x: what each column of the weight meets at each pixel; 0 in the padding.

    Pixels are last because neighbouring lanes then read neighbouring memory (in NCHW).

    Args:
        image, top, left: (pixels): the image, and where in it the first tap lies; may be outside.
        inside: (pixels), bool: is there such a pixel?
        column: (columns): channel * TAPS + tap; what is not a tap of these `channels` reads as 0.
        UP_H, UP_W: how far apart the rows and columns of x stand, with zeros between them: a
            convolution's stride, when its gradient is computed.
        RUN: so many columns at a time are one tap of neighbouring channels, from a multiple of RUN.
    """
    kept = (column >= 0) & (column < channels * TAPS)
    channel = column // TAPS
    tap = column % TAPS
    if RUN > 1:
        channel = tl.max_contiguous(tl.multiple_of(channel, RUN), RUN)
        tap = tl.max_constancy(tap, RUN)
        kept = tl.max_constancy(kept, RUN)
    down = tap // KERNEL_W * dilation_h
    right = tap % KERNEL_W * dilation_w
    y = top[None, :] + down[:, None]
    x = left[None, :] + right[:, None]
    there = kept[:, None] & inside[None, :] & (y >= 0) & (x >= 0)
    if UP_H * UP_W == 1:
        there = there & (y < height) & (x < width)
        corner = offset(image, top, left, x_image, x_row, x_column)
        step = offset(channel, down, right, x_channel, x_row, x_column)
        at = corner[None, :] + step[:, None]
    else:
        there = there & (y % UP_H == 0) & (x % UP_W == 0)
        there = there & (y // UP_H < height) & (x // UP_W < width)
        at = (
            offset(image, top * 0, left * 0, x_image, x_row, x_column)[None, :]
            + (channel.to(tl.int64) * x_channel)[:, None]
            + (y // UP_H).to(tl.int64) * x_row
            + (x // UP_W).to(tl.int64) * x_column
        )
    return tl.load(x_ptr + at, mask=there, other=0.0)
