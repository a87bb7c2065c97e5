"""spred: L1, or a group lasso, that any optimizer of smooth losses can minimize.

The weights of the chosen layers are products U · W during the training, and strength · (ΣU² + ΣW²)
is part of the loss; `factors.py` says why that makes zeros. The factors have no weight decay beside
it: decay apart from the gradient, as AdamW's, does not solve the same problem.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sparse_ops.masks import Masks, apply_, prunable, sparsity
from sparse_ops.training.evaluation import BatchSource
from sparse_ops.training.factors import (
    MODES,
    Mode,
    Product,
    factor_masks,
    factorize_,
    factors,
    fold_,
    norms,
    small_groups_cut,
    smallest_groups_cut,
    weight_of,
)
from sparse_ops.training.figures import kept_by_tensor
from sparse_ops.training.followers import Followers, norms_behind
from sparse_ops.training.gradual import Span
from sparse_ops.training.masked import MaskedMethod
from sparse_ops.training.method import Epoch, Settings, check_sparsity, share
from sparse_ops.training.spred_layers import chosen_layers

_log = logging.getLogger(__name__)


@dataclass
class Spred(MaskedMethod):
    """Trains with weights that are products, then removes the smallest groups of each layer.

    A trained model may be given as well as a fresh one: its function is at first as it was.

    Attributes:
        sparsity: fraction of the groups to remove from each layer, or of all of them, in [0, 1):
            int(sparsity · groups), exactly.
        mode: what a group is: one "weight", a "filter" or an input "channel". A filter that is
            removed takes the scale and shift of the BatchNorm behind it along: its output is zero.
        strength: κ; weights are pressed as by an L1 of 2κ.
        scope: whether groups are compared within a "layer", or "global", over all layers.
        gate: for filters, what is a product: the "weight" of the layer, or the scale of the "bn"
            behind it. BatchNorm undoes the size of a filter, so that the penalty shrinks all alike;
            that of a scale it does not, and filters then go by the sizes of their scales. "none":
            nothing is, and there is no penalty: the smallest groups go by magnitude alone, which
            is what spred is to be compared with.
        linear: whether Linear layers take part, but for the last.
        exempt: names of layers to leave dense; default: the first convolution, the 1×1 projections
            of residual networks (by their stride or name), the last Linear. Grouped convolutions
            have no channels of their own, and are left alone in mode "channel".
        begin, end: cut by and by over these epochs, as `Span` says, while the penalty goes on.
        fine_tune: so many of the last epochs are after the cut, without the penalty.
        threshold: cut the groups whose norm is below this instead, however many they are.
        faithful: keep all groups as large as the smallest that is kept, as the authors' code does.

    Source: Ziyin and Wang, ICML 2023, arXiv:2210.01212; groups after the group lasso that the same
    argument gives. Their code lets the optimizer's weight decay be the penalty, and takes in every
    convolution: `exempt=()`.
    """

    settings: ClassVar[Settings] = Settings(lr=0.1, momentum=0.9, weight_decay=0.0)

    sparsity: float = 0.8
    mode: Mode = "weight"
    strength: float = 1e-4
    scope: Literal["layer", "global"] = "layer"
    gate: Literal["weight", "bn", "none"] = "weight"
    linear: bool = False
    exempt: Collection[str] | None = None
    begin: int | None = None
    end: int | None = None
    fine_tune: int = 0
    threshold: float | None = None
    faithful: bool = False
    _before: dict[str, Tensor] = field(init=False, repr=False, compare=False, default_factory=dict)
    _layers: list[str] = field(init=False, repr=False, compare=False, default_factory=list)
    # What is a product, or goes by its size alone: the layers, or the BatchNorms behind them.
    _apart: list[str] = field(init=False, repr=False, compare=False, default_factory=list)
    _kept: Masks = field(init=False, repr=False, compare=False, default_factory=dict)
    _norms: dict[str, str] = field(init=False, repr=False, compare=False, default_factory=dict)
    _now: float = field(init=False, repr=False, compare=False, default=0.0)
    _fine_tuning: bool = field(init=False, repr=False, compare=False, default=False)
    # No fields: the one is gone after the first step, the other is no part of the method's state.
    _followers = None
    _batches = None

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        Span(self.begin, self.end)
        if self.end == 0:
            raise ValueError(
                "end must be 1 or more: before the first epoch there is nothing to go by"
            )
        for name, known in (
            ("mode", MODES),
            ("scope", ("layer", "global")),
            ("gate", ("weight", "bn", "none")),
        ):
            if getattr(self, name) not in known:
                words = f"{', '.join(known[:-1])} or {known[-1]}"
                raise ValueError(f"{name} must be {words}, got {getattr(self, name)!r}")
        if self.gate == "bn" and (self.mode != "filter" or self.linear):
            raise ValueError("gate bn is for mode filter, and not for linear layers")
        if not self.strength >= 0:
            raise ValueError(f"strength must be 0 or more, got {self.strength}")
        if self.fine_tune < 0:
            raise ValueError(f"fine_tune must be 0 or more, got {self.fine_tune}")
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError(f"threshold must be 0 or more, got {self.threshold}")
        if self.threshold is not None and self.begin is not None:
            raise ValueError("threshold is a cut at once: begin and end are for sparsity")
        if isinstance(self.exempt, str):
            raise ValueError(f"exempt must be names of layers, got the one string {self.exempt!r}")

    def see_data(self, batches: BatchSource) -> None:
        self._batches = batches

    @torch.no_grad()
    def prepare(self, model: nn.Module) -> None:
        """Takes the weights apart.

        Raises:
            ValueError: `exempt` names no layer of the model, no layer is left to take part, or
                gate is "bn" and there is none behind one of them.
        """
        super().prepare(model)
        fold_(model)
        self._layers = chosen_layers(
            model, self.exempt, linear=self.linear, grouped=self.mode != "channel"
        )
        self._kept, self._norms, self._now, self._fine_tuning = {}, {}, 0.0, False
        if self._followers is not None:
            self._followers.leave()
            self._followers = None
        self._apart = self._layers
        if self.gate == "bn":
            self._norms = norms_behind(model, self._layers, self._batches)
            self._apart = list(self._norms.values())
        elif self.mode == "filter":
            self._followers = Followers(model, self._layers)
        if self.gate == "none":
            return
        modules = {name: model.get_submodule(name) for name in self._apart}
        self._before = {n: m.get_parameter("weight").clone() for n, m in modules.items()}
        factorize_(model, self._apart, self._product)

    @property
    def _weights(self) -> list[str]:
        """The names of the layers' weights."""
        return [f"{name}.weight" if name else "weight" for name in self._layers]

    @property
    def _product(self) -> Mode:
        """How the products are made: of scales, one by one."""
        return "weight" if self.gate == "bn" else self.mode

    def parameter_groups(
        self, model: nn.Module, groups: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The factors in a group of their own, without weight decay."""
        mine = self._factors(model)
        known = {id(p) for p in mine}
        split = [{**g, "params": [p for p in g["params"] if id(p) not in known]} for g in groups]
        split.append({"params": mine, "weight_decay": 0.0})
        return [group for group in split if group["params"]]

    def penalty(self, model: nn.Module) -> Tensor | None:
        if self._fine_tuning or not self.strength or self.gate == "none":
            return None
        squares = [factor.square().sum() for factor in self._factors(model)]
        return self.strength * torch.stack(squares).sum()

    def after_backward(self, model: nn.Module) -> None:
        super().after_backward(model)
        if self._followers is not None:
            self._norms, self._followers = self._followers.leave(), None

    def after_step(self, model: nn.Module) -> None:
        self._before = {}

    def end_epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: Epoch) -> bool:
        super().end_epoch(model, optimizer, epoch)
        now = Span(self.begin, self.end).reached(self.sparsity, epoch.number)
        last = bool(self.fine_tune) and epoch.number >= epoch.epochs - self.fine_tune
        if last and not self._fine_tuning:
            now, self._fine_tuning = self.sparsity, True
            self._cut(model, now, optimizer)
        elif now > self._now:
            self._cut(model, now, optimizer)
        return True

    def figures(self) -> dict[str, float | str]:
        """The share of the groups that is removed so far; of a cut before the end, by tensor."""
        found: dict[str, float | str] = {"removed": self._now}
        if self.begin is not None or self.fine_tune:
            found |= kept_by_tensor(self._kept, self._weights)
        return found

    def abandon(self, model: nn.Module) -> None:
        if self._followers is not None:
            self._followers.leave()
            self._followers = None
        fold_(model)

    @torch.no_grad()
    def finalize(self, model: nn.Module) -> Masks:
        if self._followers is not None:
            self._followers.leave()
            self._followers = None
        if not self._kept or self._now < self.sparsity:
            self._kept, self._now = self._smallest(model, self.sparsity), self.sparsity
        before, self._before = self._before, {}
        fold_(model)
        for name, value in before.items():
            weight = model.get_submodule(name).get_parameter("weight")
            # What has not learned is as it was before it was taken apart, to the last bit.
            product = Product(self._product)
            unmoved = weight == product(*product.right_inverse(value))
            weight.copy_(torch.where(unmoved, value, weight))
        masks, self._kept = self._kept, {}
        apply_(model, masks | self._norm_masks(model, masks))
        every = sum(weight.numel() for weight in prunable(model).values())
        removed = sum(int((~mask).sum()) for mask in masks.values())
        _log.info(
            "%.2f %% of the weights of %d layers removed, %.2f %% of all",
            100 * sparsity(masks),
            len(masks),
            100 * removed / every,
        )
        return masks

    def _factors(self, model: nn.Module) -> list[nn.Parameter]:
        apart = [] if self.gate == "none" else self._apart
        return [f for name in apart for f in factors(model.get_submodule(name))]

    def _cut(self, model: nn.Module, level: float, optimizer: torch.optim.Optimizer) -> None:
        """Removes the smallest groups, from now on."""
        self._kept, self._now = self._smallest(model, level), level
        behind = self._norm_masks(model, self._kept)
        if self.gate == "bn":
            scales = {name: mask for name, mask in behind.items() if name.endswith(".weight")}
            others = {name: mask for name, mask in behind.items() if name not in scales}
            masks = self._kept | factor_masks(scales, "weight") | others
        elif self.gate == "none":
            masks = self._kept | behind
        else:
            masks = factor_masks(self._kept, self.mode) | behind
        self.impose(model, masks, optimizer)

    @torch.no_grad()
    def _smallest(self, model: nn.Module, level: float) -> Masks:
        """Masks of the layers' weights, without the smallest groups; those gone stay gone."""
        names = self._weights
        sources = dict(zip(names, self._apart, strict=True))
        sizes = {
            n: norms(weight_of(model.get_submodule(s)), self._product) for n, s in sources.items()
        }
        for name, mask in self._kept.items():
            # The least of all, so that they go first.
            sizes[name][~(norms(mask.float(), self.mode) > 0)] = -1.0
        counts: dict[str, int] | int = {n: share(len(s), level) for n, s in sizes.items()}
        if self.scope == "global":
            counts = share(sum(len(size) for size in sizes.values()), level)
        shapes = {
            n: weight_of(model.get_submodule(s)).shape
            for n, s in zip(names, self._layers, strict=True)
        }
        if self.threshold is not None:
            return small_groups_cut(sizes, shapes, self.mode, self.threshold)
        return smallest_groups_cut(sizes, shapes, self.mode, counts, ties=self.faithful)

    def _norm_masks(self, model: nn.Module, masks: Masks) -> Masks:
        """Masks of the scale and shift behind each filter that is removed."""
        found = {}
        for name, norm in self._norms.items():
            alive = masks[f"{name}.weight" if name else "weight"].flatten(1).any(1)
            for parameter in ("weight", "bias"):
                if getattr(model.get_submodule(norm), parameter) is not None:
                    found[f"{norm}.{parameter}"] = alive
        return found
