"""How good a model is, and the forms in which `fit` and `evaluate` take their data."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparse_ops.data import Split, batches
from sparse_ops.masks import weights

# The measure of a weight that is not zero in the SABR code: most penalties leave none exactly so.
SMALL = 1e-5

# Anything that gives (x, labels) each time it is iterated over, such as a DataLoader.
BatchSource = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Evaluation:
    """What a model got right, in eval mode.

    Attributes:
        top1: fraction of the examples whose label has the largest logit.
        top5: fraction whose label is among the five largest; 1 for five classes or fewer.
        loss: mean cross-entropy.
        count: how many examples.
    """

    top1: float
    top5: float
    loss: float
    count: int


def evaluate(model: nn.Module, data: Split | BatchSource, *, batch_size: int = 500) -> Evaluation:
    """Runs `model` over `data` in eval mode; afterwards its modules are in the modes they were in.

    Args:
        model: gives logits (N, classes).
        data: a split, or batches of (x, labels (N,) int64).
        batch_size: of a split.

    Raises:
        ValueError: there are no examples, or logits and labels do not go together.
    """
    device = device_of(model)
    right1 = torch.zeros((), dtype=torch.int64, device=device)
    right5 = torch.zeros_like(right1)
    loss = torch.zeros((), dtype=torch.float64 if device.type != "mps" else None, device=device)
    count = 0
    with eval_mode(model), torch.inference_mode():
        for x, labels in as_batches(data, batch_size, None):
            labels = labels.to(device)
            logits = model(x.to(device))
            check_logits(logits, labels)
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            right1 += best[:, 0].sum()
            right5 += best.sum()
            loss += nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
            count += len(labels)
    if count == 0:
        raise ValueError("there is nothing to evaluate on: the data has no examples")
    return Evaluation(int(right1) / count, int(right5) / count, float(loss) / count, count)


@torch.no_grad()
def small_weights(model: nn.Module) -> float:
    """The fraction of the weights of Conv2d and Linear that are below 1e-5 in size; 0 for none."""
    found = list(weights(model).values())
    small = sum(int((weight.abs() < SMALL).sum()) for weight in found)
    return small / max(1, sum(weight.numel() for weight in found))


def nonzero(weight: Tensor) -> int:
    """How many weights of a tensor have a size of 1e-5 or more."""
    return int((weight.detach().abs() >= SMALL).sum())


@torch.no_grad()
def zeros(model: nn.Module) -> int:
    """How many weights of Conv2d and Linear are exactly zero."""
    return sum(w.numel() - int(w.count_nonzero()) for w in weights(model).values())


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """Raises ValueError unless logits are (N, classes) and labels (N,) of integers."""
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise ValueError(
            "the model must give logits (N, classes) for labels (N,) of integers, "
            f"got {tuple(logits.shape)} for {tuple(labels.shape)} of {labels.dtype}"
        )


def as_batches(
    data: Split | BatchSource, batch_size: int, generator: torch.Generator | None
) -> BatchSource:
    """`data`, if it is batches; a split's batches, in the split's order without a generator."""
    if isinstance(data, Split):
        return batches(data, batch_size, generator, shuffle=generator is not None)
    return data


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is.

    Raises:
        ValueError: the model has no parameters.
    """
    for parameter in model.parameters():
        return parameter.device
    raise ValueError("the model has no parameters")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts each module back into its own mode, not all into that of the outermost."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
