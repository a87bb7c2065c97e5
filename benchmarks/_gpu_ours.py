"""The layers of gpu_run.py: the dense library, then a check of ours, then ours against it.

All of that in one process: weights are packed, and their structure worked out, once for each shape
and kind. Both sides are timed as CUDA graphs, so that neither pays for its launches.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks._gpu_build import Builder
from benchmarks._gpu_clock import queueing_ms, ratios
from benchmarks._gpu_packs import ALL, FIRST, SOME, Pack, half_of, packs
from benchmarks._gpu_setting import (
    BATCHES,
    CONVS,
    DEVICE,
    DRY,
    FIRST_CONVS,
    HALF,
    PRECISIONS,
    conv_problem,
    in_time,
    last,
    rounds,
    use,
)
from benchmarks._gpu_sparse import checked, guarded, replayed, smoke
from benchmarks.layers import Conv


class Weights:
    """The weights of some layers, dense and packed: once for all layers of a shape, and all types.

    What our kernels work out of a structure on the host, tens of seconds for all of these, is kept
    as long as its tensors are, which all types share.
    """

    def __init__(self, convs: list[Conv], kinds: Sequence[str]) -> None:
        shapes = dict.fromkeys((conv.filters, conv.channels) for conv in convs)
        self._dense = {shape: torch.randn(*shape, 3, 3, device=DEVICE) for shape in shapes}
        self._packed = {shape: list(packs(w, kinds)) for shape, w in self._dense.items()}

    def dense(self, conv: Conv, dtype: torch.dtype) -> Tensor:
        return last(self._dense[conv.filters, conv.channels].to(dtype))

    def packed(self, conv: Conv, dtype: torch.dtype) -> list[Pack]:
        own = self._packed[conv.filters, conv.channels]
        weights = (pack.weight.with_values(pack.weight.values.to(dtype)) for pack in own)
        return [pack._replace(weight=w) for pack, w in zip(own, weights, strict=True)]


def layers() -> Iterator[dict]:
    """Six layers of ResNet-18 in half precision: what a card is asked first."""
    yield from of_precision(HALF, FIRST_CONVS, Weights(FIRST_CONVS, FIRST))


def rest() -> Iterator[dict]:
    """All layers, precisions and kinds of sparsity, as far as the time goes."""
    kinds = ("PSD2_P8", "95% of weights", "all but 1/4 of channels") if DRY else ALL
    whole = Weights(CONVS, kinds)
    for precision in PRECISIONS:
        if in_time():
            yield from of_precision(precision, CONVS, whole)


def of_precision(precision: str, convs: list[Conv], whole: Weights) -> Iterator[dict]:
    """The rows of `dense`, `smoke`, `gather` and `ours` in one precision."""
    dtype = use(precision)
    weights = {conv: whole.dense(conv, dtype) for conv in convs}
    packed = {conv: whole.packed(conv, dtype) for conv in convs}
    builder = Builder()
    for batch in BATCHES:
        for conv in convs:
            if in_time():
                builder.note(conv, conv_problem(conv, batch, dtype)[0], packed[conv])
    builder.start()
    forms: dict[tuple[int, Conv], str] = {}
    for batch in BATCHES:
        for conv in convs:
            if not in_time():
                break
            x, what = conv_problem(conv, batch, dtype)
            row = guarded(what, partial(_dense_row, conv.stride, x, weights[conv]))
            forms[batch, conv] = row.get("form", "channels_last")
            yield {"stage": "dense"} | row
    yield {"stage": "build"} | builder.wait()
    yield from ({"stage": "smoke"} | row for row in smoke((precision,)))
    for batch in BATCHES:
        for conv in convs:
            x, what = conv_problem(conv, batch, dtype)
            calls = Dense(x, weights[conv], conv.stride, forms.get((batch, conv), "channels_last"))
            for pack in packed[conv]:
                for backend in pack.backends:
                    if not in_time():
                        return
                    own = what | {"removed": pack.removed, "backend": backend}
                    yield {"stage": "ours"} | guarded(own, partial(_row, calls, pack, backend))
            yield {"stage": "gather"} | guarded(what | {"what": "sort x"}, partial(_gather, calls))
            yield from ({"stage": "ours"} | row for row in _others(what, calls, packed[conv]))


class Dense:
    """The dense layer that ours is raced with: the faster of its layouts, as a CUDA graph."""

    def __init__(self, x: Tensor, weight: Tensor, stride: int, form: str) -> None:
        self.x, self.weight, self.stride, self.form = x, weight, stride, form

    def arguments(self) -> tuple[Tensor, Tensor]:
        if self.form == "channels_last":
            return self.x, self.weight
        return self.x.contiguous(), self.weight.contiguous()

    def call(self) -> Callable[[], object]:
        return replayed(partial(F.conv2d, *self.arguments(), None, self.stride, 1))

    def fused(self, bias: Tensor, residual: Tensor) -> Callable[[], object]:
        """With bias, residual and ReLU: in cuDNN's own kernel where it has one."""
        x, weight = self.arguments()
        residual = residual.contiguous(memory_format=torch.channels_last)
        one, steps = ([1, 1], [self.stride] * 2)

        def in_one() -> Tensor:
            return torch.cudnn_convolution_add_relu(
                x, weight, residual, 1.0, bias, steps, one, one, 1
            )

        def apart() -> Tensor:
            return F.conv2d(x, weight, bias, self.stride, 1).add_(residual).relu_()

        try:
            in_one()
        except (RuntimeError, AttributeError, NotImplementedError):
            return replayed(apart)
        return replayed(in_one)


@torch.inference_mode()
def _dense_row(stride: int, x: Tensor, weight: Tensor) -> dict:
    forms = {"nchw": Dense(x, weight, stride, "nchw")}
    forms["channels_last"] = Dense(x, weight, stride, "channels_last")
    found = [statistics.median(own) for own in rounds(*(form.call() for form in forms.values()))]
    times = dict(zip(forms, found, strict=True))
    named = {f"{form}_ms": time for form, time in times.items()}
    return named | {"form": min(times, key=lambda form: times[form])}


def refused(call: Callable[[], object]) -> str | None:
    """Why a backend refuses, or None; any other error is one."""
    try:
        call()
    except RuntimeError as error:
        if "no backend for these arguments" in str(error):
            return str(error).partition("; ")[2]
        raise
    return None


@torch.inference_mode()
def _row(dense: Dense, pack: Pack, backend: str) -> dict:
    x = dense.x if pack.last else dense.x.contiguous()
    call = partial(pack.run, x, pack.weight, None, dense.stride, 1, backend=backend)
    if (reason := refused(call)) is not None:
        return {"refused": reason}
    # As many images as make the very kernel that is timed, specialised for its multiples of 16.
    checked(pack.run, x[:16], pack.weight, None, dense.stride, 1, backend=backend)
    return compared(*rounds(replayed(call), dense.call()), dense.weight, pack.weight.nnz)


@torch.inference_mode()
def _gather(dense: Dense) -> dict:
    """What sorting x by class costs, where a model's channels are not sorted."""
    images = dense.x.permute(0, 2, 3, 1)
    order = (torch.arange(images.shape[3], device=images.device) % 8).argsort(stable=True)
    mine, theirs = rounds(replayed(lambda: images.index_select(3, order)), dense.call())
    return {"gather_ms": statistics.median(mine), "dense_ms": statistics.median(theirs)}


def _others(what: dict, dense: Dense, packed: list[Pack]) -> Iterator[dict]:
    """A dense layer of half the channels, which `shrink` leaves, and ends in the same kernel."""
    smaller = what | {"removed": "all but 1/2 of channels", "backend": "dense, smaller"}
    yield guarded(smaller, partial(_smaller, dense))
    for pack in packed[:1]:
        for backend in pack.backends:
            own = what | {"removed": pack.removed, "backend": backend, "fused": "bias, add, relu"}
            yield guarded(own, partial(_fused, dense, pack, backend))


@torch.inference_mode()
def _smaller(dense: Dense) -> dict:
    kept = [list(half_of(n)) for n in dense.weight.shape[:2]]
    weight = last(dense.weight[kept[0]][:, kept[1]].contiguous())
    call = Dense(last(dense.x[:, kept[1]].contiguous()), weight, dense.stride, dense.form).call()
    return compared(*rounds(call, dense.call()), dense.weight, weight.numel())


@torch.inference_mode()
def _fused(dense: Dense, pack: Pack, backend: str) -> dict:
    bias = torch.randn(dense.weight.shape[0], device=DEVICE).to(dense.x.dtype)
    residual = torch.randn_like(F.conv2d(dense.x, dense.weight, None, dense.stride, 1))
    more = {"activation": "relu", "residual": residual, "backend": backend}
    call = partial(pack.run, dense.x, pack.weight, bias, dense.stride, 1, **more)
    if (reason := refused(call)) is not None:
        return {"refused": reason}
    times = rounds(replayed(call), dense.fused(bias, residual))
    return compared(*times, dense.weight, pack.weight.nnz)


def compared(mine: list[float], theirs: list[float], weight: Tensor, kept: int) -> dict[str, Any]:
    times = {"ours_ms": statistics.median(mine), "dense_ms": statistics.median(theirs)}
    return times | ratios(theirs, mine) | {"ideal": weight.numel() / max(1, kept)}


def small() -> Iterator[dict]:
    """Small batches, where launches would be all of the time; and what the host takes to launch."""
    for precision in dict.fromkeys((HALF,) if DRY else (HALF, "fp16")):
        dtype = use(precision)
        for batch in (1,) if DRY else (1, 8):
            for conv in CONVS:
                x, what = conv_problem(conv, batch, dtype)
                weight = last(
                    torch.randn(conv.filters, conv.channels, 3, 3, device=DEVICE).to(dtype)
                )
                dense = Dense(x, weight, conv.stride, "channels_last")
                for pack in packs(weight.contiguous(), SOME):
                    for backend in pack.backends:
                        if not in_time():
                            return
                        own = what | {"removed": pack.removed, "backend": backend}
                        row = guarded(own, partial(_row, dense, pack, backend))
                        if "ours_ms" in row:
                            call = partial(pack.run, x, pack.weight, None, conv.stride, 1)
                            with torch.inference_mode():
                                times = 2 if DRY else 50
                                row["queueing_ms"] = queueing_ms(
                                    partial(call, backend=backend), times
                                )
                        yield row
