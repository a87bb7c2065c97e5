"""SABR: an L1 penalty for each tensor that grows until validation accuracy gives way.

The loss is that of the task plus Σ strength_l · Σ|W_l| over the weights of every Conv2d, Linear and
BatchNorm, at first strength_l = strength · std(W_l). After an epoch with accuracy a on the
validation data, and the best one so far:

    best - a > tolerance   strength_l ← strength_l / decrease, count_l ← count_l + 1; and if some
                           count is `patience` or more, the tensor with the fewest weights of
                           1e-5 or more is frozen: nothing moves it any more
    otherwise              strength_l ← strength_l · increase, count_l ← 0

for the tensors that are not frozen. Training ends when all are. Then in each tensor the weights
below theta · std(the weights of gamma · std(W_l) or more) are removed. All std divide by n.
"""

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from sparse_ops._selection import picked
from sparse_ops.masks import PRUNABLE, Masks, apply_
from sparse_ops.training.evaluation import nonzero
from sparse_ops.training.figures import by_tensor, kept_by_tensor
from sparse_ops.training.method import Epoch, Settings, SparsityMethod, agreed

_log = logging.getLogger(__name__)


def std_threshold(weight: Tensor, theta: float, gamma: float) -> Tensor:
    """theta · std(m), where m are the weights with |w| >= gamma · std(weight); 0-d."""
    weight = weight.detach()
    whole = weight.std(unbiased=False)
    large = picked(weight, weight.abs() >= gamma * whole)
    return theta * (large.std(unbiased=False) if large.numel() else whole)


def double_softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of probabilities that are taken for logits, as the authors trained.

    Never below ln(e + classes - 1) - 1, and flat near it: the penalty weighs more than it seems to.
    """
    return nn.functional.cross_entropy(logits.softmax(1), labels)


@dataclass
class SABR(SparsityMethod):
    """Trades accuracy for sparsity, tensor by tensor; how sparse is what comes out of it.

    Start from a trained model, and give `fit` a `validation` split; without one the accuracy on the
    training data, as it was while learning, stands in for it. Dropout is off during the run.

    Attributes:
        strength: of the penalty at first, in units of 1 / std of the tensor.
        increase, decrease: factors on the penalty after a good and after a bad epoch.
        tolerance: how far accuracy may fall below the best, as a fraction of 1.
        patience: after how many bad epochs in a row tensors are frozen, one an epoch.
        theta, gamma: of the cut; the authors' for VGG11. For MobileNetV2: 0.05 and 0.025.
        epsilon: cut below this size instead, in every tensor.
        faithful: take in every parameter that has "weight" in its name, whatever it is of.

    Source: the code published as SABR, sparsity-accuracy balanced regularization. The authors train
    with `torch.optim.Adam(groups, lr=1e-4)` and `double_softmax_cross_entropy`; here both are up to
    the caller of `fit`. They freeze by `requires_grad`, under which Adam's momentum may go on
    moving a tensor; here a frozen tensor has no gradient, and stays as it is.
    """

    settings: ClassVar[Settings] = Settings(lr=0.01, momentum=0.9, weight_decay=0.0)
    watches: ClassVar[bool] = True

    strength: float = 5e-4
    increase: float = 1.15
    decrease: float = 1.2
    tolerance: float = 0.007
    patience: int = 2
    theta: float = 0.2
    gamma: float = 0.1
    epsilon: float | None = None
    faithful: bool = False
    strengths: dict[str, float] = field(init=False, repr=False, compare=False, default_factory=dict)
    bad_epochs: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)
    frozen: list[str] = field(init=False, repr=False, compare=False, default_factory=list)
    cuts: dict[str, float] = field(init=False, repr=False, compare=False, default_factory=dict)
    _best: float | None = field(init=False, repr=False, compare=False, default=None)
    _dropout: dict[str, float] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("strength", "tolerance", "theta", "gamma"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("increase", "decrease", "patience"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.epsilon is not None and not self.epsilon >= 0:
            raise ValueError(f"epsilon must be 0 or more, got {self.epsilon}")

    @torch.no_grad()
    def prepare(self, model: nn.Module) -> None:
        """Sets the first strengths by the weights as they are, and turns dropout off.

        Raises:
            ValueError: the model has no Conv2d or Linear.
        """
        tensors = self._tensors(model)
        self.strengths = {n: self.strength * float(_std(w)) for n, w in tensors.items()}
        self.bad_epochs = dict.fromkeys(tensors, 0)
        self.frozen, self._best, self.cuts = [], None, {}
        # Not a field: it is no part of the state that a checkpoint keeps.
        self._kept: dict[str, float] = {}
        self._dropout = {n: m.p for n, m in model.named_modules() if isinstance(m, _DropoutNd)}
        for name in self._dropout:
            _set_dropout(model, name, 0.0)

    def penalty(self, model: nn.Module) -> Tensor | None:
        parameters = dict(model.named_parameters())
        terms = []
        for name, strength in self.strengths.items():
            weight = parameters[name]
            # A frozen tensor's term is a constant.
            size = (weight.detach() if name in self.frozen else weight).abs().sum()
            terms.append(strength * size)
        return torch.stack(terms).sum()

    def after_backward(self, model: nn.Module) -> None:
        if self.frozen:
            parameters = dict(model.named_parameters())
            for name in self.frozen:
                # None and not zero: optimizers pass over it, momentum, decay and all.
                parameters[name].grad = None

    def end_epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: Epoch) -> bool:
        measured = epoch.accuracy if epoch.validation is None else epoch.validation.top1
        if epoch.validation is None and self._best is None:
            _log.warning("no validation was given: the penalties follow the training accuracy")
        self.adapt(model, agreed(measured))
        self._kept = kept_by_tensor(self._masks_now(model))
        return len(self.frozen) < len(self.strengths)

    def adapt(self, model: nn.Module, accuracy: float) -> None:
        """Changes the strengths after an epoch, and may freeze one tensor."""
        best = accuracy if self._best is None else self._best
        bad = best - accuracy > self.tolerance
        learning = [name for name in self.strengths if name not in self.frozen]
        for name in learning:
            if bad:
                self.strengths[name] /= self.decrease
                self.bad_epochs[name] += 1
            else:
                self.strengths[name] *= self.increase
                self.bad_epochs[name] = 0
        if bad and any(self.bad_epochs[name] >= self.patience for name in learning):
            left = {n: nonzero(model.get_parameter(n)) for n in learning}
            chosen = min(left, key=left.__getitem__)
            self.frozen.append(chosen)
            _log.info("%s is frozen, with %d weights that are not zero", chosen, left[chosen])
        self._best = max(best, accuracy)

    def figures(self) -> dict[str, float | str]:
        """How many tensors are frozen, which was last, and the penalties of the next epoch.

        And, tensor by tensor, what the cut would be now: its threshold, and what it would keep.
        """
        found: dict[str, float | str] = {"frozen": len(self.frozen)}
        if self.frozen:
            found["last_frozen"] = self.frozen[-1]
        learning = [value for name, value in self.strengths.items() if name not in self.frozen]
        if learning:
            found |= {"least_strength": min(learning), "most_strength": max(learning)}
        found |= by_tensor("strength", self.strengths)
        return found | by_tensor("threshold", self.cuts) | self._kept

    def findings(self) -> dict[str, Any]:
        """What was frozen, in order, and what each tensor was cut at."""
        return {"frozen": list(self.frozen), "thresholds": dict(self.cuts)}

    def abandon(self, model: nn.Module) -> None:
        """Turns dropout on again."""
        for name, p in self._dropout.items():
            _set_dropout(model, name, p)
        self._dropout = {}

    def finalize(self, model: nn.Module) -> Masks:
        masks = self._masks_now(model)
        for name, mask in masks.items():
            _log.info(
                "%s: %d of %d weights kept, cut at %.3g, std %.3g",
                name,
                int(mask.sum()),
                mask.numel(),
                self.cuts[name],
                float(_std(model.get_parameter(name))),
            )
        apply_(model, masks)
        self.abandon(model)
        return masks

    @torch.no_grad()
    def _masks_now(self, model: nn.Module) -> Masks:
        """The masks of a cut now; at what each tensor is cut is in `cuts`."""
        masks = {}
        for name, weight in self._tensors(model).items():
            cut = (
                std_threshold(weight, self.theta, self.gamma)
                if self.epsilon is None
                else torch.full_like(weight.detach().sum(), self.epsilon)
            )
            masks[name] = weight.abs() >= cut
            self.cuts[name] = float(cut)
        return masks

    def _tensors(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """What is penalized and cut, in order of definition."""
        kinds = (*PRUNABLE, _BatchNorm)
        modules = dict(model.named_modules())
        if not any(isinstance(module, PRUNABLE) for module in modules.values()):
            raise ValueError("the model has no weight of a Conv2d or Linear to prune")
        found = {}
        for name, parameter in model.named_parameters():
            owner, _, last = name.rpartition(".")
            if (last == "weight" and isinstance(modules[owner], kinds)) or (
                self.faithful and "weight" in name
            ):
                found[name] = parameter
        return found


def _std(weight: Tensor) -> Tensor:
    return weight.detach().std(unbiased=False)


def _set_dropout(model: nn.Module, name: str, p: float) -> None:
    module = model.get_submodule(name)
    assert isinstance(module, _DropoutNd)
    module.p = p
