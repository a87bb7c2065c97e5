"""Other inference engines beside ours, where they are installed: dense opponents.

None is a dependency. Each runs in a process of its own (`engine_process.py`), of this Python or of
one that is named: `--python onnxruntime=/some/environment/bin/python`. For one environment with
all: `pip install onnxruntime openvino MNN onnx onnxscript`. The licence of deepsparse, which is no
longer made, is for evaluation: it runs where it is named, is printed, and stays out of all results.
"""

import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sparse_ops as so
from sparse_ops.planning.measure import LEAST_CPU, denormals_flushed, quantile

# As they are called, in results and by `engine_process.py`.
NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "mnn": "MNN"}
LOCAL = {"deepsparse": "DeepSparse"}
# Of a turn, which is so many calls of one side.
TURN_S = 0.02
# An engine's threads look for more work for a while: the cores have to be ours in our turn.
SETTLE_S = 0.05
FEWEST = 10


class Engine:
    """A running engine: `output` is what it gives for x."""

    def __init__(self, python: str, engine: str, model: Path, x: Path, threads: int) -> None:
        # Not a pipe, which nobody would empty.
        self._words = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        child = Path(__file__).with_name("engine_process.py")
        command = [python, str(child), engine, str(model), str(x), str(threads)]
        # What is on the way of this Python is not for others.
        own = python == sys.executable
        environment = {k: v for k, v in os.environ.items() if own or k != "PYTHONPATH"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._words, text=True, env=environment
        )
        if self._told() != "ready":
            self.close()
            self._words.seek(0)
            raise RuntimeError((self._words.read().strip().splitlines() or ["it ended"])[-1])
        self.output = torch.from_numpy(np.load(f"{x}.out.npy")).flatten()

    def _told(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def turn(self, calls: int) -> tuple[float, float]:
        """(wall, CPU) seconds of so many calls."""
        assert self.process.stdin is not None
        print(calls, file=self.process.stdin, flush=True)
        wall, cpu = map(float, self._told().split())
        return wall, cpu

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def pythons(named: list[str]) -> dict[str, str]:
    """Engine -> the Python that has it: this one, unless another is named, as engine=path."""
    found = dict.fromkeys(NAMES, sys.executable)
    for each in named:
        engine, _, path = each.partition("=")
        if engine not in NAMES | LOCAL or not path:
            raise SystemExit(f"--python must be one of {', '.join(NAMES | LOCAL)}=PATH, got {each}")
        found[engine] = path
    return found


@contextmanager
def _exported(model: nn.Module, x: Tensor) -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        path, given = Path(folder, "model.onnx"), Path(folder, "x.npy")
        so.export_onnx(model, x, path)
        np.save(given, x.numpy())
        yield path, given


def _older(model: nn.Module, x: Tensor, path: Path) -> Path:
    """A file that engines of 2023 read, and know the layers of."""
    older = path.with_name("older.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), older, opset_version=13, dynamo=False)
    return older


def running(
    model: nn.Module, x: Tensor, threads: int, found: Mapping[str, str]
) -> Iterator[tuple[str, Engine]]:
    """Each engine that there is, one after the other, on a network with one output, in float32."""
    try:
        with _exported(model, x) as (path, given):
            for engine, python in found.items():
                file = path if engine in NAMES else _older(model, x, path)
                try:
                    running = Engine(python, engine, file, given, threads)
                except RuntimeError as error:
                    print(f"{engine} takes no part: {error}", file=sys.stderr)
                    continue
                yield engine, running
                running.close()
    except ImportError as missing:
        print(f"no engine takes part: {missing}", file=sys.stderr)


@torch.inference_mode()
def beside(engine: Engine, ours: Callable[[], Any], seconds: float) -> dict[str, float]:
    """An engine and ours by turns: its milliseconds, and by how much ours is faster.

    Pairs in which the machine was taken away do not count, unless most are such.
    """

    def our_turn(calls: int) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(calls):
            ours()
        return time.perf_counter() - wall, time.process_time() - cpu

    with denormals_flushed():
        counts = []
        for turn in (engine.turn, our_turn):
            once = min(turn(1)[0] for _ in range(3))
            counts.append(max(1, round(TURN_S / max(once, 1e-7))))
        pairs, disturbed = [], []
        ends = time.perf_counter() + seconds
        while len(pairs) + len(disturbed) < FEWEST or time.perf_counter() < ends:
            a, a_cpu = engine.turn(counts[0])
            time.sleep(SETTLE_S)
            b, b_cpu = our_turn(counts[1])
            calm = a_cpu >= LEAST_CPU * a and b_cpu >= LEAST_CPU * b
            (pairs if calm else disturbed).append((a / counts[0], b / counts[1]))
    if len(pairs) < len(disturbed):
        pairs, disturbed = pairs + disturbed, []
    ratios = [a / b for a, b in pairs]
    return {
        "ms": 1e3 * quantile([a for a, _ in pairs], 0.5),
        "packed_ms": 1e3 * quantile([b for _, b in pairs], 0.5),
        "speedup": quantile(ratios, 0.5),
        "low": quantile(ratios, 0.1),
        "high": quantile(ratios, 0.9),
        "pairs": len(pairs),
        "dropped": len(disturbed),
    }
