"""Forms: the ways in which torch can run a model, and the fastest of them here.

A speed-up counts only against the best that torch can do for the dense model: as it is, in
channels_last, or compiled with its weights frozen. The packed model may run in the same ways.
"""

import copy
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sparse_ops.graph.capture import Uncaptured, capture
from sparse_ops.planning.forms import (
    COMPILED,
    EAGER,
    Call,
    channels_last_call,
    compiled_call,
    failure,
    no_compiler,
)
from sparse_ops.planning.layout import CHANNELS_LAST, has_images
from sparse_ops.planning.measure import denormals_flushed, quantile
from sparse_ops.planning.ways import plain_way
from sparse_ops.program.model import programs_of


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
    if programs_of(base) is not None:
        # Folded, and more, when it was converted.
        return base
    try:
        return plain_way(base, capture(base, example), {}, True).model
    except Uncaptured:
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
    calls: dict[str, Call] = {EAGER: lambda: base(*example)}
    skipped: dict[str, str] = {}
    if has_images(base, example):
        with torch.inference_mode(False):
            calls[CHANNELS_LAST] = channels_last_call(base, example)
    if compile_s is None:
        skipped[COMPILED] = "it was not asked for"
    elif compile_s <= 0:
        skipped[COMPILED] = "no time is left to compile it"
    elif (reason := no_compiler()) is not None:
        skipped[COMPILED] = reason
    else:
        try:
            calls[COMPILED] = compiled_call(base, example)
        except Exception as error:
            skipped[COMPILED] = failure(error)
    return Forms(calls, _milliseconds(calls, seconds * len(calls)), skipped)


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
