"""What gpu_run.py asks a card first, in which order, and that a structure is worked out once.

The real settings; what takes a card, or time, is left out.
"""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import _gpu_ours, _gpu_packs, _gpu_setting
from benchmarks.layers import Conv
from sparse_ops.ops import _cuda_calls

pytestmark = pytest.mark.skipif(_gpu_setting.DRY, reason="these are the settings of a dry run")


@pytest.fixture
def walked(monkeypatch):
    """Lets the stages run through without a call being made; what the builder was given."""

    def problem(conv, batch, dtype):
        precision = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]
        what = {"layer": conv.label, "precision": precision, "batch": batch}
        return torch.empty(0, dtype=dtype), what

    noted = []
    builder = SimpleNamespace(note=lambda *given: noted.append(given), start=list, wait=dict)
    monkeypatch.setattr(_gpu_ours, "DEVICE", "cpu")
    monkeypatch.setattr(_gpu_ours, "Builder", lambda: builder)
    monkeypatch.setattr(_gpu_ours, "conv_problem", problem)
    monkeypatch.setattr(_gpu_ours, "in_time", lambda: True)
    monkeypatch.setattr(_gpu_ours, "guarded", lambda what, make: what)
    monkeypatch.setattr(_gpu_ours, "smoke", lambda precisions: [{"precision": precisions[0]}])
    return noted


@pytest.mark.skipif(torch.cuda.is_available(), reason="an older card has another first type")
def test_what_a_card_is_asked_first(walked, monkeypatch):
    def pack(weight, kind):
        own = _gpu_packs.CSRWeight.pack(weight[:1, :1], weight[:1, :1] != 0)
        return _gpu_packs.Pack(kind, None, own, _gpu_packs.OURS)

    monkeypatch.setattr(_gpu_packs, "pack", pack)
    rows = list(_gpu_ours.layers())
    six = ["64→64 3×3 @56", "128→128 3×3 @28", "128→256 3×3 @28 /2", "256→256 3×3 @14"]
    six += ["256→512 3×3 @14 /2", "512→512 3×3 @7"]
    order = [(batch, layer) for batch in (256, 32) for layer in six]
    assert list(dict.fromkeys(row["stage"] for row in rows)) == [
        *("dense", "build", "smoke", "ours", "gather")
    ]
    dense = [(row["batch"], row["layer"]) for row in rows if row["stage"] == "dense"]
    ours = [row for row in rows if row["stage"] == "ours"]
    assert dense == order
    assert list(dict.fromkeys((row["batch"], row["layer"]) for row in ours)) == order
    assert {row["precision"] for row in rows if "precision" in row} == {"bf16"}
    kinds = ["PSD2_P8 sorted", "PSD1_P8 sorted", "PSD4_P16 sorted", "99% of weights"]
    kinds += ["all but 1/2 of channels"]
    of_one = [row for row in ours if (row["batch"], row["layer"]) == order[0]]
    assert list(dict.fromkeys(row["removed"] for row in of_one)) == kinds
    assert [r["backend"] for r in of_one if "fused" in r] == list(_gpu_packs.OURS)
    assert [r["removed"] for r in of_one if r["backend"] == "dense, smaller"] == kinds[-1:]
    # What is compiled ahead is all of that.
    assert [(len(packed), conv.label) for conv, _, packed in walked] == [
        (len(kinds), layer) for _, layer in order
    ]


def test_a_structure_is_packed_and_worked_out_once_for_all_precisions_and_layers(
    walked, monkeypatch
):
    """By counting, over three precisions, two batches, and two layers of one shape."""
    packings, alike = [], []
    pack, work = _gpu_packs.pack, _cuda_calls.kernels("tap_tables").alike
    convs = [Conv("a", 64, 64, 8), Conv("b", 64, 64, 4), Conv("b", 64, 32, 4)]
    precisions = {name: _gpu_setting.PRECISIONS[name] for name in ("bf16", "fp16", "fp32")}
    kinds = ("PSD2_P8 sorted", "PSD2_P8", "95% of weights", "all but 1/2 of channels")
    monkeypatch.setattr(_gpu_packs, "pack", lambda w, kind: packings.append(kind) or pack(w, kind))
    monkeypatch.setattr(
        _cuda_calls.kernels("tap_tables"), "alike", lambda *a: alike.append(a) or work(*a)
    )
    monkeypatch.setattr(_gpu_ours, "CONVS", convs)
    monkeypatch.setattr(_gpu_ours, "PRECISIONS", precisions)
    monkeypatch.setattr(_gpu_ours, "ALL", kinds)
    list(_gpu_ours.rest())
    assert packings == [*kinds, *kinds]
    assert len(walked) == len(precisions) * len(_gpu_setting.BATCHES) * len(convs)
    first: dict[tuple, torch.Tensor] = {}
    for conv, x, packed in walked:
        for own in packed:
            dense = own.weight.to_dense()
            assert own.weight.values.dtype == dense.dtype == x.dtype
            exact = first.setdefault((conv.filters, own.removed), own.weight.values.float())
            assert torch.allclose(own.weight.values.float(), exact, rtol=2**-7)
            if own.removed.startswith("PSD2"):
                assert _cuda_calls.refuses_rows(own.weight) is None
    # Of two shapes and two kinds; what else is worked out is kept by the same tensors.
    assert len(alike) == 2 * 2
