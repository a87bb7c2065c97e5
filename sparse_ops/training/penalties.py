"""Penalties that make weights small, for anyone's training loop.

    loss = criterion(model(x), y) + strength * hypersparse(model, sparsity)

or, in one pass and without a graph, after `loss.backward()`:

    hypersparse_grad_(model, sparsity, strength)

The HyperSparse loss over the N weights w of a model, a = |w|, has the value 0 and only a gradient.
With a_(j) the j-th smallest, j = int(sparsity · N) counted from 0, and [·] taken as a constant:

    s = [0.6585 / a_(j)]        t = tanh(s · a)
    L = Σa · Σt / [Σt] - Σa
    dL/dw = sign(w) · s · (1 - t²) · Σa / Σt

Weights below a_(j) are pulled towards zero about as by L1, or harder; those well above it hardly.

Source: Glandorf, Kaiser and Rosenhahn, ICCV 2023 workshops, arXiv:2308.07163. Where a_(j) is as
good as nothing beside the largest weight, their code divides by zero; here the penalty is then
zero, which is what the gradient tends to for all weights that are not zero.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sparse_ops._selection import kth_smallest, parts
from sparse_ops.masks import prunable
from sparse_ops.training.method import check_sparsity, share

# arctanh(1/√3), to the four digits of the authors: there the slope of tanh falls fastest.
BEND = 0.6585

# A model stands for the weights of all its Conv2d and Linear.
Weights = nn.Module | Iterable[Tensor]


def hypersparse(weights: Weights, sparsity: float) -> Tensor:
    """The HyperSparse loss: value 0, gradient by autograd. Do not watch it fall.

    `hypersparse_grad_` gives the same gradient in one pass, without a graph, and more exactly: here
    two terms of size 1 cancel each other.

    Args:
        weights: a model, or tensors that are taken together.
        sparsity: which fraction of the weights is to become small, in [0, 1).

    Raises:
        ValueError: sparsity is out of range, or there are no weights.
    """
    tensors = _tensors(weights)
    size = torch.cat([tensor.flatten() for tensor in tensors]).abs()
    size = size.to(torch.promote_types(size.dtype, torch.float32))
    scale = _scale(tensors, sparsity)
    bent = torch.tanh(scale * size)
    total = size.sum()
    ratio = bent.sum() / bent.detach().sum().clamp_min(torch.finfo(bent.dtype).tiny)
    return (scale > 0) * (total * ratio - total)


@torch.no_grad()
def hypersparse_grad_(weights: Weights, sparsity: float, strength: float = 1.0) -> None:
    """Adds strength · the gradient of the HyperSparse loss to each weight's `.grad`.

    To be called between `loss.backward()` and `optimizer.step()`. The threshold is of all weights;
    those that require no gradient get none.

    Args:
        weights: a model, or tensors that are taken together.
        sparsity: which fraction of the weights is to become small, in [0, 1).
        strength: the factor on the loss.

    Raises:
        ValueError: sparsity is out of range, or there are no weights.
    """
    tensors = _tensors(weights)
    scale = _scale(tensors, sparsity)
    tiny = torch.finfo(scale.dtype).tiny
    bent, total = torch.zeros_like(scale), torch.zeros_like(scale)
    for tensor in tensors:
        for (part,) in parts(tensor.detach()):
            size = part.to(scale.dtype).abs()
            total += size.sum()
            bent += _tanh_(size.mul_(scale)).sum()
    factor = strength * scale * total / bent.clamp_min(tiny)
    for tensor in tensors:
        if not tensor.requires_grad:
            continue
        if tensor.grad is None:
            tensor.grad = torch.zeros_like(tensor)
        for part, gradient in parts(tensor.detach(), tensor.grad):
            signs = part.sign().to(scale.dtype)
            slope = _tanh_(part.to(scale.dtype) * scale).square_().neg_().add_(1)
            gradient += slope.mul_(signs).mul_(factor)


def _tanh_(x: Tensor) -> Tensor:
    """tanh in place, as 2σ(2x) - 1: six times as fast on a CPU; exact to a rounding of 1."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def l1_loss(weights: Weights) -> Tensor:
    """Σ|w|, over a model's Conv2d and Linear or the tensors given."""
    return torch.stack([weight.abs().sum() for weight in _tensors(weights)]).sum()


def l2_loss(weights: Weights) -> Tensor:
    """Σw², without a half, over a model's Conv2d and Linear or the tensors given."""
    return torch.stack([weight.square().sum() for weight in _tensors(weights)]).sum()


def _tensors(weights: Weights) -> list[Tensor]:
    found = list(prunable(weights).values() if isinstance(weights, nn.Module) else weights)
    if not found:
        raise ValueError("there are no weights: wanted tensors, or a model with Conv2d or Linear")
    return found


def _scale(tensors: list[Tensor], sparsity: float) -> Tensor:
    """s, of float32 at least, or 0 where the weights are that sparse already."""
    check_sparsity(sparsity)
    count = sum(tensor.numel() for tensor in tensors)
    edge = kth_smallest(tensors, share(count, sparsity) + 1, of_size=True)
    edge = edge.to(torch.promote_types(edge.dtype, torch.float32))
    largest = torch.stack([t.detach().abs().amax().to(edge.dtype) for t in tensors if t.numel()])
    # What is smaller than this beside the largest weight is rounding; 1/edge would be its noise.
    least = torch.finfo(edge.dtype).eps * largest.max()
    return torch.where(edge > least, BEND / edge, torch.zeros_like(edge))
