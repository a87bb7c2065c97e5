"""Measures an operator's configurations and backends for given arguments, and keeps the fastest."""

import contextlib
import itertools
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sparse_ops.ops import _tuned
from sparse_ops.ops._kernels import kernels

Timer = Callable[..., list[float]]

# eights, groups, warpgroups, channels at a time, blocks of weights in a stage, blocks
# eights, groups, warpgroups, channels at a time, places for them and for weights, taps at a time,
# loops
WGMMA: list[tuple[int, ...]] = [
    (eights, together // eights, warpgroups, chunk, *rings, 3, int(together <= 16))
    for together, warpgroups in ((32, 2), (16, 3), (16, 2), (16, 1))
    for eights in (2, 4, 8)
    for chunk, *rings in ((64, 4, 4), (64, 3, 3), (32, 4, 4), (32, 6, 3))
]
# What is tried of each number of a configuration (`kernels/configs.py`).
CANDIDATES: dict[str, list[tuple[int, ...]]] = {
    "merged": [(1,), (2,), (3,), (4,), (6,), (8,), (9,), (16,)],
    "set": [
        *itertools.product((64, 128), (16, 32, 64, 128), (32,), (4, 8), (3,)),
        *itertools.product((128,), (32, 64), (16, 64), (4, 8), (2, 4)),
    ],
    "row": list(itertools.product((64, 128, 256), (4, 8, 16), (2, 4), (1,))),
    # eights, groups, warps over pixels and filters, channels at a time, blocks
    "tap": [
        (eights, together // eights, *warps, chunk, 1)
        for together in (4, 8)
        for eights in (1, 2, 4, 8)
        if eights <= together
        for warps in ((2, 4), (4, 2), (2, 2), (4, 1), (1, 4))
        for chunk in (64, 128)
    ],
    "wgmma": WGMMA,
    "linear": list(itertools.product((1, 8), (64, 128, 256), (1, 4), (1, 4), (2,))),
}


# kind -> whose kernel it configures, if not Triton's.
BACKEND_OF = {"tap": "cuda", "wgmma": "wgmma"}


def cuda_milliseconds(*calls: Callable[[], object]) -> list[float]:
    """The median time that the device takes for each call, by turns, L2 emptied before each."""
    return [statistics.median(own) for own in kernels("clock").rounds_on_device(*calls)]


def _near(y: Tensor, expected: Tensor) -> bool:
    """Whether two results differ by rounding at most."""
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    off = float((y.float() - expected.float()).abs().max()) if y.numel() else 0.0
    return off <= 16 * torch.finfo(y.dtype).eps * scale + 1e-3 * scale


def _working(
    run: Callable[..., Tensor], kind: str, candidates: Sequence[tuple[int, ...]], expected: Tensor
) -> dict[tuple[int, ...], Callable[[], Tensor]]:
    """A call for each configuration that runs here and gives the right result."""

    def call(numbers: tuple[int, ...]) -> Tensor:
        with _tuned.trying(kind, numbers):
            return run(backend=BACKEND_OF.get(kind, "triton"))

    found: dict[tuple[int, ...], Callable[[], Tensor]] = {}
    for numbers in candidates:
        try:
            right = _near(call(numbers), expected)
        except Exception:
            # What this is depends on Triton: too much shared memory, or a block it cannot compile.
            continue
        if right:
            found[numbers] = partial(call, numbers)
    return found


def tune(
    operator: Callable[..., Tensor],
    x: Tensor,
    weight: Any,
    *arguments: Any,
    backends: Sequence[Any] | None = None,
    milliseconds: Timer = cuda_milliseconds,
    candidates: dict[str, list[tuple[int, ...]]] = CANDIDATES,
) -> dict[str, float]:
    """Finds the fastest configurations of the Triton and CUDA kernels, then the fastest backend.

    From then on `backend="auto"` takes it for such arguments, on this card, in every process.

    Args:
        operator: one of `sparse_ops.functional`, called with x, weight and the arguments.
        backends: which to compare; by default, all of the operator's.
        milliseconds: gives the time of each of several calls, measured by turns.
        candidates: kind -> the configurations that are tried.

    Returns:
        Milliseconds by the name of the backend.

    Raises:
        RuntimeError: the Triton kernels cannot run these arguments.
        OSError: the results cannot be written to where `_tuned.path` says.
    """
    if backends is None:
        backends = import_module(operator.__module__).BACKENDS
    run = partial(operator, x, weight, *arguments)
    with torch.no_grad(), torch.cuda.device_of(x), _tuned.asking() as asked:
        run(backend="triton")
        for own in BACKEND_OF.values():
            with contextlib.suppress(RuntimeError, ValueError):
                run(backend=own)
        run()
    with torch.no_grad(), torch.cuda.device_of(x):
        expected = run(backend="reference")
        for kind, card, problem in dict.fromkeys(asked):
            if kind == "backends":
                continue
            calls = _working(run, kind, candidates[kind], expected)
            if not calls:
                continue
            times = dict(zip(calls, milliseconds(*calls.values()), strict=True))
            best = min(times, key=lambda numbers: times[numbers])
            _tuned.keep(kind, card, problem, list(best))
        able = {}
        for backend in backends:
            try:
                run(backend=backend.name)
            except RuntimeError:
                continue
            able[backend.name] = partial(run, backend=backend.name)
        found = dict(zip(able, milliseconds(*able.values()), strict=True))
        for kind, card, problem in dict.fromkeys(asked):
            if kind == "backends":
                _tuned.keep(kind, card, problem, found)
    return found
