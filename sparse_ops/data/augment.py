"""What is done to a batch of images before a model sees it: random crops and flips; normalization.

Random numbers are drawn for a whole batch on the CPU, so that a batch which several processes share
is moved as one process would move it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """A crop of the image's own size out of the image in a frame of zeros, then a flip, or not.

    Attributes:
        pad: width of the frame, in pixels; 0: no crop.
        flip: whether each image is mirrored, left to right, with probability 1/2.

    Raises:
        ValueError: pad is negative.
    """

    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad must be 0 or more, got {self.pad}")

    def draw(self, count: int, generator: torch.Generator | None) -> Tensor:
        """(count, 3), int64: top and left of each crop in the frame, and whether it is mirrored."""
        crops = torch.randint(2 * self.pad + 1, (count, 2), generator=generator)
        mirrored = torch.randint(2, (count, 1), generator=generator)
        return torch.cat([crops, mirrored * int(self.flip)], 1)

    def apply(self, images: Tensor, moves: Tensor) -> Tensor:
        """(N, C, H, W) as drawn in `moves` (N, 3); of the same type, on the same device."""
        N, _, H, W = images.shape
        moves = moves.to(images.device)
        # Where each row and column of the result comes from, in the image without its frame.
        y = torch.arange(H, device=images.device) + moves[:, :1] - self.pad  # (N, H)
        x = torch.arange(W, device=images.device).expand(N, W)
        x = torch.where(moves[:, 2:] == 1, W - 1 - x, x) + moves[:, 1:2] - self.pad  # (N, W)
        inside = (((y >= 0) & (y < H))[:, :, None] & ((x >= 0) & (x < W))[:, None])[:, None]
        y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
        which = torch.arange(N, device=images.device)[:, None, None]
        # Advanced indices on both sides of the slice come first: (N, H, W, C).
        moved = images[which, :, y[:, :, None], x[:, None]].permute(0, 3, 1, 2)
        return moved.masked_fill(~inside, 0)


@dataclass(frozen=True)
class Normalize:
    """Bytes become float32: (x / 255 - mean) / deviation, channel by channel.

    Attributes:
        mean, deviation: one number a channel, of images in [0, 1].

    Raises:
        ValueError: they are not equally many, or a deviation is not above 0.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(m) for m in self.mean))
        object.__setattr__(self, "deviation", tuple(float(d) for d in self.deviation))
        if len(self.mean) != len(self.deviation):
            raise ValueError(
                f"mean and deviation must be equally many, got {self.mean}, {self.deviation}"
            )
        if not all(d > 0 for d in self.deviation):
            raise ValueError(f"deviation must be above 0, got {self.deviation}")

    def apply(self, images: Tensor) -> Tensor:
        """(N, C, H, W), uint8, to float32."""
        mean, deviation = (
            torch.tensor(values, dtype=torch.float32, device=images.device)[:, None, None]
            for values in (self.mean, self.deviation)
        )
        return (images.float() / 255 - mean) / deviation
