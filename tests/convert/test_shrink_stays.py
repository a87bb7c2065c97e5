"""Models that shrinking leaves alone, and copies that were shrunk wrongly."""

import copy

import pytest
import torch
from torch import nn

from sparse_ops.convert.prepare import find_masks
from sparse_ops.convert.shrink import CodeReadsWidths, shrink_
from sparse_ops.convert.shrunk import check_shrunk, shrunk_copy
from sparse_ops.convert.verify import Mismatch
from tests.passes.networks import SIZE, chain, without


def test_a_model_whose_code_works_with_a_width_is_left_alone():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = without(nn.Conv2d(3, 6, 1), 0, 2)
            self.b = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.b(self.a(x) / self.a.out_channels)

    model = Scaled().eval()
    x = torch.randn(1, 3, SIZE, SIZE)
    with pytest.raises(CodeReadsWidths):
        shrink_(copy.deepcopy(model), (x,), {})
    same, done = shrunk_copy(model, (x,), {})
    assert same is model and "widths" in done.note


def test_a_shrunk_model_that_gives_something_else_is_an_error_that_names_the_layer():
    model, x = chain(padding=0).eval(), (torch.randn(2, 3, SIZE, SIZE),)
    model.append(nn.Conv2d(4, 2, 1))
    small, done = shrunk_copy(model, x, find_masks(model))
    check_shrunk(model, small, x, done)
    with torch.no_grad():
        small[3].bias[2] += 0.1
    with pytest.raises(Mismatch, match="removing channels 3 gives something else"):
        check_shrunk(model, small, x, done)
