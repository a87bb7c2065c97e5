"""Recognising: the regularity of a layer's zeros, in words."""

from torch import Tensor

from sparse_ops.patterns import Channels, Periodic

# Of so many neighbouring inputs, as many are kept everywhere; of fewer groups it may be chance.
GROUPS, LEAST_GROUPS = (4, 8, 16, 32), 16
# The sides of blocks.
SIDES = (64, 32, 16, 8, 4, 2, 1)


def describe_zeros(mask: Tensor) -> str:
    """What is regular in a mask (O, I, ...): "periodic, period 8, one kernel whole", say.

    The first of these that fits: nothing left; nothing zero; periodic; whole channels; N:M along
    the inputs; blocks; whole kernels, of more than one weight; unstructured. Channels and kernels
    that are wholly zero are counted beside.
    """
    if not bool(mask.any()):
        return "no weight left"
    if bool(mask.all()):
        return "no zeros"
    kernels = mask.flatten(2).any(2) if mask.dim() > 2 else mask
    outputs, inputs = int((~kernels.any(1)).sum()), int((~kernels.any(0)).sum())
    parts = []
    if (pattern := Periodic.recognise(mask)) is not None:
        taps = pattern.kernel_size[0] * pattern.kernel_size[1]
        whole = sum(len(support) == taps for support in pattern.supports)
        words = f"periodic, period {pattern.period}"
        return f"{words}, {whole} of them whole" if whole else words
    if outputs:
        parts.append(f"{outputs} dead filters")
    if inputs:
        parts.append(f"{inputs} dead inputs")
    if Channels.recognise(mask) is not None:
        return ", ".join(parts)
    if (shape := _ratio(mask) or _blocks(mask)) is not None:
        return ", ".join([*parts, shape])
    if mask[0, 0].numel() > 1:
        alive = mask[kernels]
        zero = int((~kernels).sum()) / kernels.numel()
        if bool(alive.all()):
            return ", ".join([*parts, f"whole kernels ({zero:.0%})"])
        if zero:
            parts.append(f"{zero:.0%} of the kernels wholly zero")
    return ", ".join([*parts, "unstructured"])


def _ratio(mask: Tensor) -> str | None:
    """ "2:4", say: of every 4 neighbouring inputs of a filter, at each tap, 2 are kept."""
    alive = mask.flatten(2)[mask.flatten(1).any(1)] if mask.dim() > 2 else mask[mask.any(1)]
    for size in GROUPS:
        if mask.shape[1] % size or alive.numel() < LEAST_GROUPS * size:
            continue
        kept = alive.unflatten(1, (-1, size)).sum(2)
        most = int(kept.max())
        if most < size and bool((kept == most).all()):
            return f"{most}:{size}"
    return None


def _blocks(mask: Tensor) -> str | None:
    """ "blocks of 4×4", say, of outputs and inputs, kernels whole: the largest that fit."""
    kernels = mask if mask.dim() == 2 else mask.flatten(2).any(2)
    if mask.dim() > 2 and not bool(mask.flatten(2)[kernels].all()):
        return None
    outputs, inputs = kernels.shape
    sizes = [(o, i) for o in SIDES for i in SIDES if outputs % o == 0 == inputs % i and o * i > 1]
    for o, i in sorted(sizes, key=lambda size: -size[0] * size[1]):
        # Most masks have no blocks, and a corner of them shows it.
        if _are_blocks(kernels[: 2 * o, : 2 * i], o, i) and _are_blocks(kernels, o, i):
            return f"blocks of {o}×{i}"
    return None


def _are_blocks(kernels: Tensor, o: int, i: int) -> bool:
    """Whether all of each block of o outputs and i inputs is kept, or nothing of it."""
    kept = kernels.unflatten(1, (-1, i)).unflatten(0, (-1, o)).sum((1, 3))
    return bool(((kept == 0) | (kept == o * i)).all())
