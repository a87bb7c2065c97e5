"""How Triton's kernels are cut for sorted sets on a Hopper card, and how filters are filled."""

import pytest
import torch

from benchmarks._gpu_packs import pack
from sparse_ops.ops import _kernels, _triton_structure

pytest.importorskip("triton")
configs, fill = _kernels.kernels("configs"), _kernels.kernels("fill")


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(configs, "capability", lambda device: (9, 0))


@pytest.mark.parametrize(
    ("channels", "pattern", "width", "run", "config"),
    [
        (64, "PSD2_P8", 64, 64, (128, 64, 64, 8, 3)),
        (64, "PSD4_P16", 64, 64, (128, 64, 64, 8, 3)),
        (256, "PSD2_P8", 32, 32, (256, 32, 32, 8, 3)),
        (256, "PSD1_P8", 32, 32, (256, 32, 32, 8, 3)),
        (512, "PSD2_P8", 64, 64, (128, 64, 64, 8, 3)),
        (512, "PSD1_P8", 64, 64, (128, 64, 64, 8, 3)),
        # Shorter runs, or narrower sets, have 32 columns.
        (128, "PSD2_P8", 16, 16, (128, 16, 32, 8, 3)),
        (512, "PSD4_P16", 64, 32, (128, 64, 32, 8, 3)),
    ],
)
def test_sorted_sets_are_cut_by_their_runs(hopper, channels, pattern, width, run, config):
    weight = pack(torch.ones(channels, channels, 3, 3).bfloat16(), f"{pattern} sorted").weight
    x = torch.zeros(1, channels, 7, 7).bfloat16()
    indices, shape = (weight.crow_indices, weight.col_indices), list(weight.shape)
    sets = _triton_structure.sets_of("rows", *indices, weight.nnz, shape, 1, x, sort=True)
    assert (sets.filters.shape[1], sets.run) == (width, run)
    assert tuple(configs.set_config(x, width, sets.run)) == config


@pytest.mark.parametrize(
    ("listed", "last", "whole", "block", "blocks"),
    [
        # 16 filters are the 32 bytes that memory is written in: with one of 16 listed, all are.
        (8, True, True, 16, 4),
        (4, True, True, 16, 4),
        (3, True, False, 1, 3),
        (8, False, False, 1, 8),
        (17, False, False, 16, 2),
    ],
)
def test_filters_without_weights_are_filled_by_whole_pixels(
    monkeypatch, listed, last, whole, block, blocks
):
    launches = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *_, **named: launches.append((grid, named))

    monkeypatch.setattr(fill, "_fill_kernel", Kernel())
    memory = torch.channels_last if last else torch.contiguous_format
    y = torch.empty(2, 64, 5, 5).contiguous(memory_format=memory)
    fill.fill(y, torch.arange(listed, dtype=torch.int32), 32, {})
    ((grid, given),) = launches
    assert (given["WHOLE"], given["BLOCK_FILTERS"], given["blocks"]) == (whole, block, blocks)
    # 50 pixels are two tiles.
    assert grid == (2 * blocks,)
