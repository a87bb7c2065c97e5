"""Global sparse momentum: at each step a few weights learn, the others only decay.

With g = dL/dw of the batch, and Q = int((1 - sparsity) · N) of the N weights of the whole model:

    B = 1 where |g · w| is among the Q largest, else 0
    z ← momentum · z + weight_decay · w + B · g
    w ← w - lr · z

B is another at each step, and nothing is removed while training: a weight that is left out may be
taken in again. A weight that is left out again and again decays by about
1 - lr · weight_decay / (1 - momentum) a step, to almost nothing; then cutting it costs nothing.
Weights that take turns stay, and they may be more than Q: what the cut takes of these costs
accuracy. The findings say how many have not decayed.
"""

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparse_ops._selection import keep_only_, kth_smallest, parts
from sparse_ops.masks import Masks, prunable
from sparse_ops.training.decay import left_over
from sparse_ops.training.evaluation import nonzero
from sparse_ops.training.figures import kept_by_tensor
from sparse_ops.training.magnitude import cut_, largest, smallest_kept
from sparse_ops.training.method import Epoch, Settings, SparsityMethod, check_sparsity, share
from sparse_ops.training.schedules import Course

_log = logging.getLogger(__name__)

# The authors' schedules leave 3e-4 of a weight (ResNet-56) and 2e-9 (LeNets). What is left of all
# that are cut together is many times what is left of one.
TOO_MUCH = 1e-2


@dataclass
class GSM(SparsityMethod):
    """Lets the loss move only the weights with the largest |g · w|; start from a trained model.

    The weight decay has to be that of the optimizer, in its momentum: `torch.optim.SGD` does so,
    AdamW does not, and learns no zeros. And it needs steps: at the authors' settings 30,000 or so.
    Before the first one the log says what an inactive weight will have decayed to; where that is
    more than a hundredth the cut will cost accuracy, and there is a warning. In fewer steps take
    more decay and less momentum, at the same lr / (1 - momentum); `shortened` finds them.

    Attributes:
        sparsity: fraction of the weights to remove at the end, in [0, 1); what is left of it is the
            fraction that learns at each step.

    Source: Ding et al., NeurIPS 2019, arXiv:1909.12778. The authors' code takes in every matrix,
    embeddings too; these are left alone here, as everywhere in this library.
    """

    # Those of the authors for LeNets.
    settings: ClassVar[Settings] = Settings(
        lr=1e-2, momentum=0.99, weight_decay=5e-4, nesterov=True
    )

    sparsity: float = 0.9
    _active: int = field(init=False, repr=False, compare=False, default=0)
    _total: int = field(init=False, repr=False, compare=False, default=0)
    _undecided: Tensor | None = field(init=False, repr=False, compare=False, default=None)
    _steps: int = field(init=False, repr=False, compare=False, default=0)
    _learned: float = field(init=False, repr=False, compare=False, default=0.0)
    left_over: float | None = field(init=False, repr=False, compare=False, default=None)
    _alive: int | None = field(init=False, repr=False, compare=False, default=None)
    # Not a field: it is no part of the method's state.
    _scores = None

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)

    def prepare(self, model: nn.Module) -> None:
        """Counts the weights.

        Raises:
            ValueError: the model has no weights to prune, or none would learn.
        """
        total = self._total = sum(weight.numel() for weight in prunable(model).values())
        self._active = share(total, 1 - self.sparsity)
        self._undecided, self._scores = None, None
        # Not a field: it is no part of the state that a checkpoint keeps.
        self._cut: dict[str, float] = {}
        self._steps, self._learned, self.left_over, self._alive = 0, 0.0, None, None
        if self._active < 1:
            raise ValueError(
                f"sparsity {self.sparsity} of the model's {total} weights of Conv2d and Linear "
                "leaves none to learn"
            )

    def foresee(self, model: nn.Module, optimizer: torch.optim.Optimizer, course: Course) -> None:
        """Computes what is left of a weight that is inactive from some early step on."""
        mine = {id(weight) for weight in prunable(model).values()}
        found = []
        for group in optimizer.param_groups:
            if not any(id(p) in mine for p in group["params"]) or "momentum" not in group:
                continue
            settings = group["momentum"], group["weight_decay"], group["nesterov"]
            found.append(left_over(course.rates(group["lr"]), *settings))
        if not found:
            _log.warning(
                "GSM is for torch.optim.SGD, got %s: whether weights decay is not known",
                type(optimizer).__name__,
            )
            return
        self.left_over = max(found)
        if not self.sparsity:
            return
        words = "an inactive weight decays to %.2g of its size in the %s steps of this run"
        told = self.left_over, f"{course.epochs * (course.steps or 0):,}"
        if self.left_over <= TOO_MUCH or not course.epochs:
            _log.info(words, *told)
            return
        _log.warning(
            words
            + ", which is more than %g: the cut will cost accuracy. Take more epochs, smaller "
            "batches, or more weight decay (with less momentum, at the same lr / (1 - momentum))",
            *told,
            TOO_MUCH,
        )

    @torch.no_grad()
    def after_backward(self, model: nn.Module) -> None:
        pairs = [(w, w.grad) for w in prunable(model).values() if w.grad is not None]
        if not pairs:
            return
        scores = self._room(pairs)
        for (weight, gradient), score in zip(pairs, scores, strict=True):
            torch.mul(weight, gradient, out=score).abs_()
        total = sum(score.numel() for score in scores)
        cut = kth_smallest(scores, total - min(self._active, total) + 1)
        for (_, gradient), score in zip(pairs, scores, strict=True):
            for values, sizes in parts(gradient, score):
                keep_only_(values, sizes >= cut)
        # All tie when fewer than Q scores are above zero: then every weight learns in this step.
        every = (cut == 0).long()
        self._undecided = every + (0 if self._undecided is None else self._undecided)
        self._steps += 1

    def _room(self, pairs: list[tuple[nn.Parameter, Tensor]]) -> list[Tensor]:
        """Memory for the scores, laid out as the weights; kept from step to step."""
        if (
            self._scores is None
            or not all(
                s.shape == w.shape and s.stride() == w.stride() and s.device == w.device
                for s, (w, _) in zip(self._scores, pairs, strict=False)
            )
            or len(self._scores) != len(pairs)
        ):
            self._scores = [torch.empty_like(w, requires_grad=False) for w, _ in pairs]
        return self._scores

    def end_epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: Epoch) -> bool:
        if self.sparsity and self._undecided is not None and int(self._undecided):
            _log.info(
                "epoch %d: every weight learned in %d steps, for want of %d with |g · w| above 0",
                epoch.number,
                int(self._undecided),
                self._active,
            )
        undecided = 0 if self._undecided is None else int(self._undecided)
        if self._steps:
            active = self._active * (self._steps - undecided) + self._total * undecided
            self._learned = active / (self._steps * self._total)
        self._undecided, self._steps = None, 0
        # About a millisecond for LeNet-300-100, a third of a step.
        masks = largest(model, self.sparsity)
        self._cut = {"threshold": smallest_kept(model, masks), **kept_by_tensor(masks)}
        return True

    def figures(self) -> dict[str, float | str]:
        """The mean share of the weights that learned in a step; ties with the last one left out.

        And what the cut would be now: its threshold, and what it would keep of each tensor.
        """
        return {"active": self._learned, **self._cut}

    def findings(self) -> dict[str, Any]:
        return {"inactive_weights_decay_to": self.left_over, "weights_not_decayed": self._alive}

    def finalize(self, model: nn.Module) -> Masks:
        self._scores = None
        self._alive = sum(nonzero(weight) for weight in prunable(model).values())
        masks = cut_(model, self.sparsity)
        kept = sum(int(mask.sum()) for mask in masks.values())
        if self._alive > kept and (self.left_over or 0.0) <= TOO_MUCH:
            _log.info(
                "%s weights have not decayed, and the cut keeps %s: the others, which learned by "
                "turns, go with what they have learned",
                f"{self._alive:,}",
                f"{kept:,}",
            )
        return masks
