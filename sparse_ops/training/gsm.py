"""Global sparse momentum: at each step a few weights learn, the others only decay.

With g = dL/dw of the batch, and Q = int((1 - sparsity) · N) of the N weights of the whole model:

    B = 1 where |g · w| is among the Q largest, else 0
    z ← momentum · z + weight_decay · w + B · g
    w ← w - lr · z

B is another at each step, and nothing is removed while training: a weight that is left out may be
taken in again. A weight that is left out again and again decays by about
1 - lr · weight_decay / (1 - momentum) a step, to almost nothing; then cutting it costs nothing.
"""

import logging
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparse_ops._selection import keep_only_, kth_smallest, parts
from sparse_ops.masks import Masks, prunable
from sparse_ops.training.magnitude import cut_
from sparse_ops.training.method import Epoch, Settings, SparsityMethod, check_sparsity, share

_log = logging.getLogger(__name__)


@dataclass
class GSM(SparsityMethod):
    """Lets the loss move only the weights with the largest |g · w|; start from a trained model.

    Needs many steps at a high momentum: see `settings`. The weight decay has to be that of the
    optimizer, in its momentum: `torch.optim.SGD` does so, AdamW does not, and learns no zeros.

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
    _undecided: Tensor | None = field(init=False, repr=False, compare=False, default=None)
    # Not a field: it is no part of the method's state.
    _scores = None

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)

    def prepare(self, model: nn.Module) -> None:
        """Counts the weights.

        Raises:
            ValueError: the model has no weights to prune, or none would learn.
        """
        total = sum(weight.numel() for weight in prunable(model).values())
        self._active = share(total, 1 - self.sparsity)
        self._undecided, self._scores = None, None
        if self._active < 1:
            raise ValueError(
                f"sparsity {self.sparsity} of the model's {total} weights of Conv2d and Linear "
                "leaves none to learn"
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
        self._undecided = None
        return True

    def finalize(self, model: nn.Module) -> Masks:
        self._scores = None
        return cut_(model, self.sparsity)
