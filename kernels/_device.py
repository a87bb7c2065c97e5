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
    """0: y, 1: relu, 2: relu6, 3: silu, 4: hardswish, 5: gelu, 6: gelu by tanh, and

    10 + 2^32 * bits: leaky relu with the slope of those bits, a float32. A NaN stays one.
    """
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
    if ACTIVATION & 0xFFFFFFFF == 10:
        slope = tl.full((), ACTIVATION >> 32, tl.int32).to(tl.float32, bitcast=True)
        y = tl.where(y > 0.0, y, y * slope)
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
def located(tile, pixels, size, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """(image, row, column, inside): a tile's pixels of images of that size, through all images."""
    pixel = tile.to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    in_image = pixel % (size[0] * size[1])
    return pixel // (size[0] * size[1]), in_image // size[1], in_image % size[1], pixel < pixels


@triton.jit
def offset(image, row, column, strides):
    """int64: how far into a tensor of strides (N, C, H, W) the pixels of channel 0 lie."""
    return (
        image.to(tl.int64) * strides[0]
        + row.to(tl.int64) * strides[2]
        + column.to(tl.int64) * strides[3]
    )


@triton.jit
def channels_at(o, pixels, strides):
    """int64: how far into a tensor channels o, a number or an axis of their own, of pixels lie."""
    image, row, column, _ = pixels
    return offset(image, row, column, strides) + o.to(tl.int64) * strides[1]


@triton.jit
def finish_channels(
    y,
    o,
    pixels,
    there,
    y_ptr,
    y_strides,
    residual_ptr,
    r_strides,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """As `finish`, in channels o of the pixels that `located` says."""
    y_at, r_at = channels_at(o, pixels, y_strides), channels_at(o, pixels, r_strides)
    finish(y, y_ptr, y_at, residual_ptr, r_at, there, HAS_RESIDUAL, ACTIVATION)


@triton.jit
def windows(pixels, steps):
    """(image, top, left, inside): where in x the first tap of some pixels lies; may be outside.

    Args:
        pixels: what `located` says of the output.
        steps: (stride, padding, dilation), each (h, w).
    """
    image, row, column, inside = pixels
    stride, padding, _ = steps
    return image, row * stride[0] - padding[0], column * stride[1] - padding[1], inside


@triton.jit
def taps_of(column, channels, TAPS: tl.constexpr, RUN: tl.constexpr):
    """(channel, tap, kept), each (columns, 1), of columns = channel * TAPS + tap.

    Args:
        channels: what is not a tap of one of these is not kept.
        RUN: so many columns at a time are one tap of neighbouring channels, from a multiple of RUN.
    """
    kept = (column >= 0) & (column < channels * TAPS)
    channel = column // TAPS
    tap = column % TAPS
    if RUN > 1:
        channel = tl.max_contiguous(tl.multiple_of(channel, RUN), RUN)
        tap = tl.max_constancy(tap, RUN)
        kept = tl.max_constancy(kept, RUN)
    return channel[:, None], tap[:, None], kept[:, None]


@triton.jit
def run_from(first, channels, TAPS: tl.constexpr, LENGTH: tl.constexpr):
    """As `taps_of`, of one tap of LENGTH neighbouring channels, of which `first` is the first.

    Tap and kept are numbers here: no index of a channel is loaded.
    """
    start = tl.multiple_of(first // TAPS, LENGTH)
    kept = (first >= 0) & (start + LENGTH <= channels)
    return (start + tl.arange(0, LENGTH))[:, None], first % TAPS, kept


@triton.jit
def gathered(
    x_ptr,
    window,
    taps,
    size,
    strides,
    dilation,
    KERNEL_W: tl.constexpr,
    UP_H: tl.constexpr,
    UP_W: tl.constexpr,
):
    """(columns, pixels) of x: what each column of the weight meets at each pixel; 0 in the padding.

    Pixels are last because neighbouring lanes then read neighbouring memory (in NCHW).

    Args:
        window: what `windows` says of the pixels.
        taps: what `taps_of` or `run_from` says of the columns.
        size, strides: of x: (H, W), and of (N, C, H, W).
        UP_H, UP_W: how far apart the rows and columns of x stand, with zeros between them: a
            convolution's stride, when its gradient is computed.
    """
    image, top, left, inside = window
    channel, tap, kept = taps
    down = tap // KERNEL_W * dilation[0]
    right = tap % KERNEL_W * dilation[1]
    y = top[None, :] + down
    x = left[None, :] + right
    there = kept & inside[None, :] & (y >= 0) & (x >= 0)
    if UP_H * UP_W == 1:
        there = there & (y < size[0]) & (x < size[1])
        corner = offset(image, top, left, strides)
        step = (
            channel.to(tl.int64) * strides[1]
            + down.to(tl.int64) * strides[2]
            + right.to(tl.int64) * strides[3]
        )
        at = corner[None, :] + step
    else:
        there = there & (y % UP_H == 0) & (x % UP_W == 0)
        there = there & (y // UP_H < size[0]) & (x // UP_W < size[1])
        at = (
            (image.to(tl.int64) * strides[0])[None, :]
            + channel.to(tl.int64) * strides[1]
            + (y // UP_H).to(tl.int64) * strides[2]
            + (x // UP_W).to(tl.int64) * strides[3]
        )
    return tl.load(x_ptr + at, mask=there, other=0.0)
