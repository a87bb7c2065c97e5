"""HyperSparse with ART, adaptive regularized training, in three phases of one run of `fit`.

    warm-up    plain training, `warm_up` epochs
    ART        + strength · growth^k · the HyperSparse loss in the k-th epoch, counted from 0. After
               each epoch the model's copy, cut to `sparsity`, is evaluated on the training data.
               The last 2 · half_buffer + 1 copies are held; when their mean accuracy is the best so
               far, the middle one becomes the best copy. ART ends when that mean is above the
               running accuracy of the uncut model.
    fine-tune  from the best copy, masked, with an optimizer that has forgotten all; `fine_tune`
               epochs, the learning rate × 0.1 after each of `drops`

The method reads the phase off what has happened, at the end of each epoch, so that a plain loop
around its hooks will do. How long ART takes is not known before: give `fit` epochs enough,
`warm_up + max_epochs + fine_tune` at most; it stops when fine-tuning is over. A `schedule` given to
`fit` sets the learning rate of each step, and overrules what is said of it here.
"""

import copy
import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor, nn

from sparse_ops.masks import Masks, apply_, kth_smallest, prunable
from sparse_ops.training.evaluation import BatchSource, evaluate
from sparse_ops.training.figures import kept_by_tensor
from sparse_ops.training.magnitude import smallest_kept
from sparse_ops.training.masked import MaskedMethod
from sparse_ops.training.method import Epoch, Settings, agreed, check_sparsity, share
from sparse_ops.training.penalties import hypersparse_grad_, l1_loss, l2_loss

_log = logging.getLogger(__name__)


class Copy(TypedDict):
    """A pruned copy of the model after an epoch of ART, counted from 1.

    `mean` is over the buffer in which it was the middle, for the best copy; its own accuracy else.
    """

    epoch: int
    accuracy: float
    mean: float
    state: dict[str, Tensor]
    masks: Masks


def larger(model: nn.Module, sparsity: float) -> Masks:
    """Keeps the weights above the int(N · sparsity)-th smallest, counted from 0; not that one.

    Of N weights that differ, N - int(N · sparsity) - 1 are kept.
    """
    weights = prunable(model)
    if not weights:
        raise ValueError("the model has no weight of a Conv2d or Linear to prune")
    total = sum(weight.numel() for weight in weights.values())
    edge = kth_smallest(list(weights.values()), share(total, sparsity) + 1, of_size=True)
    return {name: weight.detach().abs() > edge for name, weight in weights.items()}


def better(best: Copy | None, recent: list[Copy], half: int, faithful: bool) -> Copy:
    """The best copy, after the last of `recent` has come in."""
    mean = sum(c["accuracy"] for c in recent) / len(recent)
    # The authors compare a mean with the accuracy of one copy, so that a worse mean may win.
    if best is not None and mean <= best["accuracy" if faithful else "mean"]:
        return best
    middle = recent[min(len(recent) - 1, half)]
    return {**middle, "mean": mean}


@dataclass
class HyperSparse(MaskedMethod):
    """Presses weights towards zero, harder with each epoch, until cutting costs no accuracy.

    Attributes:
        sparsity: fraction of the weights of all Conv2d and Linear to remove, in [0, 1).
        strength, growth: of the penalty in the first epoch of ART, and its factor from epoch to
            epoch.
        warm_up, fine_tune: epochs of the first and the last phase.
        drops: after how many epochs of fine-tuning the learning rate drops to a tenth.
        half_buffer: copies on either side of the middle one.
        max_epochs: of ART; then fine-tuning begins with the best copy there is.
        loss: what is added: the HyperSparse loss, or Σ|w| or Σw² to compare it with.
        faithful: compare as the authors' code does, and decay biases and BatchNorm too.

    Source: Glandorf, Kaiser and Rosenhahn, ICCV 2023 workshops, arXiv:2308.07163. Their code has no
    `max_epochs`; and it takes as best copy one whose mean is above the accuracy of the best copy
    by itself, where here, unless `faithful`, means are compared with means.
    """

    settings: ClassVar[Settings] = Settings(lr=0.1, momentum=0.9, weight_decay=1e-4)

    sparsity: float = 0.9
    strength: float = 5e-6
    growth: float = 1.05
    warm_up: int = 60
    fine_tune: int = 160
    drops: tuple[int, ...] = (80, 120)
    half_buffer: int = 1
    max_epochs: int = 200
    loss: Literal["hypersparse", "l1", "l2"] = "hypersparse"
    faithful: bool = False
    phase: str = field(init=False, repr=False, compare=False, default="warm-up")
    _done: int = field(init=False, repr=False, compare=False, default=0)
    _recent: list[Copy] = field(init=False, repr=False, compare=False, default_factory=list)
    _best: Copy | None = field(init=False, repr=False, compare=False, default=None)
    _figures: dict[str, float | str] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _art: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)
    # Not a field: it is no part of the method's state.
    _batches = None

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        if self.loss not in ("hypersparse", "l1", "l2"):
            raise ValueError(f"loss must be hypersparse, l1 or l2, got {self.loss!r}")
        if not (self.strength >= 0 and self.growth > 0):
            raise ValueError(
                f"strength must be 0 or more and growth above 0, "
                f"got {self.strength} and {self.growth}"
            )
        for name, least in (
            ("warm_up", 0),
            ("fine_tune", 0),
            ("half_buffer", 0),
            ("max_epochs", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}")

    def see_data(self, batches: BatchSource) -> None:
        self._batches = batches

    def prepare(self, model: nn.Module) -> None:
        """Begins the warm-up.

        Raises:
            ValueError: the model has no weights to prune, or none would be kept.
        """
        super().prepare(model)
        total = sum(weight.numel() for weight in prunable(model).values())
        if total - share(total, self.sparsity) < 2:
            raise ValueError(
                f"sparsity {self.sparsity} of the model's {total} weights of Conv2d and Linear "
                "leaves none"
            )
        self.phase = "warm-up" if self.warm_up else "ART"
        self._done, self._recent, self._best = 0, [], None
        self._figures, self._art = {}, {}

    def parameter_groups(
        self, model: nn.Module, groups: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        if not self.faithful:
            return groups
        return [{"params": [p for group in groups for p in group["params"]]}]

    @property
    def alpha(self) -> float:
        """The factor on the loss in this epoch; 0 outside of ART."""
        return self.strength * self.growth**self._done if self.phase == "ART" else 0.0

    def penalty(self, model: nn.Module) -> Tensor | None:
        if self.loss == "hypersparse" or self.phase != "ART":
            return None
        return self.alpha * (l1_loss if self.loss == "l1" else l2_loss)(model)

    def after_backward(self, model: nn.Module) -> None:
        super().after_backward(model)
        if self.loss == "hypersparse" and self.phase == "ART":
            hypersparse_grad_(model, self.sparsity, self.alpha)

    def end_epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: Epoch) -> bool:
        super().end_epoch(model, optimizer, epoch)
        self._figures = {"phase": self.phase, "strength": self.alpha}
        self._figures |= kept_by_tensor(self.masks)
        self._done += 1
        if self.phase == "warm-up" and self._done >= self.warm_up:
            self.phase, self._done = "ART", 0
        elif self.phase == "ART" and self._end_art(model, epoch):
            self._take_best(model, optimizer)
            self.phase, self._done = "fine-tune", 0
        elif self.phase == "fine-tune" and self._done in self.drops:
            for group in optimizer.param_groups:
                group["lr"] *= 0.1
        return not (self.phase == "fine-tune" and self._done >= self.fine_tune)

    def figures(self) -> dict[str, float | str]:
        """The phase and the strength of the penalty; what is kept of each tensor.

        In ART the latter is of the epoch's cut copy, whose accuracy and threshold are told, too.
        """
        return self._figures

    def findings(self) -> dict[str, Any]:
        """How many epochs ART took, whether it ended by itself, and at which strength."""
        return self._art

    def finalize(self, model: nn.Module) -> Masks:
        if self.phase != "fine-tune":
            _log.warning(
                "training ended in epoch %d of %s, before fine-tuning", self._done, self.phase
            )
            if self._best is not None:
                self._take_best(model, None)
            else:
                self.impose(model, larger(model, self.sparsity))
        self._recent, self._best = [], None
        return self.masks

    def _end_art(self, model: nn.Module, epoch: Epoch) -> bool:
        """Whether ART is over."""
        if self._batches is None:
            raise RuntimeError("HyperSparse has to be shown its training data: call see_data first")
        pruned = copy.deepcopy(model)
        masks = larger(pruned, self.sparsity)
        apply_(pruned, masks)
        accuracy = agreed(evaluate(pruned, self._batches).top1)
        self._recent.append(
            {
                "epoch": self._done,
                "accuracy": accuracy,
                "mean": accuracy,
                "state": {n: value.detach() for n, value in pruned.state_dict().items()},
                "masks": masks,
            }
        )
        self._recent = self._recent[-(2 * self.half_buffer + 1) :]
        self._best = better(self._best, self._recent, self.half_buffer, self.faithful)
        dense = agreed(epoch.accuracy)
        _log.info(
            "ART epoch %d: strength %.3g, cut %.2f %% right, uncut %.2f %%, best mean %.2f %%",
            self._done,
            self.strength * self.growth ** (self._done - 1),
            100 * accuracy,
            100 * dense,
            100 * self._best["mean"],
        )
        self._figures |= {
            "cut": accuracy,
            "best_cut": self._best["mean"],
            "threshold": smallest_kept(pruned, masks),
            **kept_by_tensor(masks),
        }
        by_itself = self._best["mean"] > dense
        self._art = {
            "art_epochs": self._done,
            "art_ended_by_itself": by_itself,
            "art_strength": self._figures["strength"],
        }
        if not by_itself and self._done >= self.max_epochs:
            _log.warning("ART has not ended by itself in %d epochs", self.max_epochs)
        return by_itself or self._done >= self.max_epochs

    def _take_best(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        assert self._best is not None
        model.load_state_dict(self._best["state"])
        if optimizer is not None:
            forget_(optimizer)
        self.impose(model, self._best["masks"])
        for name, mask in self.masks.items():
            _log.info("%s: %d of %d weights kept", name, int(mask.sum()), mask.numel())
        self._recent, self._best = [], None


def forget_(optimizer: torch.optim.Optimizer) -> None:
    """Puts an optimizer's state back to what it was before its first step."""
    if not isinstance(optimizer, torch.optim.Adagrad):
        # The others make their state in the first step.
        optimizer.state.clear()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["step"].zero_()
            optimizer.state[parameter]["sum"].fill_(group["initial_accumulator_value"])
