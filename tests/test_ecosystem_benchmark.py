"""The benchmark of other people's networks, on what is small enough for a test."""

import argparse
import json
import sys

import pytest

from benchmarks import ecosystem
from benchmarks.ecosystem_table import ecosystem_table, speedups_table

CASE = ("ESPCN", "50% of filters", 1)


def options(**more):
    about = {"threads": 1, "plan_s": 1.0, "seconds": 0.2, "compile_s": 0.0, "tiny": True}
    return argparse.Namespace(**about, **more)


def test_a_row_that_takes_too_long_is_told():
    found = ecosystem.in_a_process(options(row_s=0.01), CASE)
    assert found["failed"] == "it took longer than 0.01 s"
    assert (found["network"], found["masks"], found["batch"]) == CASE


def made(network, masks, batch, speedup):
    times = {"dense_ms": 2.0, "packed_ms": 1.0, "speedup": speedup, "low": 1.5, "high": 2.5}
    about = {"network": network, "masks": masks, "batch": batch, "threads": 2}
    sizes = {"peak_bytes": 3e8, "model_bytes": 4.4e7, "plan_s": 30.2}
    counts = {"packed": 5, "narrower": 3, "layers": 21, "dense_form": "eager"}
    return about | times | sizes | counts


def test_tables_have_every_row_and_every_failure():
    here = {"cpu": "X", "isa": "avx2", "torch": "2.10"}
    rows = [made("a", kind, n, 1.0 + n) for kind in ecosystem.KINDS for n in (1, 16)]
    rows += [made("b", "90%", 1, 0.7), made("timm mobilenetv3_large_100", "90%", 1, 3.0)]
    rows.insert(0, made("torchvision mobilenet_v3_large", "90%", 1, 2.5))
    failed = [{"network": "b", "masks": "90%", "batch": 16, "failed": "it took longer than 3 s"}]
    data = {"machine": here, "command": "python -m x", "rows": rows, "failed": failed}
    whole = ecosystem_table(data)
    assert (
        "| a | 90% | 16 | 2.00 (eager) | 1.00 | **17.00×** (1.50–2.50) | 5, 3, 21 | 30 s" in whole
    )
    assert whole.endswith("Without a result: b, 90%, batch 16: it took longer than 3 s.")
    short = speedups_table(data).splitlines()
    assert short[2] == "| removed | mobilenet v3 | a | b |"
    assert short[4:] == [
        "| 90%, batch 1 | 2.50× | 2.00× | 0.70× |",
        "| 90%, batch 16 |  | 17.00× |  |",
        "| 50% of filters, batch 1 |  | 2.00× |  |",
        "| 50% of filters, batch 16 |  | 17.00× |  |",
    ]


@pytest.mark.slow
def test_rows_are_measured_in_processes_and_kept(tmp_path, monkeypatch, capsys):
    file = tmp_path / "ecosystem.json"
    command = "x --tiny --plan-s 2 --seconds 0.2 --compile-s 0 --only"
    command = [*command.split(), "ESPCN, 50% of filters, batch 1", "--results", str(file)]
    monkeypatch.setattr(ecosystem, "ROWS", [CASE])
    monkeypatch.setattr(sys, "argv", command)
    ecosystem.main()
    data = json.loads(file.read_text())
    (row,) = data["rows"]
    assert row["narrower"] == row["layers"] == 4 and row["error"] < 1e-4 and row["pairs"] >= 1
    assert row["peak_bytes"] > row["model_bytes"] and row["plan_s"] > 0
    ecosystem_table(data)
    capsys.readouterr()
    ecosystem.main()
    assert capsys.readouterr().out == "" and json.loads(file.read_text())["rows"] == [row]
