"""Where nothing was measured, "auto" takes ours only where arithmetic says that it gains."""

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
        if b.name in ("wgmma2", "wgmma", "cuda", "triton", "dense", "gather")
    ]
    return _backend.choose(on_card, "auto", x, weight, None, geometry, None, None).name


def periodic(channels, pattern, kernel=3):
    mask = pattern.mask((channels, channels, kernel, kernel))
    return PeriodicWeight.pack(torch.ones(mask.shape, dtype=torch.half), mask, pattern)


@pytest.mark.parametrize(
    ("channels", "pattern", "batch", "size", "stride", "takes"),
    [
        # The rows of the model's table that gain more than it may be wrong by.
        (256, PSD2_P8, 32, 14, 1, "cuda"),
        (256, PSD1_P8, 32, 14, 1, "cuda"),
        (512, PSD2_P8, 32, 7, 1, "cuda"),
        (512, PSD4_P16, 32, 7, 1, "cuda"),
        # Those that do not.
        (256, PSD4_P16, 32, 14, 1, "dense"),
        (128, PSD2_P8, 32, 28, 1, "dense"),
        (64, PSD2_P8, 32, 56, 1, "dense"),
        (256, PSD2_P8, 32, 14, 2, "dense"),
        (512, PSD2_P8, 1, 7, 1, "dense"),
    ],
)
def test_periodic_layers(channels, pattern, batch, size, stride, takes):
    x = torch.zeros(batch, channels, size, size, dtype=torch.half)
    x = x.contiguous(memory_format=torch.channels_last)
    geometry = ONE._replace(stride=(stride, stride))
    weight = periodic(channels, pattern)
    assert chosen(periodic_conv2d, x, weight, geometry) == takes
    assert chosen(periodic_conv2d, x.contiguous(), weight, geometry) == "dense"


def test_what_was_never_measured_is_taken_only_where_it_is_asked_for(monkeypatch):
    x = torch.zeros(32, 256, 14, 14, dtype=torch.half).contiguous(memory_format=torch.channels_last)
    weight = periodic(256, PSD2_P8)
    assert chosen(periodic_conv2d, x, weight) == "cuda"
    for form, name in (("2", "wgmma2"), ("1", "wgmma")):
        monkeypatch.setenv("SPARSE_OPS_WGMMA", form)
        assert chosen(periodic_conv2d, x, weight) == name
    # Where arithmetic says that the other one loses, it does not gain either.
    assert chosen(periodic_conv2d, x, weight, ONE._replace(stride=(2, 2))) == "dense"
    assert chosen(csr_conv2d, x[:1], weight) == "dense"
    monkeypatch.setenv("SPARSE_OPS_WGMMA", "0")
    assert "off: it has not been measured" in _predicted.wgmma_conv_loses("1", x, weight, None, ONE)


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
        ((2048, 2048), 0.1, "triton"),
        ((2048, 2048), 0.3, "dense"),
        ((256, 256), 0.01, "dense"),
        # Four bytes an index, where two hold no column.
        ((16, 70_000), 0.15, "triton"),
        ((16, 70_000), 0.2, "dense"),
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
    with pytest.raises(RuntimeError, match=r"triton: not measured here, and by arithmetic 0\.3"):
        _backend.choose(named, "auto", x.float(), weight)
