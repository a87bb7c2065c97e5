"""Global magnitude pruning: the smallest weights of the whole model go, at once or by and by."""

from dataclasses import dataclass, field

import torch
from torch import nn

from sparse_ops.masks import Masks, apply_, keep_largest, prunable
from sparse_ops.training.figures import kept_by_tensor
from sparse_ops.training.gradual import Span
from sparse_ops.training.masked import MaskedMethod
from sparse_ops.training.method import Epoch, check_sparsity, share


def largest(model: nn.Module, sparsity: float) -> Masks:
    """Removes int(N · sparsity) of the N weights of all Conv2d and Linear, the smallest first.

    Weights as large as the smallest that is kept are all kept.

    Raises:
        ValueError: the model has no such weight.
    """
    scores = {name: weight.detach().abs() for name, weight in prunable(model).items()}
    if not scores:
        raise ValueError("the model has no weight of a Conv2d or Linear to prune")
    total = sum(score.numel() for score in scores.values())
    return keep_largest(scores, total - share(total, sparsity))


def cut_(model: nn.Module, sparsity: float) -> Masks:
    """Removes the smallest weights of the whole model at once, as `largest`, and gives the masks.

    A model that has been cut already is cut again at a lower sparsity to no effect: zeros tie.

    Raises:
        ValueError: sparsity is not in [0, 1), or the model has no such weight.
    """
    check_sparsity(sparsity)
    masks = largest(model, sparsity)
    apply_(model, masks)
    return masks


@torch.no_grad()
def smallest_kept(model: nn.Module, masks: Masks) -> float:
    """The size of the smallest weight that `masks` keep: the threshold of a cut; inf of none."""
    sizes = (torch.where(m, model.get_parameter(n).abs(), torch.inf) for n, m in masks.items())
    return min(float(size.amin()) for size in sizes)


@dataclass
class Magnitude(MaskedMethod):
    """Removes the smallest weights; those that are left go on learning.

    Without `begin` and `end` the cut is after the last epoch. With both it grows as `Span` says;
    begin = end cuts once, then. What has not been cut when training ends is cut then. What has been
    removed never comes back.

    Attributes:
        sparsity: fraction of the weights to remove, in [0, 1).
        begin, end: after how many epochs the cutting begins and is complete.

    Source: Han et al., NeurIPS 2015, arXiv:1506.02626; for the schedule Zhu and Gupta, 2017,
    arXiv:1710.01878, but by epochs and over all layers together.
    """

    sparsity: float = 0.9
    begin: int | None = None
    end: int | None = None
    _now: float = field(init=False, repr=False, compare=False, default=0.0)

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        Span(self.begin, self.end)

    def sparsity_after(self, epochs: int) -> float:
        """How much is removed after so many epochs, but for the cut when training ends."""
        return Span(self.begin, self.end).reached(self.sparsity, epochs)

    def prepare(self, model: nn.Module) -> None:
        super().prepare(model)
        self._now = 0.0
        # Not a field: it is no part of the state that a checkpoint keeps.
        self._figures: dict[str, float | str] = {}
        if (now := self.sparsity_after(0)) > 0:
            self._cut(model, now, None)

    def end_epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: Epoch) -> bool:
        super().end_epoch(model, optimizer, epoch)
        now = self.sparsity_after(epoch.number)
        self._figures = {}
        if now > self._now:
            self._cut(model, now, optimizer)
            self._figures["threshold"] = smallest_kept(model, self.masks)
        if self.begin is not None:
            self._figures |= kept_by_tensor(self.masks, prunable(model))
        return True

    def figures(self) -> dict[str, float | str]:
        """How much is removed; of a gradual cut its threshold, and what is kept of each tensor."""
        return {"removed": self._now, **self._figures}

    def finalize(self, model: nn.Module) -> Masks:
        if not self.masks or self._now < self.sparsity:
            self._cut(model, self.sparsity, None)
        return self.masks

    def _cut(
        self, model: nn.Module, sparsity: float, optimizer: torch.optim.Optimizer | None
    ) -> None:
        masks = largest(model, sparsity)
        # Where zeros tie with each other, those that are removed stay removed.
        self.impose(model, {n: m & self.masks.get(n, m) for n, m in masks.items()}, optimizer)
        self._now = sparsity
