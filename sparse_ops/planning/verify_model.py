"""Verifying models: a packed one must equal the masked dense one within rounding."""

import copy
from functools import cached_property
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
from sparse_ops.planning.images import images_of, times_over
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


class Reference:
    """What a masked dense model gives on an example, in its own dtype and in float64.

    Each is worked out when it is first asked for, once.
    """

    def __init__(self, dense: nn.Module, example: tuple[Any, ...]) -> None:
        self.dense, self.example = dense, example

    @cached_property
    def given(self) -> list[Tensor]:
        """What the model gives."""
        with torch.no_grad():
            return float_tensors(first_run(self.dense, self.example).output)

    @cached_property
    def exact(self) -> tuple[list[Tensor], str | None]:
        """The same in float64, and what stands against it, in words."""
        theirs = self.given
        try:
            with kept_as_it_is(self.dense), seeded():
                truth = _truth(self.dense, self.example)
        except Exception as failure:
            words = f"the model does not run in float64 ({type(failure).__name__}: {failure})"
            return [t.double() for t in theirs], words
        if [t.shape for t in truth] != [t.shape for t in theirs]:
            return [t.double() for t in theirs], "in float64 the model gives other shapes"
        if _is_other(truth, theirs) and _is_other(_drawn(self.dense, self.example, 1), theirs):
            # Of float64 there are other random numbers, for which errors would be allowed.
            return [t.double() for t in theirs], RANDOM
        return truth, None


def check_model(dense: nn.Module, packed: nn.Module, example: tuple[Any, ...]) -> str | None:
    """Compares a packed model with its masked dense one on an example: see `check_against`."""
    return check_against(Reference(dense, example), packed)


@torch.no_grad()
def check_against(known: Reference, packed: nn.Module) -> str | None:
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
    dense, example = known.dense, known.example
    # Models may write to their inputs, keep what they are given, and draw random numbers.
    ours = float_tensors(first_run(packed, example).output)
    theirs = known.given
    truth, note = known.exact
    if not ours and not theirs:
        note = note or "the model gives nothing that holds floating point tensors"
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        raise Mismatch(
            f"the packed model gives {[tuple(t.shape) for t in ours]}, "
            f"the dense one {[tuple(t.shape) for t in theirs]}"
        )
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


@torch.no_grad()
def check_block(known: Reference, packed: nn.Module, example: tuple[Any, ...]) -> None:
    """Compares a packed model with its masked dense one where it runs as many images as these.

    It is given the few images of the reference over and over, so that their results need not be
    worked out for more. Where that is not surely right, all images are compared.

    Raises:
        As `check_against`.
    """
    few = known.example
    times = -(-images_of(example) // images_of(few))
    if images_of(example) == images_of(few):
        check_against(known, packed)
        return
    if times > 1:
        ours = float_tensors(first_run(packed, times_over(few, times)).output)
        theirs, (truth, note) = known.given, known.exact
        if [t.shape for t in ours] == [_more(t.shape, times) for t in theirs] and ours:
            parts = zip(*(t.chunk(times) for t in ours), strict=True)
            factor = factor_of(packed)
            if all(
                difference([*part], theirs, truth, note is None, factor) is None for part in parts
            ):
                return
    check_model(known.dense, packed, example)


def _more(shape: torch.Size, times: int) -> torch.Size:
    return torch.Size((shape[0] * times, *shape[1:])) if shape else shape


RANDOM = "the model draws random numbers"


def _drawn(model: nn.Module, example: tuple[Any, ...], seed: int) -> list[Tensor]:
    return float_tensors(first_run(model, example, seed).output)


def _is_other(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether half of the digits of some output differ."""
    alike = [a.to(b.dtype) if a.shape == b.shape else a for a, b in zip(ours, theirs, strict=False)]
    return not same_outputs(alike, theirs)
