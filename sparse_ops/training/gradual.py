"""Cutting by and by: how much is gone after how many epochs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """The epochs over which a sparsity is reached, by a cubic curve that is steep at first.

    After t epochs it is sparsity · (1 - (1 - (t - begin) / (end - begin))³); begin = end: at once.

    Attributes:
        begin, end: after how many epochs the cutting begins and is complete; both or neither.

    Raises:
        ValueError: one of them alone is given, or they are not in order.

    Source: Zhu and Gupta, 2017, arXiv:1710.01878, but by epochs.
    """

    begin: int | None
    end: int | None

    def __post_init__(self) -> None:
        if (self.begin is None) != (self.end is None):
            raise ValueError(f"begin and end go together, got {self.begin} and {self.end}")
        if self.begin is not None and self.end is not None and not 0 <= self.begin <= self.end:
            raise ValueError(f"begin must be in [0, end], got {self.begin} and end {self.end}")

    def reached(self, sparsity: float, epochs: int) -> float:
        """How much of `sparsity` is gone after so many epochs; nothing without a span."""
        if self.begin is None or self.end is None or epochs < self.begin:
            return 0.0
        if epochs >= self.end:
            return sparsity
        left = 1 - (epochs - self.begin) / (self.end - self.begin)
        return sparsity * (1 - left**3)
