"""What following the CUDA kernels' tables in numpy takes: the cases, and where pixels are.

A second reading of `cuda/tile.cuh`, without C++.
"""

import numpy as np
import torch
from torch.nn import functional as F

from sparse_ops.patterns import NAMED, Periodic
from tests.kernels.on_host import choice, cuda, structure

LANES = np.arange(32)
PATTERNS = NAMED | {
    "user": Periodic(((0, 4, 8), (), (1, 2))),
    "wide": Periodic(((0, 5), (9,)), (2, 5)),
}
# pattern, O, I, size, batch, stride, padding, dilation, sorted
CASES = [
    ("PSD2_P8", 64, 64, (1, 1), 130, 1, 1, 1, False),
    ("PSD2_P8", 64, 64, (7, 7), 3, 1, 1, 1, True),
    ("PSD2_P8", 128, 128, (14, 14), 1, 1, 1, 1, True),
    ("PSD2_P8", 136, 72, (4, 3), 11, 1, 1, 1, False),
    ("PSD4_P8", 64, 128, (5, 3), 4, 2, 1, 1, True),
    ("PSD4_P16", 128, 64, (5, 4), 4, 1, 1, 1, True),
    ("PSD4_P16", 64, 64, (6, 6), 2, 2, 1, 1, False),
    ("PSD1_P16", 256, 128, (4, 4), 5, 1, 1, 1, True),
    ("PS4_P4", 64, 64, (9, 1), 4, 1, 1, 1, True),
    ("PS2_P6", 96, 96, (3, 8), 3, (2, 1), 1, 1, False),
    ("PS1_P9", 72, 144, (6, 5), 3, 1, 2, 2, True),
    ("PS1_P9", 144, 72, (6, 5), 3, 3, 2, (2, 1), False),
    ("user", 24, 40, (8, 4), 3, 1, 0, 1, False),
    ("wide", 32, 16, (4, 9), 2, 1, (1, 3), (1, 2), True),
]


def name_of(case):
    return "-".join(str(v) for v in case)


class Layer:
    """A case in whole numbers, where every sum is exact, so that one wrong address shows.

    Attributes:
        weight: the values that are kept.
        exact: y (N, H', W', O).
    """

    def __init__(self, case):
        name, O, I, size, batch, stride, padding, dilation, self.sorted = case
        pattern = PATTERNS[name]
        shape = (O, I, *pattern.kernel_size)
        mask, self.table, self.found = structure(pattern, shape, self.sorted)
        self.runs = self.sorted and I % (8 * pattern.period) == 0
        steps = [[v, v] if isinstance(v, int) else list(v) for v in (stride, padding, dilation)]
        self.x = torch.randint(-8, 9, (batch, I, *size)).double()
        weight = torch.randint(1, 9, shape).double() * mask
        self.weight, self.channels = weight[mask].numpy(), I
        self.geometry = cuda.Geometry.of(list(shape), *steps)
        self.maps = choice.Maps.of(self.x, self.geometry)
        self.exact = F.conv2d(self.x, weight, None, *steps).permute(0, 2, 3, 1).numpy()


class Pixels:
    """x as the kernels find it, by their tables."""

    def __init__(self, layer, tables, config):
        self.maps, self.config = layer.maps, config
        self.padding, self.stride = layer.geometry.padding, layer.geometry.stride
        self.positions = self.maps.positions(config.tile)
        images = layer.x.permute(0, 2, 3, 1)
        images = images if tables.order is None else images[..., tables.order]
        self.flat = images.reshape(-1, layer.channels).numpy()
        self.channels = tables.channels.reshape(-1, config.chunk // 8).tolist()

    def position(self, m):
        """The first position that pixel m of y reads."""
        out_h, out_w = self.maps.out
        high, wide = self.maps.padded
        n, r = np.divmod(m, out_h * out_w)
        row, column = np.divmod(r, out_w)
        return (n * high + row * self.stride[0]) * wide + column * self.stride[1]

    def rows(self, q0, chunk):
        """(positions, pitch / 2): a chunk from position q0 on, NaN between its rows."""
        (high, wide), (H, W) = self.maps.padded, self.maps.size
        n, rest = np.divmod(q0 + np.arange(self.positions), high * wide)
        row, column = rest // wide - self.padding[0], rest % wide - self.padding[1]
        real = (row >= 0) & (column >= 0) & (n < self.maps.images)
        at = np.where(real, (n * H + row) * W + column, 0)
        found = np.full((self.positions, self.config.pitch // 2), np.nan)
        for piece, channel in enumerate(self.channels[chunk]):
            eight = self.flat[at, channel : channel + 8] if channel >= 0 else 0
            found[:, 8 * piece : 8 * piece + 8] = np.where(real[:, None], eight, 0)
        return found


def write(y, m, first, eight):
    """Eight neighbouring filters of some pixels; nothing twice."""
    if first >= 0:
        assert np.isnan(y[m, first]).all(), "written twice"
        y[m, first : first + 8] = eight
