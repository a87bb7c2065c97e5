"""Where nothing was measured, "auto" takes ours only where an H100 gained by it."""

import pytest
import torch

from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.ops import (
    _backend,
    _predicted,
    _tuned,
    channel_pruned_conv2d,
    csr_conv2d,
    csr_linear,
    periodic_conv2d,
)
from sparse_ops.ops._conv2d import Geometry
from sparse_ops.patterns import PSD1_P8, PSD2_P8, PSD4_P16

ONE = Geometry((1, 1), (1, 1), (1, 1), 1)


def chosen(operator, x, weight, geometry=ONE):
    """The backend that "auto" takes on a card that runs all of its kernels."""
    on_card = [
        _backend.Backend(b.name, b.run, lambda *_: None, loses=b.loses)
        for b in operator.BACKENDS
        if b.name in ("wgmma", "cuda", "triton", "dense", "gather")
    ]
    return _backend.choose(on_card, "auto", x, weight, None, geometry, None, None).name


def periodic(channels, pattern, kernel=3):
    mask = pattern.mask((channels, channels, kernel, kernel))
    return PeriodicWeight.pack(torch.ones(mask.shape, dtype=torch.half), mask, pattern)


@pytest.mark.parametrize(
    ("channels", "pattern", "batch", "size", "stride", "takes"),
    [
        # What gained there.
        (128, PSD2_P8, 32, 28, 1, "wgmma"),
        (256, PSD2_P8, 32, 14, 1, "wgmma"),
        (256, PSD1_P8, 32, 14, 1, "wgmma"),
        (512, PSD2_P8, 256, 7, 1, "wgmma"),
        (256, PSD4_P16, 256, 14, 1, "wgmma"),
        # What did not, or was not measured.
        (256, PSD4_P16, 32, 14, 1, "dense"),
        (512, PSD4_P16, 32, 7, 1, "dense"),
        (512, PSD2_P8, 32, 7, 1, "dense"),
        (64, PSD2_P8, 32, 56, 1, "dense"),
        (256, PSD2_P8, 32, 14, 2, "dense"),
        (256, PSD2_P8, 32, 7, 1, "dense"),
        (512, PSD2_P8, 1, 7, 1, "dense"),
    ],
)
def test_periodic_layers(channels, pattern, batch, size, stride, takes):
    x = torch.zeros(batch, channels, size, size, dtype=torch.half)
    x = x.contiguous(memory_format=torch.channels_last)
    geometry = ONE._replace(stride=(stride, stride))
    weight = periodic(channels, pattern)
    assert chosen(periodic_conv2d, x, weight, geometry) == takes
    assert chosen(csr_conv2d, x, weight, geometry) == takes
    assert chosen(periodic_conv2d, x.contiguous(), weight, geometry) == "dense"


def test_kernels_of_another_size_were_not_measured():
    x = torch.zeros(32, 256, 14, 14, dtype=torch.half).contiguous(memory_format=torch.channels_last)
    weight = CSRWeight.pack(torch.ones(256, 256, 5, 5).half(), torch.rand(256, 256, 5, 5) < 0.1)
    assert chosen(csr_conv2d, x, weight) == "dense"
    words = _predicted.wgmma_conv_loses(x, weight, None, ONE)
    assert "that was measured for 3 x 3 kernels and stride 1" in words


def test_the_kernel_by_mma_sync_is_taken_only_where_it_was_measured_or_is_named():
    x = torch.zeros(32, 512, 7, 7, dtype=torch.half).contiguous(memory_format=torch.channels_last)
    (own,) = (b for b in periodic_conv2d.BACKENDS if b.name == "cuda")
    given = x, periodic(512, PSD1_P8), None, ONE, None, None
    able = [_backend.Backend("cuda", own.run, lambda *_: None, loses=own.loses)]
    with pytest.raises(RuntimeError, match=r"on an H100 it was 0\.2 to 0\.8 times as fast"):
        _backend.choose(able, "auto", *given)
    assert _backend.choose(able, "cuda", *given).name == "cuda"


def test_single_weights_and_channels_go_to_the_dense_library():
    mask = torch.rand(512, 512, 3, 3) > 0.9
    x = torch.zeros(32, 512, 7, 7)
    # Few enough are left for the CUDA kernel, which would refuse such rows.
    assert _predicted.triton_conv_loses(x).startswith("not measured here")
    refusing = [
        _backend.Backend(b.name, b.run, lambda *_: None, loses=b.loses)
        for b in csr_conv2d.BACKENDS
        if b.name in ("triton", "dense")
    ]
    weight = CSRWeight.pack(torch.randn(mask.shape), mask)
    assert _backend.choose(refusing, "auto", x, weight, None, ONE, None, None).name == "dense"
    assert channel_pruned_conv2d.BACKENDS[0].name == "gather"


@pytest.mark.parametrize(
    ("shape", "kept", "takes"),
    [
        ((2048, 2048), 0.09, "triton"),
        ((2048, 2048), 0.12, "dense"),
        ((256, 256), 0.01, "dense"),
        # Four bytes an index, where two hold no column.
        ((16, 70_000), 0.06, "triton"),
        ((16, 70_000), 0.08, "dense"),
    ],
)
def test_linear_layers(shape, kept, takes):
    weight = CSRWeight.pack(torch.ones(shape, dtype=torch.half), torch.rand(shape) < kept)
    x = torch.zeros(8, shape[1], dtype=torch.half)
    assert chosen(csr_linear, x, weight) == takes


def test_what_was_measured_is_believed_and_what_is_named_is_taken(monkeypatch):
    weight, x = periodic(64, PSD2_P8), torch.zeros(1, 64, 4, 4, dtype=torch.half)
    monkeypatch.setattr(_tuned, "INTERPRETED", True)
    what = _tuned.problem(x, weight.shape, weight.nnz, "PeriodicWeight", ONE)
    times = {"backends": {"triton": 0.1, "dense": 0.2}}
    assert chosen(periodic_conv2d, x, weight) == "dense"
    monkeypatch.setattr(_tuned, "_table", {_tuned.card(x.device): {what: times}})
    assert chosen(periodic_conv2d, x, weight) == "triton"
    named = [_backend.Backend("triton", None, lambda *_: None, loses=_predicted.triton_conv_loses)]
    assert _backend.choose(named, "triton", x, weight).name == "triton"
    with pytest.raises(RuntimeError, match=r"triton: not measured here; on an H100 it was 0\.1"):
        _backend.choose(named, "auto", x.float(), weight)
