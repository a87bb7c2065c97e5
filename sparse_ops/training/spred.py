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
from sparse_ops.training.factors import (
    MODES,
    Mode,
    Product,
    factor_masks,
    factorize_,
    factors,
    fold_,
    norms,
    smallest_groups_cut,
)
from sparse_ops.training.followers import Followers
from sparse_ops.training.masked import MaskedMethod
from sparse_ops.training.method import Epoch, Settings, check_sparsity, share

_log = logging.getLogger(__name__)

# Parts of the names that residual networks give to their projections.
_SHORTCUTS = {"shortcut", "downsample", "projection"}


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
        linear: whether Linear layers take part, but for the last.
        exempt: names of layers to leave dense; default: the first convolution, the 1×1 projections
            of residual networks (by their stride or name), the last Linear. Grouped convolutions
            have no channels of their own, and are left alone in mode "channel".
        fine_tune: so many of the last epochs are after the cut, without the penalty.
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
    linear: bool = False
    exempt: Collection[str] | None = None
    fine_tune: int = 0
    faithful: bool = False
    _before: dict[str, Tensor] = field(init=False, repr=False, compare=False, default_factory=dict)
    _layers: list[str] = field(init=False, repr=False, compare=False, default_factory=list)
    _kept: Masks = field(init=False, repr=False, compare=False, default_factory=dict)
    _norms: dict[str, str] = field(init=False, repr=False, compare=False, default_factory=dict)
    # Not a field: it is gone after the first step.
    _followers = None

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        if self.mode not in MODES:
            raise ValueError(f"mode must be weight, filter or channel, got {self.mode!r}")
        if self.scope not in ("layer", "global"):
            raise ValueError(f"scope must be layer or global, got {self.scope!r}")
        if not self.strength >= 0:
            raise ValueError(f"strength must be 0 or more, got {self.strength}")
        if self.fine_tune < 0:
            raise ValueError(f"fine_tune must be 0 or more, got {self.fine_tune}")
        if isinstance(self.exempt, str):
            raise ValueError(f"exempt must be names of layers, got the one string {self.exempt!r}")

    @torch.no_grad()
    def prepare(self, model: nn.Module) -> None:
        """Takes the weights apart.

        Raises:
            ValueError: `exempt` names no layer of the model, or no layer is left to take part.
        """
        super().prepare(model)
        fold_(model)
        self._layers = self._chosen(model)
        self._kept, self._norms = {}, {}
        modules = {name: model.get_submodule(name) for name in self._layers}
        self._before = {n: m.get_parameter("weight").clone() for n, m in modules.items()}
        factorize_(model, self._layers, self.mode)
        if self._followers is not None:
            self._followers.leave()
        self._followers = Followers(model, self._layers) if self.mode == "filter" else None

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
        if self._kept or not self.strength:
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
        if self.fine_tune and not self._kept and epoch.number >= epoch.epochs - self.fine_tune:
            self._kept = self._cut(model)
            masks = factor_masks(self._kept, self.mode) | self._norm_masks(model, self._kept)
            self.impose(model, masks, optimizer)
        return True

    @torch.no_grad()
    def finalize(self, model: nn.Module) -> Masks:
        if self._followers is not None:
            self._followers.leave()
            self._followers = None
        masks = self._kept or self._cut(model)
        before, self._before = self._before, {}
        fold_(model)
        for name, value in before.items():
            weight = model.get_submodule(name).get_parameter("weight")
            # What has not learned is as it was before it was taken apart, to the last bit.
            product = Product(self.mode)
            unmoved = weight == product(*product.right_inverse(value))
            weight.copy_(torch.where(unmoved, value, weight))
        apply_(model, masks | self._norm_masks(model, masks))
        self._kept = {}
        every = sum(weight.numel() for weight in prunable(model).values())
        removed = sum(int((~mask).sum()) for mask in masks.values())
        _log.info(
            "%.2f %% of the weights of %d layers removed, %.2f %% of all",
            100 * sparsity(masks),
            len(masks),
            100 * removed / every,
        )
        return masks

    def _chosen(self, model: nn.Module) -> list[str]:
        owners = {name.rpartition(".")[0]: weight for name, weight in prunable(model).items()}
        modules = {name: model.get_submodule(name) for name in owners}
        exempt = self._exempt(modules) if self.exempt is None else list(self.exempt)
        known = dict(model.named_modules())
        if unknown := sorted(name for name in exempt if name not in known):
            raise ValueError(f"exempt names layers that the model does not have: {unknown}")
        chosen = []
        for name, module in modules.items():
            takes_part = self.linear or isinstance(module, nn.Conv2d)
            if self.mode == "channel" and isinstance(module, nn.Conv2d):
                takes_part = module.groups == 1
            if takes_part and name not in exempt and owners[name].requires_grad:
                chosen.append(name)
        if not chosen:
            kinds = "Conv2d or Linear" if self.linear else "Conv2d"
            raise ValueError(f"the model has no {kinds} to take part, apart from {exempt}")
        return chosen

    def _exempt(self, modules: dict[str, nn.Module]) -> list[str]:
        convolutions = {n: m for n, m in modules.items() if isinstance(m, nn.Conv2d)}
        linears = [name for name in modules if name not in convolutions]
        projections = [
            name
            for name, module in convolutions.items()
            if module.kernel_size == (1, 1)
            and (module.stride != (1, 1) or _SHORTCUTS & set(name.split(".")))
        ]
        return list(dict.fromkeys([*list(convolutions)[:1], *projections, *linears[-1:]]))

    def _factors(self, model: nn.Module) -> list[nn.Parameter]:
        return [f for name in self._layers for f in factors(model.get_submodule(name))]

    @torch.no_grad()
    def _cut(self, model: nn.Module) -> Masks:
        weights = {
            f"{name}.weight" if name else "weight": _weight(model.get_submodule(name))
            for name in self._layers
        }
        groups = {name: len(norms(weight, self.mode)) for name, weight in weights.items()}
        counts: dict[str, int] | int = {n: share(g, self.sparsity) for n, g in groups.items()}
        if self.scope == "global":
            counts = share(sum(groups.values()), self.sparsity)
        return smallest_groups_cut(weights, self.mode, counts, ties=self.faithful)

    def _norm_masks(self, model: nn.Module, masks: Masks) -> Masks:
        """Masks of the scale and shift behind each filter that is removed."""
        found = {}
        for name, norm in self._norms.items():
            alive = masks[f"{name}.weight"].flatten(1).any(1)
            for parameter, _ in model.get_submodule(norm).named_parameters():
                found[f"{norm}.{parameter}"] = alive
        return found


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach()
