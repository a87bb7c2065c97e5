"""Work that is cut as on a machine with another second cache."""

import pytest

from sparse_ops.ops import _native
from tests.processes import python

CODE = """
import torch
from torch.nn import functional as F
import sparse_ops as so
from sparse_ops.formats import ChannelPrunedWeight, CSRWeight, PeriodicWeight
from sparse_ops.functional import channel_pruned_conv2d, csr_conv2d, csr_linear, periodic_conv2d
from sparse_ops.patterns import PSD2_P8

torch.manual_seed(0)
close = lambda a, b: torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)
shape = (32, 24, 3, 3)
channels = torch.zeros(shape, dtype=torch.bool)
channels[::2, 1:] = True
for kind, run, mask in (
    (CSRWeight, csr_conv2d, torch.rand(shape) > 0.8),
    (PeriodicWeight, periodic_conv2d, PSD2_P8.mask(shape)),
    (ChannelPrunedWeight, channel_pruned_conv2d, channels),
):
    weight = torch.randn(shape) * mask
    packed = kind.pack(weight, mask)
    for batch in (1, 33):
        for size in ((5, 7), (40, 33)):
            x = torch.randn(batch, 24, *size)
            for layout in (torch.contiguous_format, torch.channels_last):
                y = run(x.contiguous(memory_format=layout), packed, None, 1, 1, backend=ISA)
                close(y, F.conv2d(x.double(), weight.double(), None, 1, 1))
weight = torch.randn(300, 900) * (torch.rand(300, 900) > 0.9)
packed = CSRWeight.pack(weight, weight != 0)
for batch in (1, 4, 70):
    x = torch.randn(batch, 900)
    close(csr_linear(x, packed, backend=ISA), x.double() @ weight.double().T)

import torch.nn as nn
from sparse_ops.graph.capture import capture
from sparse_ops.passes.fuse import fuse
from sparse_ops.passes.layout import uniform
from sparse_ops.program.segments import cut, run as run_items

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 48, 3, padding=1), nn.Conv2d(48, 40, 3, padding=1)
        self.c = nn.Linear(40, 10)

    def forward(self, x):
        return self.c(F.leaky_relu(self.b(F.leaky_relu(self.a(x))), 0.2).mean((2, 3)))

model = Net().eval()
with torch.no_grad():
    for x in (torch.randn(1, 3, 40, 44), torch.randn(16, 3, 20, 12)):
        graph = capture(model, (x,))
        fuse(graph)
        for order in (0, 1, 2):
            y = run_items(cut(graph, uniform(graph, order)), graph, model, (x,))
            close(y, model.double()(x.double()))
            model.float()
print("right")
"""


@pytest.mark.skipif(_native.BEST is None, reason=str(_native.MISSING))
@pytest.mark.parametrize("size", [1 << 12, 1 << 16, 1 << 23])
def test_any_size_gives_the_same_function(size):
    code = f"ISA = {_native.BEST!r}\n" + CODE
    assert python(code, SPARSE_OPS_SECOND_CACHE=str(size)).strip().endswith("right")
