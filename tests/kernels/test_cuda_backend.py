"""The CUDA backend as a user without a card meets it, and its reasons as those with one do."""

from types import SimpleNamespace

import pytest
import torch

from sparse_ops.formats import CSRWeight, PeriodicWeight
from sparse_ops.ops import _cuda, _kernels, _once, csr_conv2d, periodic_conv2d
from sparse_ops.ops._conv2d import Geometry
from sparse_ops.patterns import PSD2_P8, PSD4_P16
from tests.processes import without_a_backend

GEOMETRY = Geometry((1, 1), (1, 1), (1, 1), 1)
ALL = frozenset({70, 75, 80, 86, 89, 90})


def last(*shape, dtype=torch.float16):
    return torch.zeros(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def periodic(O, I, pattern=PSD2_P8):
    mask = pattern.mask((O, I, 3, 3))
    return PeriodicWeight.pack(torch.randn(mask.shape).half() * mask, mask, pattern)


@pytest.mark.parametrize("operator", [periodic_conv2d, csr_conv2d], ids=["periodic", "csr"])
def test_it_comes_before_triton_and_refuses_in_words(operator):
    names = [backend.name for backend in operator.BACKENDS]
    assert names.index("cuda") == names.index("triton") - 1
    (own,) = (b for b in operator.BACKENDS if b.name == "cuda")
    if torch.version.cuda is None:
        words = "this torch was built without CUDA"
        assert own.refuses(last(1, 16, 4, 4), None, None, GEOMETRY, None, None) == words


def test_naming_it_gives_it_or_an_error_and_never_another():
    x, weight = last(1, 16, 4, 4), periodic(16, 16)
    with pytest.raises(RuntimeError, match="no backend for these arguments; cuda: "):
        periodic_conv2d.periodic_conv2d(x, weight, padding=1, backend="cuda")


def test_the_form_by_wgmma_is_named_or_refused_in_words(monkeypatch):
    x, weight = last(1, 16, 4, 4), periodic(16, 16)
    with pytest.raises(RuntimeError, match="no backend for these arguments; wgmma: "):
        periodic_conv2d.periodic_conv2d(x, weight, padding=1, backend="wgmma")
    assert _cuda._wgmma.refuses_card((9, 0)) is None
    words = "the card is of compute capability 8.0: wgmma is of 9.0 alone"
    assert _cuda._wgmma.refuses_card((8, 0)) == words
    # Reasons of the other come first; then its own.
    monkeypatch.setattr(_cuda, "refuses_cuda", lambda *_: "not here")
    assert _cuda.refuses_wgmma(x, weight, None, GEOMETRY) == "not here"
    card = SimpleNamespace(major=12, minor=0)
    monkeypatch.setattr(_cuda, "refuses_cuda", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert "12.0: wgmma is of 9.0 alone" in _cuda.refuses_wgmma(x, weight, None, GEOMETRY)


def test_the_form_by_wgmma_refuses_filters_that_are_not_sorted(monkeypatch):
    card = SimpleNamespace(major=9, minor=0)
    monkeypatch.setattr(_cuda, "refuses_cuda", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    x, words = last(2, 64, 4, 4), "eight neighbouring filters are not alike"
    assert words in _cuda.refuses_wgmma(x, periodic(64, 64), None, GEOMETRY)
    order = (torch.arange(64) % 8).argsort(stable=True)
    mask = PSD2_P8.mask((64, 64, 3, 3))[order][:, order]
    weight = CSRWeight.pack(torch.randn(mask.shape).half(), mask)
    assert _cuda.refuses_wgmma(x, weight, None, GEOMETRY) is None
    assert _cuda.refuses_wgmma(x[:0], periodic(64, 64), None, GEOMETRY) is None


@pytest.mark.skipif(_kernels.INTERPRETED, reason="what is asked for is another process")
def test_an_nvrtc_that_is_missing_is_said_and_everything_else_works():
    taken = """
import torch, os
torch.version.cuda = "12.6"
os.environ["SPARSE_OPS_NVRTC"] = "/nothing/libnvrtc.so"
"""
    shape, error = without_a_backend(taken, "cuda")
    assert shape == "(1, 8, 3, 3)"
    words = "cuda: the CUDA kernels cannot be compiled (NVRTC is not here: /nothing/libnvrtc.so"
    assert words in error


@pytest.mark.parametrize(
    ("dtype", "card", "words"),
    [
        (torch.float32, (9, 0), "x is torch.float32, not float16 or bfloat16"),
        (torch.float16, (6, 1), "compute capability 6.1, not 7.0 or newer"),
        (torch.bfloat16, (7, 0), "compute capability 7.0: bfloat16 wants 8.0"),
        (torch.float16, (10, 3), "this NVRTC does not compile for sm_103"),
        (torch.float16, (7, 0), None),
        (torch.bfloat16, (9, 0), None),
    ],
)
def test_cards_and_types(dtype, card, words):
    reason = _cuda.refuses_card(dtype, *card, ALL)
    assert reason is None if words is None else words in reason


@pytest.mark.parametrize(
    ("x", "weight", "geometry", "words"),
    [
        (last(2, 64, 4, 4), periodic(64, 32), GEOMETRY._replace(groups=2), "groups must be 1"),
        (last(2, 20, 4, 4), periodic(64, 20), GEOMETRY, "multiples of 8, got 20 and 64"),
        (last(2, 16, 4, 4), periodic(12, 16), GEOMETRY, "multiples of 8, got 16 and 12"),
        # Turned by the launcher, which costs a copy: only "auto" minds.
        (last(2, 64, 4, 4).contiguous(), periodic(64, 64), GEOMETRY, None),
        (last(2, 64, 4, 4), periodic(64, 64), GEOMETRY._replace(padding=(3, 1)), "padding of 3"),
        (last(2, 32, 4, 4), periodic(32, 32), GEOMETRY, "its classes are too narrow"),
        (last(2, 32, 4, 4), periodic(32, 32, PSD4_P16), GEOMETRY, "32 filters are of 16 kinds"),
        (last(2, 64, 4, 4), periodic(64, 64), GEOMETRY, None),
        (last(0, 64, 4, 4), periodic(64, 64), GEOMETRY, None),
        (last(2, 64, 1, 1), periodic(64, 64), GEOMETRY._replace(stride=(2, 2)), None),
    ],
)
def test_shapes(x, weight, geometry, words):
    reason = _cuda.refuses(x, weight, geometry, (8, 0))
    assert reason is None if words is None else words in reason


def test_rows_that_are_not_alike_are_refused_and_sorted_ones_are_not():
    mask = torch.rand(64, 64, 3, 3) > 0.95
    weight = CSRWeight.pack(torch.randn(mask.shape).half(), mask)
    x = last(2, 64, 4, 4)
    assert "at least 4 must be alike" in _cuda.refuses(x, weight, GEOMETRY, (8, 0))
    order = (torch.arange(64) % 8).argsort(stable=True)
    mask = PSD2_P8.mask(mask.shape)[order][:, order]
    weight = CSRWeight.pack(torch.randn(mask.shape).half(), mask)
    assert _cuda.refuses(x, weight, GEOMETRY, (8, 0)) is None


def test_the_kernels_are_in_the_package():
    sources = _kernels.kernels("_nvrtc").sources()
    assert set(sources) == {
        *("fragments.cuh", "periodic_conv2d.cuh", "periodic_conv2d_wgmma.cuh"),
        *("ptx.cuh", "ptx_barrier.cuh", "ptx_wgmma.cuh", "tile.cuh"),
    }
    for name, text in sources.items():
        assert "#include <" not in text, f"{name} needs a header that NVRTC may not have"
        assert name.startswith("ptx") or "asm" not in text, f"assembly in {name}"


def test_shapes_and_layouts_are_known_without_a_card():
    weight = periodic(16, 16)
    indices = weight.class_crow_indices, weight.class_col_indices
    given = (*indices, weight.values, None, None, [16, 16, 3, 3], [2, 2], [1, 1], [1, 1], 1, 0)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.zeros(2, 16, 5, 6, dtype=torch.float16).contiguous(memory_format=layout)
        moved = [g.to("meta") if isinstance(g, torch.Tensor) else g for g in given]
        y = torch.ops.sparse_ops.periodic_conv2d_cuda(x.to("meta"), *moved)
        assert y.shape == (2, 16, 3, 3) and y.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dynamic", [False, True])
def test_its_reasons_can_be_asked_for_under_torch_compile(dynamic):
    # So far apart are rows of 500 pixels that no block holds what a tile reads.
    weight, far = periodic(64, 64), GEOMETRY._replace(padding=(2, 2), dilation=(2, 2))

    def asked(x):
        reason = _cuda.refuses(x, weight, far, (8, 0))
        return x + (1 if reason is None else 2)

    call = torch.compile(asked, fullgraph=True, backend="eager", dynamic=dynamic)
    for side in (4, 6):
        x = last(2, 64, side, side)
        assert bool((call(x) == 1).all()) and bool((call(last(2, 64, side, 500)) == 2).all())


def test_a_weight_that_is_recorded_is_worked_out_anew_unless_it_cannot_change(monkeypatch):
    class Weight:
        is_cuda = True

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert _once.recorded(Weight())
    with torch.no_grad():
        assert _once.recorded(Weight())
    with torch.inference_mode():
        assert not _once.recorded(Weight())
    assert not _once.recorded(torch.ones(1))
