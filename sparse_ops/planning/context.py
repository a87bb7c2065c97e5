"""Context: what all steps of one planning share, and how they measure."""

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
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
from sparse_ops.planning.images import first_images, images_of
from sparse_ops.planning.measure import MUCH_TOO_LATE, PAIRS_OF_WHOLE, Comparison, compare
from sparse_ops.planning.verify_model import Reference, check_against

# What two models take that are compared once, the packed one no slower, in calls of the dense one.
CALLS_OF_ALL = 4

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
        few: what is enough of the example to compare models on; () is all of it.
        whole: all of the example, where `example` is the part of it that forms are timed on; () is
            the same.
        call_s: seconds that a call of the dense model takes with all of the example, about.
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
    few: tuple[Any, ...] = ()
    whole: tuple[Any, ...] = ()
    call_s: float = 0.0

    @cached_property
    def reference(self) -> Reference:
        """What packed models are compared with."""
        return Reference(self.dense, self.few or self.example)

    def check(self, packed: nn.Module) -> None:
        """Compares a packed model with the dense one.

        Raises:
            Mismatch: it computes something else.
        """
        check_against(self.reference, packed)

    @property
    def left_s(self) -> float:
        """The seconds that are left."""
        return self.ends - time.perf_counter()

    def has_calls(self, calls: float) -> bool:
        """Whether there is time for so many calls of the dense model, as it is timed here, and to
        compare the whole on all of the example."""
        if self.measure is not compare:
            return True
        return self.left_s >= self.needs_s(calls)

    def needs_s(self, calls: float) -> float:
        """The seconds of so many calls of the dense model here, and of comparing the whole."""
        return (calls / self.scale + (CALLS_OF_ALL if self.is_part else 0.0)) * self.call_s

    def with_call(self, forms_ms: Mapping[str, float]) -> "Context":
        """The same where the dense model was timed: in these forms, milliseconds of all images."""
        if not forms_ms:
            return self
        timed = replace(self, call_s=min(forms_ms.values()) / 1e3)
        timed.__dict__["reference"] = self.reference
        return timed

    @property
    def is_part(self) -> bool:
        """Whether forms are timed on a part of the example."""
        return bool(self.whole) and self.whole is not self.example

    @property
    def scale(self) -> float:
        """How many times as many images all of the example has as what forms are timed on."""
        return images_of(self.whole) / images_of(self.example) if self.is_part else 1.0

    def on_part(self, calls: float, seconds: float) -> "Context":
        """The same with no more images than so many calls of the dense model have time for."""
        most = images_of(self.example)
        count = 1
        while 2 * count <= most and 2 * count * calls * self.call_s <= seconds * most:
            count *= 2
        enough = 2 * count > most or self.call_s <= 0 or self.measure is not compare
        few = () if enough else first_images(self.example, max(count, images_of(self.few)))
        if enough or images_of(few) >= most:
            return self
        about = None if self.identity is None else {**self.identity, "images": images_of(few)}
        part = replace(self, example=few, whole=self.whole or self.example, identity=about)
        # What models are compared on is the same.
        part.__dict__["reference"] = self.reference
        return part

    @cached_property
    def of_all(self) -> "Context":
        """The same with all of the example."""
        if not self.is_part or self.identity is None:
            return self if not self.is_part else replace(self, example=self.whole)
        about = {key: value for key, value in self.identity.items() if key != "images"}
        return replace(self, example=self.whole, identity=about)

    def tell_of(self, what: str, error: Exception) -> None:
        """Warns of what is left out if it computed something else, and keeps it for the plan."""
        tell_of(self.failed, what, error)

    def timed(
        self, what: Mapping[str, Any] | None, dense: Call, packed: Call, seconds: float
    ) -> Comparison:
        """Compares two callables, or takes from the cache what was measured for `what`."""
        # What is slow may take so many times as long as it is given.
        seconds = max(0.0, min(seconds, self.left_s / MUCH_TOO_LATE))
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
