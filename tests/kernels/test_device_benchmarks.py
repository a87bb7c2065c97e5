"""`pytest benchmarks --device cuda` on a box that has no card: the whole path, on tiny shapes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks._device import Place, for_card
from benchmarks.layers import Conv, Linear
from sparse_ops.ops import _kernels, csr_linear

ROOT = Path(__file__).parents[2]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-rs"]
KINDS = {"periodic", "csr", "channels", "linear"}
no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: a real run")


def dry_run(tmp_path, dtype, *options, interpreted):
    """(what `pytest benchmarks --device cuda` says, what it writes down) without a card."""
    file = tmp_path / "found.json"
    done = subprocess.run(
        [*PYTEST, "--device", "cuda", "--results", str(file), *options],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": str(int(interpreted))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert f"no card: a dry run, {dtype}; times mean nothing" in done.stdout
    found = json.loads(file.read_text())
    assert found["card"] == {"name": "no card: a dry run"}
    assert found["macs_per_second"] > 0 and found["bytes_per_second"] > 0
    rows = found["rows"]
    assert {row["backend"] for row in rows} == {"triton" if interpreted else "reference"}
    assert all(row["dtype"] == dtype and row["network"] == "dry" for row in rows)
    assert all(row["dense_form"].startswith(("cudnn", "cublas")) for row in rows)
    assert all(row["floor_ms"] > 0 and row["packed_ms"] > 0 for row in rows)
    return done.stdout, rows


def check_kinds(said, rows):
    """All that a card would race, each kind once."""
    # The CUDA kernels do not run here, and say why.
    assert "this torch was built without CUDA" in said or torch.version.cuda
    assert {row["operator"] for row in rows} == KINDS
    assert {"PSD2_P8", "PSD2_P8 sorted", "PSD1_P8", "PSD4_P16"} <= {row["what"] for row in rows}
    raced = [(row["operator"], row["what"]) for row in rows]
    assert len(set(raced)) == len(raced)


@pytest.mark.slow
@no_card
def test_without_a_card_it_is_a_dry_run_of_every_kind(tmp_path):
    pytest.importorskip("triton")
    check_kinds(*dry_run(tmp_path, "bf16", "benchmarks", "--dtype", "bf16", interpreted=True))


@pytest.mark.slow
@no_card
def test_without_an_interpreter_the_definitions_are_raced(tmp_path):
    # The type is the default.
    check_kinds(*dry_run(tmp_path, "bf16", "benchmarks", interpreted=False))


@pytest.mark.slow
@no_card
@pytest.mark.parametrize("dtype", ["fp16", "tf32", "fp32"])
def test_a_dry_run_has_every_type(tmp_path, dtype):
    pytest.importorskip("triton")
    files = (f"benchmarks/bench_{name}.py" for name in ("csr_linear", "channel_pruned_conv2d"))
    _, rows = dry_run(tmp_path, dtype, *files, "--dtype", dtype, interpreted=True)
    assert {row["operator"] for row in rows} == {"linear", "channels"}


@pytest.mark.parametrize(
    ("there", "halves", "expected"),
    [(True, False, "fp16"), (True, True, "bf16"), (False, False, "bf16")],
    ids=["V100", "H100", "no card"],
)
def test_the_default_is_the_half_precision_that_a_card_has(monkeypatch, there, halves, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)

    def supported(including_emulation=True):
        # torch says yes of every card that can emulate it.
        return halves or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert Place.asked("cuda", None).precision == expected
    assert Place.asked("cuda", "tf32").precision == "tf32"


def test_what_stands_in_is_raced_in_a_dry_run_only():
    names = [each.name for each in for_card(csr_linear.BACKENDS, ["triton"])]
    assert names == ["triton", "reference"]
    for place in (Place("cuda", "fp16", True), Place.asked("cpu", None)):
        assert "reference" not in place.backends
    assert ("reference" in Place("cuda", "fp16", False).backends) == (not _kernels.INTERPRETED)


def test_a_type_on_the_cpu_is_refused_in_words():
    command = [*PYTEST, "benchmarks", "--dtype", "fp16", "--collect-only"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 4
    assert "--dtype fp16 is for --device cuda; on the CPU it is fp32" in done.stderr


def test_on_the_cpu_nothing_of_a_card_is_run():
    place = Place.asked("cpu", None)
    assert place.card is None and not place.dry and place.precision == "fp32"
    layer = Conv("resnet18", 64, 64, 56)
    assert place.small(layer, 32) == (layer, 32)


def test_a_dry_run_is_tiny():
    place = Place("cuda", "bf16", False)
    layer, batch = place.small(Conv("resnet18", 64, 128, 56, stride=2), 256)
    assert (layer.channels, layer.filters, layer.size, layer.stride, batch) == (16, 16, 3, 2, 1)
    line, batch = place.small(Linear("vgg", 4096, 4096), 16)
    assert line.in_features * line.out_features < 1000 and batch == 1
    assert place.put(torch.ones(2)).dtype == torch.bfloat16


def test_on_a_card_both_sides_are_recorded_and_timed_by_turns(monkeypatch):
    from benchmarks import _device

    said = []
    monkeypatch.setattr(_device, "graphed", lambda call: said.append("graph") or call)

    def rounds(*calls):
        for call in calls:
            call()
        return [[2.0, 4.0, 6.0], [1.0, 2.0, 1.5]]

    monkeypatch.setattr(_device, "rounds_on_device", rounds)
    place = Place("cuda", "fp16", True)
    found = place.compared(lambda: said.append("dense"), lambda: said.append("packed"))
    assert said == ["graph", "graph", "dense", "packed"]
    assert found["dense_ms"] == 4.0 and found["packed_ms"] == 1.5 and found["speedup"] == 2.0
    forms = place.conv_forms(torch.randn(1, 8, 4, 4), torch.randn(8, 8, 3, 3), None, 1, 1)
    assert set(forms) == {"cudnn nchw", "cudnn channels_last"}
    assert forms["cudnn channels_last"]().is_contiguous(memory_format=torch.channels_last)
    assert place.fastest({"a": lambda: None, "b": lambda: None}) == "b"
    assert _kernels.INTERPRETED or place.most_off == 4 * 2.0**-11
