"""What all benchmarks share: races of a packed operator against the fastest dense form; results.

pytest benchmarks                                      what is worth watching, some minutes
pytest benchmarks --full                               every layer, sparsity, batch and backend
pytest benchmarks --results benchmarks/results/x.json  also writes the figures, machine and command
pytest benchmarks --threads 1                          threads on both sides; default: torch's own
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.limits import machine_limits
from sparse_ops._files import replacing
from sparse_ops.planning.measure import compare, denormals_flushed, quantile
from sparse_ops.report.machine import machine

Call = Callable[[], Tensor]
ROWS = pytest.StashKey[list]()
LIMITS = pytest.StashKey[tuple]()


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="every layer, sparsity, batch, backend")
    parser.addoption("--results", metavar="FILE", help="write the figures to this JSON file")
    parser.addoption("--threads", type=int, help="threads of torch, on both sides")


def pytest_configure(config):
    config.stash[ROWS] = []


@pytest.fixture(autouse=True, scope="session")
def _threads(pytestconfig):
    if count := pytestconfig.getoption("--threads"):
        torch.set_num_threads(count)


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        skip = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=skip)
        items[:] = [item for item in items if item not in skip]


@pytest.fixture(scope="session")
def limits(pytestconfig):
    """(multiply-accumulates, bytes) a second that this machine reaches."""
    with denormals_flushed():
        macs, moved = machine_limits()
    pytestconfig.stash[LIMITS] = (macs, moved)
    return macs, moved


def fastest(forms: dict[str, Call]) -> str:
    """The form that is fastest of several, timed by turns."""
    times: dict[str, list[float]] = {form: [] for form in forms}
    for turn in range(12 if len(forms) > 1 else 0):
        for form, call in forms.items():
            start = time.perf_counter()
            call()
            if turn > 1:
                times[form].append(time.perf_counter() - start)
    return min(times, key=lambda form: quantile(times[form], 0.25) if times[form] else 0.0)


@pytest.fixture
def race(benchmark, request, limits):
    """Checks packed calls against float64, races the fastest with the fastest dense form, and keeps
    the row. Forms are layouts: each side gets the one that it is best in."""

    def run(
        row: dict,
        dense: dict[str, Call],
        packed: dict[str, Call],
        exact: Tensor,
        macs: int,
        bytes_moved: int,
    ) -> None:
        with torch.inference_mode(), denormals_flushed():
            for form, call in packed.items():
                error = (call().double() - exact).abs().max() / exact.abs().max()
                assert error < 1e-4, (
                    f"{form} is wrong before it is fast: off by {error:.2g} of the largest output"
                )
            dense_form, packed_form = fastest(dense), fastest(packed)
            found = compare(dense[dense_form], packed[packed_form], 1.0)
            benchmark.pedantic(packed[packed_form], rounds=5, iterations=1, warmup_rounds=1)
        floor_ms = 1e3 * max(macs / limits[0], bytes_moved / limits[1])
        full = (
            row
            | asdict(found)
            | {
                "threads": torch.get_num_threads(),
                "dtype": "float32",
                "dense_form": dense_form,
                "packed_form": packed_form,
                "macs": macs,
                "bytes": bytes_moved,
                "floor_ms": floor_ms,
                "of_floor": floor_ms / found.packed_ms,
            }
        )
        benchmark.extra_info.update(full)
        request.config.stash[ROWS].append(full)

    return run


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    if not rows:
        return
    terminalreporter.section("packed against the fastest dense form")
    head = f"{'':44} {'batch':>5} {'kept':>6} {'dense ms':>10} {'packed ms':>10}"
    terminalreporter.line(f"{head} {'speed-up':>8} {'10-90 %':>13} {'ideal':>6} {'floor':>6}")
    for r in rows:
        name = f"{r['operator']} {r['layer']} {r['what']} {r['backend']}"
        spread = f"{r['low']:.2f}-{r['high']:.2f}"
        terminalreporter.line(
            f"{name[:44]:44} {r['batch']:>5} {r['kept']:>6.1%} {r['dense_ms']:>10.3f} "
            f"{r['packed_ms']:>10.3f} {r['speedup']:>8.2f} {spread:>13} {r['ideal']:>6.2f} "
            f"{r['of_floor']:>6.0%}  {r['packed_form']} / {r['dense_form']}"
        )
    if path := config.getoption("--results"):
        macs, moved = config.stash[LIMITS]
        data = {
            "machine": asdict(machine()),
            "command": " ".join(
                ["pytest", *(os.path.relpath(a) if Path(a).exists() else a for a in sys.argv[1:])]
            ),
            "macs_per_second": macs,
            "bytes_per_second": moved,
            "rows": rows,
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(data, indent=1) + "\n")
        terminalreporter.line(f"written to {path}")
