"""Deciding: what becomes of each layer of a model, within the time that there is.

One layer of each kind is timed, the kinds with most work first; then the others, as long as there
is time. For those that are left, what is best for the one like them is best.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from sparse_ops.planning import candidates
from sparse_ops.planning.assemble import LayerPlan, weight_name
from sparse_ops.planning.choose import about, activated, decide, with_floor
from sparse_ops.planning.columns import some
from sparse_ops.planning.context import Context
from sparse_ops.planning.masked import Call
from sparse_ops.planning.measure import compare
from sparse_ops.planning.progress import Step

# Of the dense model, as long as it takes to compare the whole with packed layers.
CALLS_AFTER = 5
# Layers get so long in any case.
LEAST_S = 1.0
# Layers are alike if the one keeps no more than so many times the part of the weights of the other.
ALIKE = 1.25
NO_TIME = "no time was left to time it"


class Deciding:
    """Decides about layers, one after the other.

    Attributes:
        left_out: what there was no time for, in words.
    """

    def __init__(
        self,
        context: Context,
        calls: Mapping[str, Call],
        channels_last: bool,
        seconds: float,
        step: Step,
    ) -> None:
        self.context, self.calls, self.step = context, calls, step
        self.channels_last, self.seconds = channels_last, seconds
        self.begun = time.perf_counter()
        # Somebody else's clock takes the time it takes.
        self.ends = float("inf")
        if context.measure is compare:
            # The whole model has to be compared afterwards.
            after = context.ends - context.needs_s(CALLS_AFTER)
            self.ends = min(self.begun + seconds, max(self.begun + LEAST_S, after))
        self.left_out: tuple[str, ...] = ()
        self.count = self.left = 0

    def all(self, layers: Sequence[LayerPlan]) -> list[LayerPlan]:
        """What becomes of the layers, in their order."""
        kinds = self._kinds([layer for layer in layers if not layer.reason])
        kinds.sort(key=lambda own: -sum(each.macs for each in own))
        self.count = self.left = sum(map(len, kinds))
        made: dict[str, LayerPlan] = {}
        took: list[float] = []
        late, alike = [], []
        for number, (first, *_) in enumerate(kinds):
            begun = time.perf_counter()
            if number and self._is_over(begun):
                late.append(first.name)
                made[first.name] = replace(first, reason=NO_TIME)
            else:
                made[first.name] = self._timed(first)
            took.append(time.perf_counter() - begun)
        for (first, *others), seconds in zip(kinds, took, strict=True):
            for layer in others:
                if first.name in late:
                    late.append(layer.name)
                    made[layer.name] = replace(layer, reason=NO_TIME)
                elif time.perf_counter() + seconds < self.ends:
                    made[layer.name] = self._timed(layer)
                else:
                    alike.append(layer.name)
                    made[layer.name] = self._like(layer, made[first.name])
        if late:
            self.left_out += (f"to time {some(late)}",)
        if alike:
            self.left_out += (f"to time layers like others, which are as those: {some(alike)}",)
        return [made.get(layer.name, layer) for layer in layers]

    def _is_over(self, now: float) -> bool:
        late = not self.context.has_calls(CALLS_AFTER)
        return late and now > self.begun + LEAST_S

    def _timed(self, layer: LayerPlan) -> LayerPlan:
        # As much for each; less where the ones before took too long.
        most = self.seconds / self.count
        share = min(most, max(most / 4, (self.ends - time.perf_counter()) / self.left))
        self.left -= 1
        call = self.calls[layer.name]
        return decide(self.context, layer, call, self.channels_last, share, self.step)

    def _kinds(self, layers: Sequence[LayerPlan]) -> list[list[LayerPlan]]:
        """The layers, those alike together."""
        kinds: list[list[LayerPlan]] = []
        keys: list[object] = []
        for layer in layers:
            key = self._key(layer)
            for number, own in enumerate(kinds):
                kept = sorted((own[0].nnz, layer.nnz))
                if keys[number] == key and kept[1] <= ALIKE * kept[0]:
                    own.append(layer)
                    break
            else:
                kinds.append([layer])
                keys.append(key)
        return kinds

    def _key(self, layer: LayerPlan) -> object:
        dense = self._dense(layer)
        mask = self.context.masks[weight_name(layer.name)]
        _, activation = activated(self.context, layer, dense)
        said = about(self.context, layer, dense, self.calls[layer.name].x, activation, False)
        formats = [
            entry.layer.__name__
            for entry in candidates.LAYERS
            if isinstance(dense, entry.layer.DENSE) and entry.layer.refuses(dense, mask) is None
        ]
        return {**said, "mask": None}, formats

    def _dense(self, layer: LayerPlan) -> nn.Module:
        return self.context.base.get_submodule(layer.name)

    def _like(self, layer: LayerPlan, first: LayerPlan) -> LayerPlan:
        """A layer that becomes what one like it does."""
        layer = with_floor(self.context, layer, self.calls[layer.name])
        words = f"as {first.name}, which is like it: {first.reason}"
        return replace(
            layer,
            becomes=first.becomes,
            backend=first.backend,
            activation=first.activation,
            measured=first.measured,
            reason=words,
            refused=first.refused,
            slower=first.slower,
        )
