"""The shapes that tests and benchmarks share; chosen for their edges."""

from typing import NamedTuple

from torch import Tensor, rand

from sparse_ops.patterns import PS1_P9, PS4_P4, PSD2_P8, Channels, Periodic


class LinearCase(NamedTuple):
    """x (batch, in_features), a mask of that sparsity (out_features, in_features)."""

    batch: int
    in_features: int
    out_features: int
    sparsity: float


class ConvCase(NamedTuple):
    """x (batch, channels, *size), a weight (filters, channels / groups, *kernel)."""

    batch: int
    channels: int
    filters: int
    size: tuple[int, int]
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.filters, self.channels // self.groups, *self.kernel)

    @property
    def geometry(self):
        return self.stride, self.padding, self.dilation, self.groups


# One of everything, odd sizes, an empty row, nothing kept, each side of the batch at which kernels
# change (5) and of a vector (16), a real layer.
LINEAR = [
    LinearCase(1, 1, 1, 0.0),
    LinearCase(0, 7, 5, 0.5),
    LinearCase(3, 7, 5, 0.5),
    LinearCase(4, 130, 67, 0.6),
    LinearCase(5, 33, 17, 0.8),
    LinearCase(15, 40, 31, 0.7),
    LinearCase(17, 33, 65, 0.9),
    LinearCase(16, 64, 64, 1.0),
    LinearCase(230, 29, 37, 0.5),
    LinearCase(2, 784, 300, 0.983),
    LinearCase(64, 300, 100, 0.95),
    # Three cache lines of batch at once, columns in two stretches, rows in two chunks.
    LinearCase(48, 2900, 400, 0.97),
    LinearCase(110, 2200, 20, 0.9),
]

CONV = [
    ConvCase(1, 1, 1, (1, 1), (1, 1), padding=(0, 0)),
    ConvCase(2, 8, 16, (8, 8)),
    ConvCase(0, 8, 16, (8, 8)),
    ConvCase(3, 5, 7, (9, 13), stride=(2, 2)),
    ConvCase(1, 16, 24, (28, 28)),
    ConvCase(2, 7, 13, (2, 2)),
    ConvCase(5, 12, 9, (1, 7), (1, 3), padding=(0, 1)),
    ConvCase(1, 3, 8, (11, 1), (3, 1), padding=(1, 0)),
    ConvCase(2, 6, 10, (7, 5), (5, 5), padding=(2, 2)),
    ConvCase(1, 4, 6, (17, 19), (7, 7), (2, 3), (3, 3)),
    ConvCase(2, 9, 8, (10, 10), (3, 3), (1, 1), (2, 2), (2, 2)),
    ConvCase(2, 8, 8, (12, 9), (3, 3), (3, 2), (2, 0), (2, 3)),
    ConvCase(2, 8, 12, (6, 6), (1, 1), (2, 2), (0, 0)),
    ConvCase(1, 4, 4, (5, 5), (1, 1), (1, 1), (2, 2)),
    ConvCase(1, 4, 4, (6, 6), (2, 4), (1, 2), (0, 3)),
    ConvCase(2, 12, 18, (8, 8), groups=3),
    ConvCase(2, 10, 10, (7, 7), groups=10),
    ConvCase(40, 64, 64, (4, 4)),
    ConvCase(17, 6, 5, (7, 14)),
    ConvCase(16, 4, 6, (9, 11), stride=(2, 2)),
    ConvCase(18, 6, 9, (12, 10), (3, 3), (1, 1), (2, 1), (2, 2), 3),
    ConvCase(32, 3, 4, (20, 3), (5, 1), (3, 1), (2, 0)),
    ConvCase(1, 64, 130, (14, 14)),
    # Planes for each column of the kernel: strides, dilation, borders, groups.
    ConvCase(1, 12, 130, (4, 4)),
    ConvCase(3, 9, 250, (8, 8), stride=(2, 1)),
    ConvCase(2, 5, 140, (9, 16), (3, 5), (1, 1), (2, 4), (2, 2)),
    ConvCase(1, 8, 220, (15, 32), (2, 3), (3, 2), (0, 1), groups=2),
    ConvCase(1, 6, 190, (3, 2), (3, 3), (1, 1), (1, 2)),
    # Filters enough for vectors of them: every tile, tails, steps, groups inside a channel block.
    ConvCase(2, 20, 128, (9, 15)),
    ConvCase(3, 16, 256, (7, 14), stride=(2, 1)),
    ConvCase(70, 18, 128, (2, 3)),
    ConvCase(1, 33, 240, (16, 8), stride=(1, 2)),
    ConvCase(2, 20, 256, (6, 5), (3, 3), (3, 3), (2, 4), (2, 1), 2),
    ConvCase(90, 17, 128, (1, 1)),
    ConvCase(1, 16, 128, (70, 64)),
]

# One that is wider than the positions of one run, and than one chunk of images.
CONV_LARGE = [ConvCase(9, 64, 64, (56, 56)), ConvCase(33, 64, 16, (32, 32), stride=(2, 2))]

PATTERNS = {
    "PSD2_P8": PSD2_P8,
    "PS4_P4": PS4_P4,
    "PS1_P9": PS1_P9,
    "one_support": Periodic(((0, 4, 8),)),
    "with_an_empty_slot": Periodic(((0, 1), (), (2,))),
}


def periodic_pattern(case: ConvCase) -> Periodic:
    """A pattern for the case's kernel: PSD2_P8, or every second tap in turn."""
    if case.kernel == (3, 3):
        return PSD2_P8
    taps = case.kernel[0] * case.kernel[1]
    return Periodic((tuple(range(0, taps, 2)), tuple(range(1, taps, 2)), (taps - 1,)), case.kernel)


def channel_mask(case: ConvCase) -> Tensor:
    """Every third filter and the second of five input channels removed."""
    out = tuple(o for o in range(case.filters) if o % 3 != 1)
    inp = tuple(i for i in range(case.weight_shape[1]) if i % 5 != 1)
    return Channels(out, inp).mask(case.weight_shape)


def random_mask(shape: tuple[int, ...], sparsity: float) -> Tensor:
    """Each weight kept with probability 1 - sparsity; the first filter keeps none."""
    mask = rand(shape) >= sparsity
    if shape[0] > 1:
        mask[0] = False
    return mask
