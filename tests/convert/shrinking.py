"""What the tests of shrinking share: small layers with dead filters, and the comparison."""

import torch
from torch import nn

from sparse_ops.convert.prepare import copied, find_masks, masked_copy
from sparse_ops.convert.shrink import shrink_

SIZE = 8


def norm(width):
    layer = nn.BatchNorm2d(width)
    layer.running_mean.uniform_(-1, 1)
    layer.running_var.uniform_(0.5, 1.5)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 1.5)
        layer.bias.uniform_(0.1, 1)
    return layer


def without(layer, *outputs):
    """The layer with dead filters."""
    with torch.no_grad():
        layer.weight[list(outputs)] = 0
    return layer


def shrunk(model, x=None, **options):
    """(what shrinking did, the shrunk model), which was compared with the masked one."""
    model = model.double().eval()
    x = torch.randn(2, 3, SIZE, SIZE).double() if x is None else x.double()
    masks = find_masks(model)
    masked = masked_copy(model, masks)
    small = copied(masked)
    done = shrink_(small, (x,), masks, **options)
    want, got = masked(x), small(x)
    assert got.shape == want.shape
    assert float((got - want).detach().abs().max()) <= 1e-12 * float(want.detach().abs().max())
    return done, small


def widths(model):
    return [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]


def chain(padding=1, act=None, bias=True, mode="zeros"):
    return nn.Sequential(
        without(nn.Conv2d(3, 8, 3, padding=1, bias=bias), 1, 2, 6),
        norm(8),
        act or nn.ReLU(),
        nn.Conv2d(8, 4, 3, padding=padding, padding_mode=mode),
    )
