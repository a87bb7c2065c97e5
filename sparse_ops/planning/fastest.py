"""The fastest form of a model here: as it is, in channels_last, or compiled."""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from sparse_ops.graph.inputs import calling
from sparse_ops.planning.compiled import cannot_compile, compile_
from sparse_ops.planning.context import Context
from sparse_ops.planning.copies import sharing_copy
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

# Compiling a network of 18 to 50 layers takes 10 to 60 s, and cannot be stopped: it is begun only
# with a budget of which this part, which nothing else has, is as long as that.
COMPILE_S, COMPILE_SHARE = 15.0, 0.3
# How many calls of a model tell its layout, and the part of the budget that they may take.
LAYOUT_CALLS, LAYOUT_SHARE = 5, 0.1


@dataclass(frozen=True)
class Forms:
    """The forms of a model, and the fastest of them.

    Attributes:
        fastest: "eager", "channels_last" or "torch.compile".
        milliseconds: form -> median of one call, of those that were compared.
        skipped: form -> why it was not.
    """

    fastest: str = EAGER
    milliseconds: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class Compiled:
    """A call of a compiled model, which is compiled when it is first called.

    Attributes:
        given: whether it is compiled as `Plan.apply` gives it, with what that costs at every call;
            otherwise as torch has it.
        records_itself: whether it is a CUDA graph already, on a GPU.
    """

    records_itself = True

    def __init__(self, model: nn.Module, example: tuple[Any, ...], given: bool) -> None:
        self.model, self.example, self.given = model, example, given
        self.call: Call | None = None

    def __call__(self) -> object:
        if self.call is None and self.given:
            self.call = calling(compile_(sharing_copy(self.model), self.example), self.example)
        elif self.call is None:
            self.call = compiled_call(self.model, self.example)
        return self.call()


def fastest_layout(
    context: Context, model: nn.Module, about: str, seconds: float
) -> tuple[Forms, Call]:
    """The faster of a model as it is and in channels_last."""
    plain: Call = calling(model, context.example)
    if not has_images(model, context.example):
        return Forms(), plain
    planar = channels_last_call(model, context.example)
    part = context.on_part(LAYOUT_CALLS, max(seconds, LAYOUT_SHARE * context.budget_s))
    one, other = plain, planar
    if part is not context:
        one, other = calling(model, part.example), channels_last_call(model, part.example)
    what = {"forms": [EAGER, CHANNELS_LAST], "of": about}
    try:
        measured = part.timed_whole(what, one, other, seconds)
    except Exception as error:
        # A `view` of images as vectors, say, which only the usual layout has.
        return Forms(skipped={CHANNELS_LAST: failure(error)}), plain
    scale = part.scale
    times = {EAGER: scale * measured.dense_ms, CHANNELS_LAST: scale * measured.packed_ms}
    if measured.speedup > 1:
        return Forms(CHANNELS_LAST, times), planar
    return Forms(EAGER, times), plain


def try_compiled(
    context: Context, model: nn.Module, about: str, forms: Forms, call: Call, seconds: float
) -> tuple[Forms, Call]:
    """The forms with torch.compile among them, where it may be tried."""
    given = model is not context.dense
    reason = None if context.compiles else "it was not asked for"
    reason = reason or (cannot_compile(context.example) if given else no_compiler())
    compiled = Compiled(model, context.example, given)
    what = {"forms": [forms.fastest, COMPILED], "of": about}
    share = COMPILE_SHARE * context.budget_s
    if reason is None and share < COMPILE_S and not context.knows_whole(what, seconds):
        needed = COMPILE_S / COMPILE_SHARE
        reason = f"compiling takes long: it needs a budget of {needed:.0f} s"
    if reason is not None:
        return replace(forms, skipped={**forms.skipped, COMPILED: reason}), call
    try:
        measured = context.timed_whole(what, call, compiled, seconds)
    except Exception as error:
        return replace(forms, skipped={**forms.skipped, COMPILED: failure(error)}), call
    times = {**forms.milliseconds, forms.fastest: measured.dense_ms, COMPILED: measured.packed_ms}
    faster = measured.speedup > 1
    return replace(forms, fastest=COMPILED if faster else forms.fastest, milliseconds=times), (
        compiled if faster else call
    )
