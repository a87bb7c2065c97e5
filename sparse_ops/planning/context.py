"""Context: what all steps of one planning share, and how they measure."""

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparse_ops.passes.winograd import SMALL
from sparse_ops.planning.blame import REPORT
from sparse_ops.planning.cache import Cache
from sparse_ops.planning.differences import Mismatch
from sparse_ops.planning.floors import Floors
from sparse_ops.planning.fold import Folding
from sparse_ops.planning.forms import Call
from sparse_ops.planning.measure import PAIRS_OF_WHOLE, Comparison, compare

Measure = Callable[[Call, Call, float], Comparison]


@dataclass(frozen=True, eq=False)
class Context:
    """What all steps of one planning share.

    Attributes:
        dense: the masked copy, BatchNorm folded, in eval mode: what is to be beaten.
        base: the same without the channels that were removed; `dense` itself if none was.
        measure: what compares two callables within some seconds.
        cache: measurements from before; None where the measure is not ours.
        floors: what the machine can do; None where the measure is not ours.
        identity: what the whole model's measurements are kept under; None: they are not.
        compiles: whether torch.compile may be tried.
        budget_s: seconds for all of the planning.
        ends: when they are over, as `time.perf_counter` has it.
        winograd: the tiles of dense 3×3 convolutions: see `passes.winograd`.
        failed: what was left out because it computed something else, in words.
    """

    dense: nn.Module
    base: nn.Module
    masks: Mapping[str, Tensor]
    example: tuple[Any, ...]
    folding: Folding
    measure: Measure
    budget_s: float
    cache: Cache | None = None
    floors: Floors | None = None
    identity: Mapping[str, Any] | None = None
    compiles: bool = False
    mask_digests: dict[str, str] = field(default_factory=dict)
    ends: float = float("inf")
    winograd: str = SMALL
    failed: list[str] = field(default_factory=list)

    def tell_of(self, what: str, error: Exception) -> None:
        """Warns of what is left out if it computed something else, and keeps it for the plan."""
        tell_of(self.failed, what, error)

    def timed(
        self, what: Mapping[str, Any] | None, dense: Call, packed: Call, seconds: float
    ) -> Comparison:
        """Compares two callables, or takes from the cache what was measured for `what`."""
        seconds = max(0.0, min(seconds, self.ends - time.perf_counter()))
        if self.cache is None or what is None:
            return self.measure(dense, packed, seconds)
        known = self.cache.comparison(what, seconds)
        if known is None:
            known = self.measure(dense, packed, seconds)
            self.cache.put_comparison(what, seconds, known)
        return known

    def timed_whole(
        self, what: Mapping[str, Any], dense: Call, packed: Call, seconds: float
    ) -> Comparison:
        """As `timed`, of the whole model; `what` is told apart from other models' by `identity`."""
        full = None if self.identity is None else {**self.identity, **what}
        return self.timed(full, dense, packed, seconds)

    def timed_last(
        self, what: Mapping[str, Any], dense: Call, packed: Call, seconds: float
    ) -> Comparison:
        """As `timed_whole`, with enough pairs to be told of the whole model."""
        if self.measure is not compare:
            return self.timed_whole(what, dense, packed, seconds)
        longer = replace(self, measure=partial(compare, enough=PAIRS_OF_WHOLE))
        return longer.timed_whole(what, dense, packed, seconds)

    def knows(self, what: Mapping[str, Any], seconds: float) -> bool:
        """Whether `timed` would take its answer from the cache."""
        return self.cache is not None and self.cache.knows(what, seconds)

    def knows_whole(self, what: Mapping[str, Any], seconds: float) -> bool:
        """Whether `timed_whole` would take its answer from the cache."""
        return self.identity is not None and self.knows({**self.identity, **what}, seconds)

    def mask_digest(self, name: str) -> str:
        """A short name for the mask of a weight."""
        if name not in self.mask_digests:
            self.mask_digests[name] = tensor_digest(self.masks[name])
        return self.mask_digests[name]


def tell_of(failed: list[str], what: str, error: Exception) -> None:
    """Warns of what is left out if it computed something else, and adds it to what failed."""
    if not isinstance(error, Mismatch):
        return
    report = f"; {REPORT}" if error.of_kernel else ""
    words = f"{what} computes something else than the model, and is left out: {error}{report}"
    if words not in failed:
        failed.append(words)
        warnings.warn(words, stacklevel=3)


def tensor_digest(mask: Tensor) -> str:
    """A short name for a bool tensor's content."""
    bits = mask.detach().cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(bits.tobytes()).hexdigest()[:32]


def about_tensor(x: Tensor) -> list[Any]:
    """What of an input a time depends on: shape, strides, dtype, device."""
    return [list(x.shape), list(x.stride()), str(x.dtype), str(x.device)]
