"""A claim beside a measurement, and the three ways in which one is held against the other."""

from dataclasses import dataclass
from typing import Any

# Standard deviations below the mean, of the 10th percentile of a normal distribution.
TENTH = 1.2816
HOLDS, SHORT, REFUTED, NOT_HERE = "holds", "falls short", "refuted", "cannot be tested here"


@dataclass(frozen=True)
class Finding:
    """One claim beside what was measured.

    Attributes:
        source: whose claim; claim: in our words.
        quantity, unit: what was measured, and in what.
        claimed: the figure; None where the claim is an order or has none.
        measured: ours; low, high: 10th and 90th percentile, where it is a ratio of times.
        verdict: one of the four above; why: in words.
        rows: the measurements it rests on.
    """

    source: str
    claim: str
    quantity: str
    unit: str
    claimed: float | None
    measured: float | None
    low: float | None
    high: float | None
    verdict: str
    why: str
    rows: tuple[str, ...]


def factor_finding(
    source: str, claim: str, quantity: str, claimed: float, measured: float, key: str, why: str = ""
) -> Finding:
    """A factor that was counted, not timed; claims have two figures, so a hundredth is nothing."""
    verdict = HOLDS if measured >= 0.99 * claimed else SHORT
    return Finding(
        source, claim, quantity, "×", claimed, measured, None, None, verdict, why, (key,)
    )


def time_finding(source: str, claim: str, claimed: float, key: str, row: dict[str, Any]) -> Finding:
    """A factor as a ratio of times: it holds if the median reaches it."""
    verdict = HOLDS if row["speedup"] >= claimed else SHORT
    why = (
        f"batch {row['batch']}: {row['dense_ms']:.3f} ms dense ({row['dense_form']}), "
        f"{row['packed_ms']:.3f} ms packed; {row['ideal']:.1f}× fewer operations"
    )
    figures = row["speedup"], row["low"], row["high"]
    return Finding(source, claim, "time", "×", claimed, *figures, verdict, why, (key,))


def order_finding(
    source: str,
    claim: str,
    quantity: str,
    unit: str,
    measured: float,
    why: str,
    keys: tuple[str, ...],
    equal: float = 0.0,
    chance: float | None = None,
) -> Finding:
    """A claim that one thing is better than another: it holds if the figure is above `equal`.

    Args:
        chance: by how much the figure is off by chance, a standard error; then its 10th percentile
            has to be above.
    """
    off = None if chance is None else TENTH * chance
    low, high = (None, None) if off is None else (measured - off, measured + off)
    verdict = HOLDS if (measured if low is None else low) > equal else SHORT
    if low is not None and high is not None and low <= equal <= high:
        why += "; that may be chance"
    return Finding(source, claim, quantity, unit, None, measured, low, high, verdict, why, keys)


def points(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, float]:
    """By how many points the first is more accurate, and its standard error, by the test images."""
    variances = [row["accuracy"] * (1 - row["accuracy"]) / row["tested"] for row in (ours, theirs)]
    return 100 * (ours["accuracy"] - theirs["accuracy"]), 100 * sum(variances) ** 0.5
