"""Part of the training images set aside: what settings and methods may look at while learning."""

from dataclasses import replace

import torch
from torch import Tensor

from sparse_ops.data.split import Split


def hold_out(split: Split, fraction: float, seed: int = 42) -> tuple[Split, Split]:
    """Takes as large a share of each class out of a split, at random, seeded.

    Args:
        split: what to divide.
        fraction: of the images of each class, rounded to whole ones, in (0, 1).
        seed: of the choice.

    Returns:
        (what is left to learn from, what is held out), in the order they were in; the latter's
        images are not augmented.

    Raises:
        ValueError: fraction is out of its range, or nothing would be left of one of the two.
    """
    held = drawn(split.labels.cpu(), fraction, seed).to(split.labels.device)
    left, out = (
        replace(split, images=split.images[chosen], labels=split.labels[chosen])
        for chosen in (~held, held)
    )
    return left, replace(out, augment=None)


def drawn(labels: Tensor, fraction: float, seed: int = 42) -> Tensor:
    """Which of the images with these labels are held out, (N,) bool; arguments as of `hold_out`.

    Raises:
        ValueError: as `hold_out`.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}")
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        held[members[order[: round(len(members) * fraction)]]] = True
    if not bool(held.any()) or bool(held.all()):
        raise ValueError(
            f"of {len(labels)} images, {fraction:g} of each class held out leaves "
            f"{int((~held).sum())} to learn from and {int(held.sum())} to look at"
        )
    return held
