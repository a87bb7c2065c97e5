"""Measuring a packed model against the dense one it came from, each in its fastest form."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sparse_ops.planning.forms import EAGER
from sparse_ops.planning.measure import Comparison, compare
from sparse_ops.planning.profiling import Profile, profile
from sparse_ops.program.model import programs_of
from sparse_ops.report.baseline import forms_of
from sparse_ops.report.macs import count_macs, packed_layers
from sparse_ops.report.results import Row

# Of which the median is taken, as `profile` does by itself.
MOST_REPEATS = 20
Measure = Callable[[Callable[[], object], Callable[[], object], float], Comparison]


def dense_against_packed(
    dense: nn.Module,
    packed: nn.Module,
    example: tuple[Any, ...],
    *,
    compile_s: float | None = 60.0,
    seconds: float = 3.0,
    note: str = "",
    measure: Measure = compare,
) -> Row:
    """Times the fastest form of `packed` by turns with that of `dense`; both in eval mode.

    Args:
        dense: the masked dense model, BatchNorm folded or not; of a model that lost channels, as it
            was, for then the ideal counts what went with them.
        packed: what it was converted to.
        example: the input; its first dimension is the batch.
        compile_s: as for `forms_of`, on each side.
        seconds: how long the comparison may take; the profile takes a fifth of it.
        note: for the row.
    """
    forms = forms_of(dense, example, compile_s=compile_s)
    kept = sum(layer.kept for layer in count_macs(packed, example))
    layers = packed_layers(packed)
    measured, packed_forms, profiled = None, forms, None
    if layers or programs_of(packed) is not None:
        packed_forms = forms_of(packed, example, compile_s=compile_s)
        sides = forms.calls[forms.fastest], packed_forms.calls[packed_forms.fastest]
        measured = measure(*sides, seconds)
        profiled = _profile(packed, example, packed_forms.milliseconds[EAGER], seconds)
    first = next(x for x in example if isinstance(x, torch.Tensor))
    return Row(
        batch=len(first),
        threads=torch.get_num_threads(),
        dtype=str(first.dtype).removeprefix("torch."),
        dense_form=forms.fastest,
        forms=forms.milliseconds,
        packed_form=packed_forms.fastest,
        packed_forms=packed_forms.milliseconds,
        skipped=forms.skipped | packed_forms.skipped,
        packed_layers=layers,
        ideal=sum(layer.dense for layer in count_macs(dense, example)) / max(1, kept),
        measured=measured,
        note=note,
        profile=profiled,
    )


def _profile(
    packed: nn.Module, example: tuple[Any, ...], call_ms: float, seconds: float
) -> Profile | None:
    """Of so many repetitions as take a fifth of `seconds`; each is a call, and all steps of one."""
    repeats = int(0.2 * 1e3 * seconds / (2 * max(call_ms, 1e-6)))
    found = profile(packed, example, min(max(repeats, 1), MOST_REPEATS))
    return found if found.rows else None
