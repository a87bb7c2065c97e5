"""Recognising: the regularity of a layer's zeros, in words."""

from torch import Tensor

from sparse_ops.patterns import Channels, Periodic


def describe_zeros(mask: Tensor) -> str:
    """What is regular in a mask (O, I, ...): "periodic, period 8, one kernel whole", say.

    The first of these that fits: nothing left; nothing zero; periodic; whole channels; whole
    kernels, of more than one weight; unstructured. Channels and kernels that are wholly zero are
    counted beside.
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
    if mask[0, 0].numel() > 1:
        alive = mask[kernels]
        zero = int((~kernels).sum()) / kernels.numel()
        if bool(alive.all()):
            return ", ".join([*parts, f"whole kernels ({zero:.0%})"])
        if zero:
            parts.append(f"{zero:.0%} of the kernels wholly zero")
    return ", ".join([*parts, "unstructured"])
