"""Weights as products: V = U · W, whose squares, when kept small, keep V sparse.

    weight     U of V's shape              the penalty tends to zeros among the weights
    filter     U one number for each V[o]      among whole filters (rows, of a Linear)
    channel    U one number for each V[:, i]   among whole input channels

For all u and w with u · w = v, u² + w² is at least 2|v|, when |u| = |w|; for a group with one u it
is 2‖v‖. So κ(ΣU² + ΣW²) in the loss has the minima of 2κ Σ|V| or 2κ Σ‖V_g‖, and is smooth.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparse_ops.masks import Masks

Mode = Literal["weight", "filter", "channel"]
MODES: tuple[Mode, ...] = ("weight", "filter", "channel")


class Product(nn.Module):
    """The parametrization of a weight as u · w.

    A weight that is taken apart is split evenly, |u| = |w| or |u| = ‖w‖, with its signs in w: the
    product is the weight as it was, but for rounding. Zeros stay zeros, and will never learn.
    """

    def __init__(self, mode: Mode) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, u: Tensor, w: Tensor) -> Tensor:
        return u * w

    def right_inverse(self, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.mode == "weight":
            u = v.abs().sqrt()
            return u, v.sign() * u
        u = norms(v, self.mode).sqrt().view(group_shape(v.shape, self.mode))
        return u, torch.where(u > 0, v / u, torch.zeros_like(v))


def group_shape(shape: Iterable[int], mode: Mode) -> tuple[int, ...]:
    """The shape of U, for a V of this shape."""
    if mode == "weight":
        return tuple(shape)
    dim = 0 if mode == "filter" else 1
    return tuple(size if d == dim else 1 for d, size in enumerate(shape))


def norms(weight: Tensor, mode: Mode) -> Tensor:
    """‖V_g‖ of each group, in one row; |v| of each weight."""
    if mode == "weight":
        return weight.abs().flatten()
    return (weight if mode == "filter" else weight.transpose(0, 1)).flatten(1).norm(dim=1)


def factorize_(model: nn.Module, layers: Iterable[str], mode: Mode) -> None:
    """Takes the weights of these layers apart, in place; `module.weight` computes them again."""
    for name in layers:
        parametrize.register_parametrization(model.get_submodule(name), "weight", Product(mode))


# Without gradients torch would leave a plain tensor where a parameter was.
@torch.enable_grad()
def fold_(model: nn.Module) -> None:
    """Makes the weights that `factorize_` took apart plain parameters again, in their places."""
    for name in factorized(model):
        module = model.get_submodule(name)
        parametrize.remove_parametrizations(module, "weight")
        # It comes back as the last parameter; a layer's weight is its first.
        rest = {n: module._parameters.pop(n) for n in list(module._parameters) if n != "weight"}
        module._parameters.update(rest)


def factorized(model: nn.Module) -> list[str]:
    """The names of the layers that `factorize_` has taken apart."""
    return [
        name
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module, "weight")
        and isinstance(module.parametrizations["weight"][0], Product)
    ]


def factors(module: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """U and W of a layer."""
    return (
        module.get_parameter("parametrizations.weight.original0"),
        module.get_parameter("parametrizations.weight.original1"),
    )


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a layer, as it is or as its factors give it."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def factor_masks(weight_masks: Masks, mode: Mode) -> Masks:
    """Masks of U and W, under their names, for masks of the weights of factorized layers.

    With both of them zero nothing learns; with one, the other's gradient would bring it back.
    """
    found = {}
    for name, mask in weight_masks.items():
        prefix = f"{name.removesuffix('weight')}parametrizations.weight.original"
        shape = group_shape(mask.shape, mode)
        found[f"{prefix}0"] = mask if mode == "weight" else _any_of(mask, mode).view(shape)
        found[f"{prefix}1"] = mask
    return found


def _any_of(mask: Tensor, mode: Mode) -> Tensor:
    return norms(mask.float(), mode) > 0


def smallest_groups_cut(
    sizes: Mapping[str, Tensor],
    shapes: Mapping[str, Iterable[int]],
    mode: Mode,
    counts: dict[str, int] | int,
    ties: bool,
) -> Masks:
    """Masks without the smallest groups of V, in a stable order: exactly as many as asked for.

    Args:
        sizes: of the groups of each weight, (groups,), by name.
        shapes: of the weights.
        mode: what the groups are.
        counts: how many groups go of each weight; or of all weights together.
        ties: whether those as large as the smallest that is kept are all kept: it may then be less.
    """
    if isinstance(counts, int):
        pools = [(list(sizes), counts)]
    else:
        pools = [([name], count) for name, count in counts.items()]
    masks = {}
    for names, count in pools:
        flat = torch.cat([sizes[name] for name in names])
        values, order = flat.sort(stable=True)
        kept = torch.ones_like(flat, dtype=torch.bool)
        kept[order[:count]] = False
        if ties and count < len(flat):
            kept |= flat >= values[count]
        for name, part in zip(names, kept.split([len(sizes[n]) for n in names]), strict=True):
            masks[name] = _of_groups(part, shapes[name], mode)
    return masks


def small_groups_cut(
    sizes: Mapping[str, Tensor], shapes: Mapping[str, Iterable[int]], mode: Mode, threshold: float
) -> Masks:
    """Masks without the groups of V that are below `threshold`; those at it are kept."""
    return {n: _of_groups(size >= threshold, shapes[n], mode) for n, size in sizes.items()}


def _of_groups(kept: Tensor, shape: Iterable[int], mode: Mode) -> Tensor:
    """The mask of a weight of which these groups are kept."""
    whole = torch.Size(shape)
    return kept.view(group_shape(whole, mode)).expand(whole).contiguous()
