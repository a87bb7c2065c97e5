"""Forms: the ways in which torch can run a model, and the fastest of them here.

A speed-up counts only against the best that torch can do for the dense model: as it is, in
channels_last, or compiled with its weights frozen. The packed model may run in the same ways.
"""

import copy
import os
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.convert.choose import channels_last_call
from sparse_ops.convert.fold import find, fold_batch_norms_
from sparse_ops.convert.measure import denormals_flushed, quantile
from sparse_ops.convert.prepare import watch
from sparse_ops.masks import PRUNABLE

Call = Callable[[], object]


@dataclass(eq=False)
class Forms:
    """The forms of a model that run here.

    Attributes:
        calls: form -> a call of the model on the example.
        milliseconds: form -> lower quartile of a short measurement, all forms by turns.
        skipped: form -> why it is not among them; forms that make no sense are not named.
    """

    calls: dict[str, Call]
    milliseconds: dict[str, float]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def fastest(self) -> str:
        return min(self.milliseconds, key=lambda form: self.milliseconds[form])


def folded(model: nn.Module, example: tuple[Any, ...]) -> nn.Module:
    """A copy with every BatchNorm folded that can be: what any deployment would do."""
    base = copy.deepcopy(model).eval()
    layers = {n: m for n, m in base.named_modules() if isinstance(m, PRUNABLE)}
    folding, _ = find(base, watch(base, layers, example))
    fold_batch_norms_(base, folding)
    return base


@torch.inference_mode()
def forms_of(
    model: nn.Module,
    example: tuple[Any, ...],
    *,
    compile_s: float | None = 60.0,
    seconds: float = 0.3,
) -> Forms:
    """Builds every form of a model, dense or packed, and times them by turns, about `seconds` each.

    Args:
        model: in eval mode; it is not changed.
        example: what it is called with.
        compile_s: what is left for compiling, a compilation that has begun being finished; at 0
            that form is left out, as at None, where it was not asked for.
    """
    with torch.inference_mode(False):
        base = folded(model, example)
    calls: dict[str, Call] = {"eager": lambda: base(*example)}
    skipped: dict[str, str] = {}
    if any(isinstance(x, Tensor) and x.dim() == 4 for x in example) and _has_conv(base):
        with torch.inference_mode(False):
            calls["channels_last"] = channels_last_call(base, example)
    if compile_s is None:
        skipped["torch.compile"] = "it was not asked for"
    elif compile_s <= 0:
        skipped["torch.compile"] = "no time is left to compile it"
    elif (reason := _no_compiler()) is not None:
        skipped["torch.compile"] = reason
    else:
        try:
            calls["torch.compile"] = _compiled(base, example)
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            skipped["torch.compile"] = f"it failed: {type(error).__name__}: {first}"
    return Forms(calls, _milliseconds(calls, seconds * len(calls)), skipped)


def _has_conv(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def _no_compiler() -> str | None:
    named = os.environ.get("CXX", "g++").split()[0]
    return None if shutil.which(named) else f"it needs a C++ compiler, and there is no {named}"


def _compiled(model: nn.Module, example: tuple[Any, ...]) -> Call:
    frozen = torch.compile(copy.deepcopy(model), dynamic=False, options={"freezing": True})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, got = model(*example), frozen(*example)
    if isinstance(expected, Tensor) and not torch.allclose(expected, got, rtol=1e-2, atol=1e-3):
        raise RuntimeError("its output is not that of the model")
    return lambda: frozen(*example)


def _milliseconds(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    times: dict[str, list[float]] = {form: [] for form in calls}
    with denormals_flushed():
        for call in calls.values():
            call()
        start = time.perf_counter()
        rounds = 0
        while rounds < 5 or (time.perf_counter() - start < seconds and rounds < 1000):
            for form, call in calls.items():
                before = time.perf_counter()
                call()
                times[form].append(time.perf_counter() - before)
            rounds += 1
    return {form: quantile(spent, 0.25) * 1e3 for form, spent in times.items()}
