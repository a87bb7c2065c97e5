"""Measuring a packed model against the dense one it came from, each in its fastest form."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sparse_ops.planning.measure import Comparison, compare
from sparse_ops.program.model import programs_of
from sparse_ops.report.baseline import forms_of
from sparse_ops.report.macs import count_macs, packed_layers
from sparse_ops.report.results import Row

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
        seconds: how long the comparison may take.
        note: for the row.
    """
    forms = forms_of(dense, example, compile_s=compile_s)
    kept = sum(layer.kept for layer in count_macs(packed, example))
    layers = packed_layers(packed)
    measured, packed_forms = None, forms
    if layers or programs_of(packed) is not None:
        packed_forms = forms_of(packed, example, compile_s=compile_s)
        sides = forms.calls[forms.fastest], packed_forms.calls[packed_forms.fastest]
        measured = measure(*sides, seconds)
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
    )
