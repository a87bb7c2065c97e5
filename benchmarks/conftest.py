"""What all benchmarks share: races of a packed operator against the fastest dense form; results.

pytest benchmarks                                      what is worth watching, some minutes
pytest benchmarks --full                               every layer, sparsity, batch and backend
pytest benchmarks --results benchmarks/results/x.json  also writes the figures, machine and command
pytest benchmarks --threads 1                          threads on both sides; default: torch's own
pytest benchmarks --device cuda --dtype fp16           on a card, against cuDNN (`_device.py`)
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

from benchmarks._device import DTYPES, Place
from benchmarks.limits import machine_limits
from sparse_ops._files import replacing
from sparse_ops.planning.measure import compare, denormals_flushed, quantile
from sparse_ops.report.machine import machine

Call = Callable[[], Tensor]
ROWS = pytest.StashKey[list]()
LIMITS = pytest.StashKey[tuple]()
PLACE = pytest.StashKey[Place]()


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="every layer, sparsity, batch, backend")
    parser.addoption("--results", metavar="FILE", help="write the figures to this JSON file")
    parser.addoption("--device", choices=["cpu", "cuda"], default="cpu", help="where to run")
    parser.addoption(
        "--dtype", choices=[*DTYPES], help="with --device cuda; default: bf16, or fp16"
    )
    parser.addoption("--threads", type=int, help="threads of torch, on both sides")


def pytest_configure(config):
    config.stash[ROWS] = []
    try:
        config.stash[PLACE] = Place.asked(config.getoption("--device"), config.getoption("--dtype"))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture(autouse=True, scope="session")
def _threads(pytestconfig):
    if count := pytestconfig.getoption("--threads"):
        torch.set_num_threads(count)
    pytestconfig.stash[PLACE].prepare()


def wanted(item: pytest.Item, place: Place, full: bool, seen: set) -> bool:
    """Whether a benchmark is run."""
    on_card, more = (item.get_closest_marker(mark) is not None for mark in ("on_card", "full"))
    if place.device == "cpu":
        return not on_card and (full or not more)
    given = getattr(item, "callspec", None) and item.callspec.params
    # What has no backend to choose is of the CPU.
    if not given or getattr(given.get("backend"), "name", None) not in place.backends:
        return False
    if place.dry and on_card:
        # One of each kind: nothing can be learnt from more.
        rest = {name: v for name, v in given.items() if name not in ("layer", "batch")}
        kind = (item.function.__name__, rest.pop("backend").name, *map(str, rest.values()))
        new = kind not in seen
        seen.add(kind)
        return new
    return on_card or (full and not place.dry)


def pytest_collection_modifyitems(config, items):
    place, full, seen = config.stash[PLACE], config.getoption("--full"), set()
    skip = [item for item in items if not wanted(item, place, full, seen)]
    config.hook.pytest_deselected(items=skip)
    items[:] = [item for item in items if item not in skip]


@pytest.fixture(scope="session")
def limits(pytestconfig):
    """(multiply-accumulates, bytes) a second that this machine reaches."""
    if (place := pytestconfig.stash[PLACE]).device == "cuda":
        pytestconfig.stash[LIMITS] = found = place.limits()
        return found
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


class Race:
    """Checks packed calls against float64, races the fastest with the fastest dense form, and keeps
    the row. Forms are layouts: each side gets the one that it is best in.

    Attributes:
        place: where the tensors are to be.
    """

    def __init__(self, place: Place, limits: tuple, benchmark, rows: list) -> None:
        self.place, self._limits, self._benchmark, self._rows = place, limits, benchmark, rows

    def __call__(
        self,
        row: dict,
        dense: dict[str, Call],
        packed: dict[str, Call],
        exact: Tensor,
        macs: int,
        bytes_moved: int,
    ) -> None:
        place = self.place
        with torch.inference_mode(), denormals_flushed():
            for form, call in packed.items():
                error = (call().double() - exact).abs().max() / exact.abs().max()
                assert error < place.most_off, (
                    f"{form} is wrong before it is fast: off by {error:.2g} of the largest output"
                )
            if place.device == "cuda":
                dense_form, packed_form = place.fastest(dense), place.fastest(packed)
                found = place.compared(dense[dense_form], packed[packed_form])
                rounds = 1
            else:
                dense_form, packed_form = fastest(dense), fastest(packed)
                found = asdict(compare(dense[dense_form], packed[packed_form], 1.0))
                rounds = 5
            self._benchmark.pedantic(
                packed[packed_form], rounds=rounds, iterations=1, warmup_rounds=1
            )
        floor_ms = 1e3 * max(macs / self._limits[0], bytes_moved / self._limits[1])
        full = (
            row
            | found
            | {
                "threads": torch.get_num_threads(),
                "dtype": "float32" if place.device == "cpu" else place.precision,
                "dense_form": dense_form,
                "packed_form": packed_form,
                "macs": macs,
                "bytes": bytes_moved,
                "floor_ms": floor_ms,
                "of_floor": floor_ms / found["packed_ms"],
            }
        )
        self._benchmark.extra_info.update(full)
        self._rows.append(full)


@pytest.fixture
def race(benchmark, request, limits):
    stash = request.config.stash
    return Race(stash[PLACE], limits, benchmark, stash[ROWS])


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[ROWS]
    if not rows:
        return
    terminalreporter.section("packed against the fastest dense form")
    if card := (place := config.stash[PLACE]).card:
        how = "times mean nothing" if place.dry else "CUDA graphs on both sides"
        terminalreporter.line(f"{card['name']}, {rows[0]['dtype']}; {how}")
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
            "card": config.stash[PLACE].card,
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
