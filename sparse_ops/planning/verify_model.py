"""Verifying models: a packed one must equal the masked dense one within rounding."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from sparse_ops.graph.inputs import Inputs, calling
from sparse_ops.graph.running import (
    copied_example,
    first_run,
    kept_as_it_is,
    same_outputs,
    seeded,
)
from sparse_ops.planning.blame import where
from sparse_ops.planning.differences import Mismatch, difference, factor_of, float_tensors
from sparse_ops.planning.layout import is_channels_last


def _in_float64(model: nn.Module) -> nn.Module:
    """The model, whose modules have float64 weights while they run, and only then.

    So there is never a second copy of all weights, twice as large as the first.
    """
    # Shared with the model: the copy only has hooks, and references of its own.
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    wide = copy.deepcopy(model, memo)
    for module in wide.modules():
        _widen_while_running(module)
    return wide


def _widen_while_running(module: nn.Module) -> None:
    narrow: list[tuple[dict[str, Any], str, Tensor]] = []

    def widen(*_: object) -> None:
        kinds: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for kind in kinds:
            for name, tensor in kind.items():
                if tensor is not None and tensor.is_floating_point():
                    narrow.append((kind, name, tensor))
                    wide = tensor.detach().double()
                    kind[name] = nn.Parameter(wide) if kind is module._parameters else wide

    def narrow_again(*_: object) -> None:
        while narrow:
            kind, name, tensor = narrow.pop()
            kind[name] = tensor

    module.register_forward_pre_hook(widen, prepend=True)
    module.register_forward_hook(narrow_again, always_call=True)


def _truth(model: nn.Module, example: tuple[Any, ...]) -> list[Tensor]:
    """The outputs of the model in float64."""
    wide = tree_map_only(
        Tensor, lambda x: x.double() if x.is_floating_point() else x, tuple(copied_example(example))
    )
    inputs = example.like(wide) if isinstance(example, Inputs) else wide
    try:
        return float_tensors(calling(_in_float64(model), inputs)())
    except Exception:
        # A module that reads the weights of another one finds them narrow; then all at once.
        return float_tensors(calling(copy.deepcopy(model).double(), inputs)())


@torch.no_grad()
def check_model(dense: nn.Module, packed: nn.Module, example: tuple[Any, ...]) -> str | None:
    """Compares a packed model with its masked dense one on an example.

    The error of each output from that of the dense model in float64 may be `MODEL_FACTOR` times
    that of the dense model itself, or `MODEL_ULPS` of its largest number. Where the dense model
    does not run in float64, half of the digits have to agree with the dense model's own.

    Returns:
        None if they were compared by the bound; else what stands against that, in words.

    Raises:
        Mismatch: an output has another shape, or is further off; the message names what is wrong
            alone, or the first value that differs, and has both numbers.
    """
    # Models may write to their inputs, keep what they are given, and draw random numbers.
    ours = float_tensors(first_run(packed, example).output)
    theirs = float_tensors(first_run(dense, example).output)
    note = None if ours or theirs else "the model gives nothing that holds floating point tensors"
    try:
        with kept_as_it_is(dense), seeded():
            truth = _truth(dense, example)
    except Exception as failure:
        note = f"the model does not run in float64 ({type(failure).__name__}: {failure})"
        truth = [t.double() for t in theirs]
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        raise Mismatch(
            f"the packed model gives {[tuple(t.shape) for t in ours]}, "
            f"the dense one {[tuple(t.shape) for t in theirs]}"
        )
    if [t.shape for t in truth] != [t.shape for t in theirs]:
        note, truth = "in float64 the model gives other shapes", [t.double() for t in theirs]
    if note is None and _is_other(truth, theirs) and _is_other(_drawn(dense, example, 1), theirs):
        # Of float64 there are other random numbers, for which errors would be allowed.
        note, truth = RANDOM, [t.double() for t in theirs]
    wrong = difference(ours, theirs, truth, note is None, factor_of(packed))
    if wrong is None:
        return note
    if _is_other(_drawn(dense, example, 0), theirs):
        return "the model gives something else in each call, so that it was not compared as a whole"
    other_layout = is_channels_last(packed) != is_channels_last(dense)
    if other_layout and _is_other(_drawn(dense, example, 1), theirs):
        return f"{RANDOM}: others in another layout, so that it was not compared as a whole"
    words, of_kernel = where(dense, packed, example)
    raise Mismatch(f"{wrong}; {words}", of_kernel)


RANDOM = "the model draws random numbers"


def _drawn(model: nn.Module, example: tuple[Any, ...], seed: int) -> list[Tensor]:
    return float_tensors(first_run(model, example, seed).output)


def _is_other(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether half of the digits of some output differ."""
    alike = [a.to(b.dtype) if a.shape == b.shape else a for a, b in zip(ours, theirs, strict=False)]
    return not same_outputs(alike, theirs)
