"""Masks of published networks: by their layer tables where there are such, else by a rule."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sparse_ops.masks import Masks, apply_, prunable
from sparse_ops.patterns import Periodic
from sparse_ops.training import Predefined, Spred

MakeMasks = Callable[[nn.Module, Tensor], Masks]

# Percent of zeros in each weight of VGG11 after the published cut of SABR.
SABR_VGG11 = (47.22, 87.81, 91.40, 93.51, 95.49, 97.25, 97.23, 98.12, 98.36, 48.55)


def on_pattern(pattern: Periodic) -> MakeMasks:
    """The pattern on all 3×3 convolutions but the first."""

    def make(model: nn.Module, example: Tensor) -> Masks:
        method = Predefined(pattern)
        method.prepare(model)
        return method.finalize(model)

    return make


def smallest(mode: str, level: float) -> MakeMasks:
    """The smallest filters, channels or weights of each layer, BatchNorm's behind filters too.

    Which of them go changes no time, so that nothing has to be trained for that.
    """

    def make(model: nn.Module, example: Tensor) -> Masks:
        method = Spred(level, mode, gate="none")
        method.prepare(model)
        return method.finalize(model)

    return make


def by_layer(percents: Sequence[float]) -> MakeMasks:
    """At random, so many percent of each weight removed, in order of definition."""

    def make(model: nn.Module, example: Tensor) -> Masks:
        weights = prunable(model)
        densities = [1 - percent / 100 for percent in percents]
        return random_masks(model, dict(zip(weights, densities, strict=True)))

    return make


def erk(sparsity: float) -> MakeMasks:
    """At random, layers as dense as Erdős–Rényi–Kernel has them: the larger, the sparser.

    Density ∝ (O + I + kH + kW) / (O · I · kH · kW), at most 1, so that all weights together have
    the sparsity. What global cuts leave of trained networks is closer to it than to one density.
    Source: Evci et al., ICML 2020, arXiv:1911.11134.
    """

    def make(model: nn.Module, example: Tensor) -> Masks:
        weights = prunable(model)
        raw = {name: sum(w.shape) / w.numel() for name, w in weights.items()}
        sizes = {name: w.numel() for name, w in weights.items()}
        wanted = (1 - sparsity) * sum(sizes.values())
        scale = _solve(lambda s: sum(min(1.0, s * raw[n]) * sizes[n] for n in sizes), wanted)
        return random_masks(model, {name: min(1.0, scale * raw[name]) for name in sizes})

    return make


def by_totals(weights_kept: float, macs_kept: float) -> MakeMasks:
    """At random, densities min(1, c · size^-a) with the c and a that meet two published totals.

    For a network of which only the fractions of weights and of multiply-accumulates that are kept
    are known, not those of its layers.

    Raises:
        ValueError: no a between 0 and 2 meets both.
    """

    def make(model: nn.Module, example: Tensor) -> Masks:
        from sparse_ops.report import count_macs

        layers = count_macs(model.eval(), example)
        weights = sum(layer.weights for layer in layers)
        macs = sum(layer.dense for layer in layers)

        def densities(a: float) -> dict[str, float]:
            def kept(c: float) -> float:
                return sum(min(1.0, c * l.weights**-a) * l.weights for l in layers)

            c = _solve(kept, weights_kept * weights)
            return {f"{l.name}.weight": min(1.0, c * l.weights**-a) for l in layers}

        def share(a: float) -> float:
            found = densities(a)
            return sum(found[f"{l.name}.weight"] * l.dense for l in layers) / macs

        if not share(0.0) <= macs_kept <= share(2.0):
            raise ValueError(
                f"macs_kept must be in [{share(0.0):.4f}, {share(2.0):.4f}] for weights_kept "
                f"{weights_kept}, got {macs_kept}"
            )
        low, high = 0.0, 2.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if share(middle) < macs_kept else (low, middle)
        return random_masks(model, densities(low))

    return make


def random_masks(model: nn.Module, densities: dict[str, float], seed: int = 0) -> Masks:
    """Masks that keep exactly round(density · size) weights, at least one, and mask the model."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, weight in prunable(model).items():
        if name in densities:
            keep = max(1, round(densities[name] * weight.numel()))
            kept = torch.randperm(weight.numel(), generator=generator)[:keep]
            mask = torch.zeros(weight.numel(), dtype=torch.bool)
            mask[kept] = True
            masks[name] = mask.reshape(weight.shape)
    apply_(model, masks)
    return masks


def _solve(rising: Callable[[float], float], wanted: float) -> float:
    """The s > 0 at which a rising function has the value wanted, or where it stops to rise."""
    low, high = 0.0, 1.0
    while rising(high) < wanted and high < 1e12:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return high
